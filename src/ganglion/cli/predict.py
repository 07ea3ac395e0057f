"""`ganglion predict`: ask a model, here or where it is served."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from ganglion.cli.output import console, make_table, write_json
from ganglion.core.errors import UserError
from ganglion.platform import Platform

BEST = 3
"""How many classes are shown of each prediction."""

_BAR = 24


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What a model said.

    Attributes:
        version: that answered.
        classes: names of the numbers of a prediction, if they have names.
        predictions: one for each input, in order.
    """

    version: int
    classes: tuple[str, ...]
    predictions: list[Any]


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="A model; a number or alias after `:`.")],
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A PNG or JPEG file; may be given several times.")
    ] = None,
    instances: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="A JSON list with the inputs, or @ and a file with one.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Ask the service there; without it the model runs here.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Ask a model about images or numbers.

    Examples:
        ganglion predict fashion --image boot.png --image coat.jpg

        ganglion predict fashion:champion --instances @pixels.json --json

        ganglion predict fashion --image boot.png --url http://127.0.0.1:8501
    """
    if (image is None) == (instances is None):
        raise UserError("Give either --image FILE (several times for several) or --instances JSON.")
    rows = _read_instances(instances) if instances is not None else [_read_image(path) for path in image or ()]
    labels = [str(path) for path in image] if image else [f"instance {number}" for number in range(len(rows))]
    answers = _ask_service(url, model, rows) if url else _ask_here(model, rows, labels)
    if json_:
        shown = [
            {"input": label, "prediction": prediction, "best": _best(prediction, answers.classes)}
            for label, prediction in zip(labels, answers.predictions, strict=True)
        ]
        name = model.partition(":")[0]
        write_json({"model": name, "version": answers.version, "classes": answers.classes, "predictions": shown})
    else:
        _print(labels, answers)


def _read_image(path: Path) -> dict[str, Any]:
    try:
        return {"image_bytes": {"b64": base64.b64encode(path.read_bytes()).decode("ascii")}}
    except OSError as error:
        raise UserError(f"Cannot read the image {path}: {error.strerror}.") from error


def _read_instances(text: str) -> list[Any]:
    where = "--instances"
    try:
        if text.startswith("@"):
            where = text[1:]
            text = Path(where).read_text()
        value = msgspec.json.decode(text)
    except OSError as error:
        raise UserError(f"Cannot read {where}: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where} is not JSON: {error}.") from error
    if isinstance(value, dict) and value.keys() == {"instances"}:
        value = value["instances"]
    if not isinstance(value, list) or not value:
        raise UserError(f"{where} is no JSON list of at least one instance, such as [[0.1, 0.2], [0.3, 0.4]].")
    return value


def _ask_here(model: str, rows: list[Any], labels: list[str]) -> Answers:
    """Load the model into this process and ask it as a replica would."""
    with Platform() as platform:
        name, version = platform.repository.resolve(model)
        folder = platform.repository.path(name, version)
        manifest = platform.repository.manifest(name, version)

    from ganglion.serving.gateway.tensorflow_rest import parse_predict, render_predictions
    from ganglion.serving.model import LoadedModel

    body = msgspec.json.encode({"instances": rows})
    payload = parse_predict(body, manifest.signature, manifest.image).payload
    loaded = LoadedModel(folder)
    outputs, failures = loaded.predict_images(payload.images) if payload.images else loaded.predict(payload.tensors)
    loaded.close()
    if failures:
        first = min(failures, key=lambda failure: failure.row)
        raise UserError(f"{labels[first.row]}: {first.message}")
    predictions = msgspec.json.decode(render_predictions(outputs, columns=False))["predictions"]
    return Answers(version=version, classes=manifest.classes, predictions=predictions)


def _ask_service(url: str, model: str, rows: list[Any]) -> Answers:
    from ganglion.serving.client import Client, ServiceError

    name, separator, selector = model.partition(":")
    if separator and not selector.isdecimal():
        raise UserError(f"{selector!r} is an alias, which only this folder knows; give a number, or leave --url out.")
    version = int(selector) if separator else None
    with Client(url) as client:
        try:
            about = client.metadata(name, version)
            predictions = client.predict(name, rows, version=version)
        except ServiceError as error:
            if error.status < 500:
                raise UserError(str(error)) from error
            raise
    return Answers(
        version=int(about["model_spec"]["version"]),
        classes=tuple(about["metadata"].get("classes", ())),
        predictions=predictions,
    )


def _best(prediction: Any, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The classes with the highest numbers, best first; none where a prediction is not one number for each class."""
    if not isinstance(prediction, list) or not all(isinstance(number, int | float) for number in prediction):
        return []
    order = sorted(range(len(prediction)), key=lambda index: -prediction[index])[:BEST]
    named = len(classes) == len(prediction)
    return [{"class": classes[index] if named else index, "value": prediction[index]} for index in order]


def _print(labels: list[str], answers: Answers) -> None:
    out = console()
    table = make_table("input", "class", ">", "")
    for label, prediction in zip(labels, answers.predictions, strict=True):
        best = _best(prediction, answers.classes)
        shares = bool(best) and min(prediction) >= 0 and math.isclose(sum(prediction), 1, abs_tol=0.01)
        if not best:
            table.add_row(escape(label), escape(msgspec.json.encode(prediction).decode()), "", "")
        for place, found in enumerate(best):
            value = found["value"]
            number = f"{value:.1%}" if shares else f"{value:.4g}"
            bar = "█" * round(value * _BAR) if shares else ""
            table.add_row(escape(label) if place == 0 else "", escape(str(found["class"])), number, bar)
    out.print(table)
