"""`ganglion export`: a pipeline as manifests that other controllers run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ganglion.cli.output import console
from ganglion.cli.run import load_pipeline
from ganglion.core.config import convert, merge
from ganglion.core.errors import ConfigurationError, suggest
from ganglion.workflow.options import parse_duration
from ganglion.workflow.pipeline import Pipeline

app = typer.Typer(name="export", help="Write manifests that run a pipeline without Ganglion in charge.")

_CLUSTER = "kubernetes"
_CLAIM = {"name": "ganglion", "path": "/ganglion"}


@app.callback()
def _export() -> None:
    """Write manifests that run a pipeline without Ganglion in charge."""


@app.command()
def argo(
    target: Annotated[
        str, typer.Argument(metavar="FILE[:PIPELINE]", help="The file, and the pipeline if it has more.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A parameter of the pipeline, or kubernetes.key of the cluster."
        ),
    ] = None,
    image: Annotated[str, typer.Option(help="The image; by default named after the pipeline and its code.")] = "",
    output: Annotated[str, typer.Option(help="Folder to write to; - prints the workflow.")] = "argo",
    seed: Annotated[int, typer.Option(help="What everything random follows from.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Take only this many records from each source.", min=1)] = None,
    max_age: Annotated[
        str, typer.Option(help="How long Argo uses a result again, where a step does not say it; 0 for never.")
    ] = "1h",
) -> None:
    """Render a pipeline as one Argo Workflow, with the Dockerfile and the packages of its image.

    Nothing is applied to a cluster. The steps share a persistent volume claim (`kubernetes.claims`, by default
    `ganglion`), which has to exist and to be writable from several nodes.

    Examples:
        ganglion export argo recipes/fashion_mnist.py

        ganglion export argo recipes/fashion_mnist.py --image registry.example/team/fashion:1 --set epochs=3
        --set kubernetes.training=trainjob --set kubernetes.queue=team --output -
    """
    from ganglion.backends.kubernetes.config import KubernetesConfig
    from ganglion.export.argo import ArgoExport, workflow
    from ganglion.export.documents import to_yaml
    from ganglion.export.naming import pipeline_name
    from ganglion.workflow.resume import code_of

    pipeline = load_pipeline(target)
    parameters, cluster = _divide(pipeline, set_ or [])
    graph = pipeline.trace(parameters)
    code = code_of(graph)
    defaults: dict[str, Any] = {
        "image": f"ganglion-{pipeline_name(graph.pipeline)}:{code[:12]}",
        "training": "pytorchjob",
        "claims": [_CLAIM],
    }
    given = {**defaults, **merge({}, cluster).get(_CLUSTER, {}), **({"image": image} if image else {})}
    config = convert(KubernetesConfig, given, where=_CLUSTER)
    export = ArgoExport(
        parameters=tuple(parameters), seed=seed, limit=limit, code=code, max_age=parse_duration(max_age)
    )
    text = to_yaml(workflow(graph, export, config))
    if output == "-":
        sys.stdout.write(text)
        return
    _write(Path(output), text, config.image, config.claims[0].path, Path(target.partition(":")[0]).resolve().parent)


def _divide(pipeline: Pipeline[..., Any], overrides: list[str]) -> tuple[list[str], list[str]]:
    """Tell parameters of the pipeline from keys of the cluster.

    Raises:
        ConfigurationError: a key is neither.
    """
    parameters, cluster = [], []
    for text in overrides:
        first = text.partition("=")[0].partition(".")[0]
        if first in pipeline.parameters:
            parameters.append(text)
        elif first == _CLUSTER:
            cluster.append(text)
        else:
            allowed = [*pipeline.parameters, f"{_CLUSTER}.*"]
            raise ConfigurationError(f"Unknown key {first!r} for {pipeline.name}. {suggest(first, allowed)}")
    return parameters, cluster


def _write(folder: Path, text: str, image: str, home: str, project: Path) -> None:
    from ganglion.export.image import build_command, dockerfile, ganglion_source, requirements

    source = ganglion_source()
    python = ".".join(map(str, sys.version_info[:2]))
    files = {
        "workflow.yaml": text,
        "Dockerfile": dockerfile(python=python, home=home, ganglion=source is not None),
        "requirements.txt": requirements(project),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    out = console()
    out.print(f"Wrote {', '.join(files)} to {folder}. Build the image and submit the workflow:", soft_wrap=True)
    out.print(f"  {build_command(image, folder, project, source)}", soft_wrap=True, markup=False)
    out.print(f"  argo submit {folder / 'workflow.yaml'}", soft_wrap=True, markup=False)
