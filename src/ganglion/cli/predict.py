"""`ganglion predict`: ask a model, here or where it is served; about a few things, a whole source, or a stream."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from ganglion.cli.data_prepare import parse_max_bad
from ganglion.cli.data_source import Filters, Format, Key, Limit, Maps, Options, Query, SourceChoice, Table
from ganglion.cli.output import console, make_table, write_json
from ganglion.cli.predict_answers import best_classes, served_version
from ganglion.cli.predict_batch import BatchWish, predict_batch
from ganglion.cli.predict_stream import predict_stdin
from ganglion.core.errors import UserError
from ganglion.platform import Platform

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
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read one JSON instance a line and write one JSON answer a line, in order.")
    ] = False,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE|DATASET", help="Predict every record of a source, as for `data inspect`, into --output."
        ),
    ] = None,
    output: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where the rows go: a new folder, or one to go on with.")
    ] = "",
    columns: Annotated[
        str, typer.Option(metavar="[NEW=]NAME,...", help="Columns of the source to keep in the rows.")
    ] = "",
    feed: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUT=COLUMN[,COLUMN]", help="What an input of the model is made of, if not evident."),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(metavar="parquet|arrow|jsonl", help="Of the rows; by default the ending of --output, or parquet."),
    ] = None,
    part: Annotated[
        str | None, typer.Option(metavar="SIZE", help="How much of the source goes into one file of rows.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that predict parts of a source at once.", min=1)] = 1,
    batch_size: Annotated[int | None, typer.Option(help="Records that the model is given at once.", min=1)] = None,
    max_bad: Annotated[
        str | None,
        typer.Option(metavar="COUNT|SHARE", help="Bad records tolerated: 1% of a source, none of a stream by default."),
    ] = None,
    format: Format = None,
    option: Options = None,
    table: Table = "",
    query: Query = "",
    key: Key = "",
    filter: Filters = None,
    map: Maps = None,
    limit: Limit = None,
    url: Annotated[str | None, typer.Option(help="Ask the service there; without it the model runs here.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Ask a model about images, numbers or text, about all records of a source, or about what comes on standard input.

    A prediction of a source that was killed goes on where it was, when it is called again.

    Examples:
        ganglion predict fashion --image boot.png --image coat.jpg

        ganglion predict fashion:champion --instances @pixels.json --json

        ganglion predict fashion --image boot.png --url http://127.0.0.1:8501

        ganglion predict fashion --input 'photos/*.png' --output predictions --workers 4

        ganglion predict prices:3 --input sales.csv --feed x=area,rooms --columns address --output prices.jsonl

        tail -f readings.jsonl | ganglion predict plant --stdin
    """
    ways = {"--image": image, "--instances": instances, "--stdin": stdin, "--input": input}
    chosen = [name for name, value in ways.items() if value]
    if len(chosen) != 1:
        raise UserError(f"Give one of {', '.join(ways)}: what the model is to be asked about.")
    choice = SourceChoice(
        paths=input or (), format=format, options=option, table=table, query=query, key=key, filters=filter, maps=map,
        limit=limit,
    )  # fmt: skip
    more = {
        "--output": output, "--columns": columns, "--feed": feed, "--output-format": output_format, "--part": part,
        "--workers": workers > 1, "--batch-size": batch_size, "--max-bad": max_bad, "--url": url, "--json": json_,
        **dict.fromkeys(choice.changes, True),
    }  # fmt: skip
    fitting = {"--input": set(more) - {"--url"}, "--stdin": {"--batch-size", "--max-bad", "--url"}}
    for name, value in more.items():
        if value and name not in fitting.get(chosen[0], {"--url", "--json"}):
            raise UserError(f"{name} does not go together with {chosen[0]}.")
    if input:
        wish = BatchWish(
            choice=choice,
            output=output,
            columns=columns,
            feed=tuple(feed or ()),
            output_format=output_format,
            part=part,
            batch=batch_size,
            workers=workers,
            max_bad=max_bad or "1%",
        )
        predict_batch(model, wish, json_=json_)
    elif stdin:
        raise typer.Exit(predict_stdin(model, url=url, batch=batch_size, max_bad=parse_max_bad(max_bad or "0")))
    else:
        _predict_few(model, image or (), instances, url, json_=json_)


def _predict_few(model: str, images: Sequence[Path], instances: str | None, url: str | None, *, json_: bool) -> None:
    rows = _read_instances(instances) if instances is not None else [_read_image(path) for path in images]
    labels = [str(path) for path in images] if images else [f"instance {number}" for number in range(len(rows))]
    answers = _ask_service(url, model, rows) if url else _ask_here(model, rows, labels)
    if json_:
        shown = [
            {"input": label, "prediction": prediction, "best": best_classes(prediction, answers.classes)}
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

    name, version = served_version(model)
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


def _print(labels: list[str], answers: Answers) -> None:
    out = console()
    table = make_table("input", "class" if answers.classes else "prediction", ">", "")
    for label, prediction in zip(labels, answers.predictions, strict=True):
        best = best_classes(prediction, answers.classes)
        shares = bool(best) and min(prediction) >= 0 and math.isclose(sum(prediction), 1, abs_tol=0.01)
        if not best:
            table.add_row(escape(label), escape(msgspec.json.encode(prediction).decode()), "", "")
        for place, found in enumerate(best):
            value = found["value"]
            number = f"{value:.1%}" if shares else f"{value:.4g}"
            bar = "█" * round(value * _BAR) if shares else ""
            table.add_row(escape(label) if place == 0 else "", escape(str(found["class"])), number, bar)
    out.print(table)
