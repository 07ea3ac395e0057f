"""`ganglion models publish` and `alias`: a model of one's own becomes a version, and a version gets a name."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganglion.cli.output import console, write_json
from ganglion.core.errors import UserError
from ganglion.platform import Platform

if TYPE_CHECKING:
    from ganglion.serving.repository import ModelRepository

_SHOWN = 5
"""Names that a message holds at most."""

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An ONNX file, a .pt2 file of torch.export, a SavedModel's folder, or a Python class as file.py:Class.",
    ),
]


def publish(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called; a known name gets a new version.")],
    source: Source,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TYPE:SIZES", help="What a class takes, for one instance; may be given several times."
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TYPE:SIZES", help="What a class gives, for one instance; may be given several times."
        ),
    ] = None,
    with_: Annotated[
        list[Path] | None,
        typer.Option(
            "--with", metavar="PATH", help="A file or folder that lies beside it; may be given several times."
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT:MODE",
            help="Take PNG and JPEG files too, made so large and L or RGB; /255 scales them.",
        ),
    ] = None,
    classes: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME|@FILE", help="Names of the classes in order, or @ and a file with a line each."
        ),
    ] = "",
    alias: Annotated[str, typer.Option(metavar="ALIAS", help="Let this alias point to it at once.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Publish a model of your own as the next version of NAME; services that follow NAME change to it.

    It is loaded and asked about zeros first, in this process; what cannot be served is not published. A Python class
    has `load(folder)`, called once, and `predict(batch)`, from a dictionary of arrays to another.

    Examples:
        ganglion models publish digits digits.onnx --image 28x28:L --classes @names.txt

        ganglion models publish pets pets.pt2 --image 224x224:RGB/255 --alias champion

        ganglion models publish plants saved_model/

        ganglion models publish prices predictor.py:Prices --input x=float32:12 --output price=float32 --with prices.pkl

        ganglion models publish moods predictor.py:Moods --input text=string --output mood=string
    """
    from ganglion.serving.model_file import package_model, parse_image, parse_tensor, read_model
    from ganglion.serving.repository import check_alias, check_name

    check_name(name)
    if alias:
        check_alias(alias)
    shown, names = parse_image(image) if image else None, _class_names(classes)
    model = read_model(
        source,
        inputs=[parse_tensor(text) for text in input or ()],
        outputs=[parse_tensor(text) for text in output or ()],
        others=with_ or (),
    )
    with Platform() as platform:
        try:
            version = _publish(platform.repository, name, partial(package_model, model, image=shown, classes=names))
        except OSError as error:
            raise UserError(f"The package of {name} cannot be written: {error}.") from error
        if alias:
            platform.repository.set_alias(name, alias, version)
        place = str(platform.repository.path(name, version))
    if json_:
        write_json({"model": name, "version": version, "alias": alias or None, "folder": place})
        return
    console().print(f"Published {name} version {version}{f' as {alias}' if alias else ''}.", soft_wrap=True)
    console().print(f"Serve it with: ganglion serve {name}", soft_wrap=True)


def alias(
    reference: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="A published version, or an alias of it.")],
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="A name for it, such as champion.")],
) -> None:
    """Let an alias point to a version; services that were started with the alias follow it within a second.

    Requests ask for it as a label: `/v1/models/NAME/labels/ALIAS:predict`.

    Examples:
        ganglion models alias fashion:3 champion

        ganglion models alias fashion:champion canary
    """
    with Platform() as platform:
        name, version = platform.repository.resolve(reference)
        platform.repository.set_alias(name, alias, version)
    console().print(f"{name}:{alias} is version {version}.", soft_wrap=True)


def _publish(repository: ModelRepository, name: str, package: Callable[[Path], None]) -> int:
    """Write a package on the disk of the repository, where there is room for what is published, and publish it."""
    repository.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=repository.root) as temporary:
        folder = Path(temporary, "package")
        package(folder)
        return repository.publish(name, folder)


def _class_names(text: str) -> tuple[str, ...]:
    """Names between commas, or one a line of a file.

    Raises:
        UserError: there is no such file, or a name is empty or comes twice.
    """
    if not text.startswith("@"):
        names = tuple(name.strip() for name in text.split(",")) if text else ()
    else:
        try:
            lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The names of the classes cannot be read from {text[1:]}: {error}") from error
        names = tuple(line.strip() for line in lines if line.strip())
    if "" in names:
        raise UserError(f"Each class needs a name of its own; that of class {names.index('')} is empty.")
    if shared := [name for name, count in Counter(names).items() if count > 1]:
        more = f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
        raise UserError(
            f"Each class needs a name of its own; several are called {', '.join(map(repr, shared[:_SHOWN]))}{more}. "
            f"Tell them apart, such as {shared[0]}_1 and {shared[0]}_2."
        )
    return names
