"""The rows that a batch prediction writes, read by somebody else's reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from ganglion.artifacts.package import FORMAT, PackageManifest, Signature, TensorSpec
from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.schema import Field
from ganglion.pipelines.prediction.rows import FORMATS, Layout, format_of, open_writer

SCHEMA = (Field("name", "text"), Field("pair", "uint8", (2, 2)), Field("label", "int64"))


def manifest(*outputs: TensorSpec, classes: tuple[str, ...] = ()) -> PackageManifest:
    signature = Signature(inputs=(TensorSpec("x", "float32", (-1,)),), outputs=outputs)
    return PackageManifest(format=FORMAT, runtime="onnx", signature=signature, files={}, classes=classes)


CLASSIFIER = manifest(TensorSpec("probabilities", "float32", (-1, 2)), classes=("dark", "bright"))
BATCH = Batch(
    {"name": pa.array(["a", "b"]), "pair": np.arange(8, dtype=np.uint8).reshape(2, 2, 2), "label": np.array([1, 0])},
    np.array([7, 2**40]),
)
PROBABILITIES = np.array([[0.75, 0.25], [0.125, 0.875]], np.float32)
EXPECTED = [
    {"id": 7, "name": "a", "pair": [[0, 1], [2, 3]], "class": "dark", "probabilities": {"dark": 0.75, "bright": 0.25}},
    {
        "id": 2**40,
        "name": "b",
        "pair": [[4, 5], [6, 7]],
        "class": "bright",
        "probabilities": {"dark": 0.125, "bright": 0.875},
    },
]


@pytest.mark.parametrize("form", FORMATS)
def test_a_classifier_has_the_names_of_its_classes_in_every_format(tmp_path: Path, form: str) -> None:
    layout = Layout(CLASSIFIER, SCHEMA, ("name", "pair"))
    path = tmp_path / "rows"
    writer = open_writer(path, format_of(tmp_path, form), layout.arrow)
    for row in (0, 1):
        writer.write_table(layout.table(BATCH.part(row, row + 1), {"probabilities": PROBABILITIES[row : row + 1]}))
    writer.close()
    match form:
        case "parquet":
            found = parquet.read_table(path).to_pylist()
        case "arrow":
            with ipc.open_file(path) as reader:
                found = reader.read_all().to_pylist()
        case _:
            found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == EXPECTED


def test_outputs_of_other_models_are_columns() -> None:
    outputs = (TensorSpec("price", "float64", (-1,)), TensorSpec("words", "int64", (-1, -1)))
    layout = Layout(manifest(*outputs), SCHEMA, ())
    for width in (3, 1):
        words = np.arange(2 * width).reshape(2, width)
        table = layout.table(BATCH, {"price": np.array([1.5, 2.5]), "words": words})
        assert table.to_pylist() == [
            {"id": 7, "price": 1.5, "words": words[0].tolist()},
            {"id": 2**40, "price": 2.5, "words": words[1].tolist()},
        ]


def test_what_json_cannot_say_is_null(tmp_path: Path) -> None:
    layout = Layout(manifest(TensorSpec("y", "float32", (-1,))), SCHEMA, ())
    writer = open_writer(tmp_path / "rows", "jsonl", layout.arrow)
    writer.write_table(layout.table(BATCH, {"y": np.array([np.nan, np.inf], np.float32)}))
    writer.close()
    assert [json.loads(line)["y"] for line in (tmp_path / "rows").read_text().splitlines()] == [None, None]


def test_a_column_is_kept_under_another_name() -> None:
    schema = (*SCHEMA, Field("id", "int64"), Field("a=b", "int64"))
    batch = Batch({**BATCH.columns, "id": np.array([1, 2]), "a=b": np.array([3, 4])}, BATCH.ids)
    layout = Layout(manifest(TensorSpec("y", "float32", (-1,))), schema, ("key=id", "name", "a=b"))
    table = layout.table(batch, {"y": np.array([0.5, 1.5], np.float32)})
    assert table.column_names == ["id", "key", "name", "a=b", "y"]
    assert [table.column(name).to_pylist() for name in ("id", "key", "a=b")] == [list(BATCH.ids), [1, 2], [3, 4]]
    with pytest.raises(DataError, match=r"no column 'ide' to keep.*Did you mean 'id'"):
        Layout(CLASSIFIER, schema, ("key=ide",))


def test_columns_of_the_same_name_are_refused() -> None:
    with pytest.raises(DataError, match="two columns 'class'"):
        Layout(CLASSIFIER, (Field("class", "text"),), ("class",))
    with pytest.raises(DataError, match=r"two columns 'id'.*other_id=id"):
        Layout(CLASSIFIER, (Field("id", "int64"),), ("id",))
    with pytest.raises(DataError, match="Did you mean 'name'"):
        Layout(CLASSIFIER, SCHEMA, ("naem",))


@pytest.mark.parametrize(
    ("name", "said", "form"),
    [
        ("out", None, "parquet"),
        ("out.jsonl", None, "jsonl"),
        ("out.jsonl", "arrow", "arrow"),
        ("v1.2", None, "parquet"),
    ],
)
def test_the_format_is_said_or_the_ending(tmp_path: Path, name: str, said: str | None, form: str) -> None:
    assert format_of(tmp_path / name, said) == form


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'parquet'"):
        format_of(tmp_path, "parket")


def test_outputs_of_text_are_columns_of_text() -> None:
    layout = Layout(manifest(TensorSpec("label", "string", (-1,)), TensorSpec("pair", "string", (-1, 2))), SCHEMA, ())
    outputs = {"label": np.array(["good", "ü"], object), "pair": np.array([["a", ""], ["b", "c"]], object)}
    assert layout.arrow.field("label").type == pa.string()
    assert layout.table(BATCH, outputs).to_pylist() == [
        {"id": 7, "label": "good", "pair": ["a", ""]},
        {"id": 2**40, "label": "ü", "pair": ["b", "c"]},
    ]
