"""`ganglion models`: what is published, and publishing models of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ganglion.cli import models_publish
from ganglion.cli.history import History
from ganglion.cli.output import console, make_table, metrics_text, time_text, write_json
from ganglion.core.errors import ModelError
from ganglion.core.resources import format_size
from ganglion.platform import Platform

app = typer.Typer(help="What is published; publish models of your own.")
app.command()(models_publish.publish)
app.command()(models_publish.alias)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """What is published; without a verb, the list."""
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models(json_: AsJson = False) -> None:
    """List models with their newest version, and versions that cannot be used.

    Examples:
        ganglion models list

        ganglion models list --json
    """
    with Platform() as platform:
        root, history = platform.repository.root, History(platform)
        found = [describe_model(history, name) for name in _names(root)]
    if json_:
        write_json(found)
        return
    if not found:
        console().print(
            f"No models in {escape(str(root))}. Publish one with 'ganglion models publish'.", soft_wrap=True
        )
        return
    table = make_table("model", ">newest", ">versions", "aliases", "metrics", ">size", "published", "run")
    table.columns[0].no_wrap = True
    for model in found:
        newest: dict[str, Any] = model["versions"][0] if model["versions"] else {}
        aliases = ", ".join(f"{alias} = {version}" for alias, version in model["aliases"].items())
        table.add_row(
            model["model"], str(newest.get("version", "")), str(len(model["versions"])), aliases, *_cells(newest)
        )
    console().print(table)
    for model in found:
        _print_problems(model)


@app.command()
def show(
    reference: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="A model; a number or alias after `:`.")],
    json_: AsJson = False,
) -> None:
    """Show the versions of a model, or one version with its signature and where it comes from.

    Examples:
        ganglion models show fashion

        ganglion models show fashion:champion --json
    """
    with Platform() as platform:
        name, version = platform.repository.resolve(reference)
        whole = name == reference
        history = History(platform)
        described = describe_model(history, name) if whole else describe_version(history, name, version)
    if json_:
        write_json(described)
    elif not whole:
        _print_version(described)
    else:
        table = make_table(">version", "aliases", "metrics", ">size", "published", "run", title=name)
        for version in described["versions"]:
            table.add_row(str(version["version"]), ", ".join(version["aliases"]), *_cells(version))
        console().print(table)
        _print_problems(described)


def describe_model(history: History, name: str) -> dict[str, Any]:
    """A model as plain data: its complete versions, newest first, and the others with what is wrong with them."""
    repository = history.platform.repository
    try:
        versions, problems = repository.versions(name), repository.problems(name)
        aliases = repository.aliases(name)
    except ModelError as error:
        return {"model": name, "aliases": {}, "versions": [], "problems": {"": str(error)}}
    return {
        "model": name,
        "aliases": aliases,
        "versions": [describe_version(history, name, version) for version in reversed(versions)],
        "problems": {str(version): problem for version, problem in problems.items()},
    }


def describe_version(history: History, name: str, version: int) -> dict[str, Any]:
    """A version as plain data: its description, and when and by which run it was published.

    Raises:
        NotFoundError: there is no such version.
        ModelError: it is half written or invalid.
    """
    import msgspec

    from ganglion.artifacts.package import MANIFEST

    repository = history.platform.repository
    manifest = repository.manifest(name, version)
    folder = repository.path(name, version)
    published = history.published(name).get(version)
    described: dict[str, Any] = msgspec.to_builtins(manifest)
    del described["format"]
    return {
        "model": name,
        "version": version,
        "aliases": sorted(alias for alias, target in repository.aliases(name).items() if target == version),
        "size": sum(file.size for file in manifest.files.values()),
        "published": published.published if published else (folder / MANIFEST).stat().st_mtime,
        "run": published.run if published else None,
        "step": published.step if published else manifest.lineage.get("step"),
        "folder": str(folder),
        **described,
    }


def _names(root: Path) -> list[str]:
    """Every folder in which versions may lie, also those of which none is complete."""
    return sorted(path.name for path in root.glob("[!.]*") if path.is_dir()) if root.is_dir() else []


def _cells(version: dict[str, Any]) -> tuple[str, str, str, str]:
    """Metrics, size, time and run of a version; empty texts for none."""
    if not version:
        return "", "", "", ""
    return (
        metrics_text(version["metrics"]),
        format_size(version["size"]),
        time_text(version["published"]),
        version["run"] or "",
    )


def _print_problems(model: dict[str, Any]) -> None:
    for version, problem in model["problems"].items():
        what = f"{model['model']} version {version}" if version else model["model"]
        console().print(f"[bold red]{what} cannot be used:[/] {escape(problem)}", soft_wrap=True)


def _print_version(version: dict[str, Any]) -> None:
    table = make_table("", "", title=f"{version['model']} version {version['version']}")
    table.show_header = False
    metrics, size, published, run = _cells(version)
    for name, text in (
        ("aliases", ", ".join(version["aliases"])),
        ("metrics", metrics),
        ("size", size),
        ("published", published),
        ("run", f"{run}, step {version['step']}" if run else ""),
        ("runtime", version["runtime"]),
        ("inputs", _tensors(version["signature"]["inputs"])),
        ("outputs", _tensors(version["signature"]["outputs"])),
        ("images", _images(version["image"])),
        ("classes", ", ".join(version["classes"])),
        *sorted((f"from {name}", text) for name, text in version["lineage"].items() if name not in ("run", "step")),
        ("folder", version["folder"]),
    ):
        if text:
            table.add_row(f"[dim]{escape(name)}[/]", escape(text))
    console().print(table)


def _tensors(tensors: list[dict[str, Any]]) -> str:
    return ", ".join(f"{tensor['name']} {tensor['dtype']} {tensor['shape']}" for tensor in tensors)


def _images(image: dict[str, Any] | None) -> str:
    if image is None:
        return ""
    scale = image.get("scale", 1)
    return f"{image['width']}x{image['height']} {image['mode']}{f', times {scale:.4g}' if scale != 1 else ''}"
