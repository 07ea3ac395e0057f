from __future__ import annotations

import gzip

import numpy as np
import pytest
from source_contract import read_all

from ganglion.core.errors import DataError
from ganglion.data import DecodedSource, Field, Unusable

FIELDS = (Field("n", "uint8"), Field("x", "float32", (2,)), Field("t", "text"), Field("s", "int16", sequence=True))
GOOD = {"n": 1, "x": [1, 2], "t": "a", "s": [1, 2, 3]}


def decode_scripts(file, unit, *, fail=False):
    """Each line is Python for a record."""
    assert unit.path.endswith((".txt", ".gz"))
    for line in file:
        yield eval(line, {"np": np, "Unusable": Unusable, "GOOD": GOOD})
    if fail:
        raise ValueError("no more")


def source_of(put, *lines: str, **options) -> DecodedSource:
    content = "".join(f"{line}\n" for line in lines).encode()
    return DecodedSource(put("a.txt", content), decoder=decode_scripts, fields=FIELDS, **options)


def test_records_of_any_field_are_read(put) -> None:
    source = source_of(put, "GOOD", "{'n': np.uint8(7), 'x': np.ones(2), 't': 'ü', 's': []}")
    columns = source.read(0, 2)
    assert columns["n"].tolist() == [1, 7]
    assert columns["x"].dtype == np.float32
    assert columns["t"].to_pylist() == ["a", "ü"]
    assert columns["s"].to_pylist() == [[1, 2, 3], []]


def test_compressed_files_are_decoded_decompressed(put) -> None:
    path = put("a.gz", gzip.compress(b"GOOD\nGOOD\n"))
    assert DecodedSource(path, decoder=decode_scripts, fields=FIELDS).count == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Unusable(reason='odd', offset=5, payload=b'xy')", "odd"),
        ("{**GOOD, 'n': 300}", "'n' has values that uint8 cannot hold"),
        ("{**GOOD, 'n': -1}", "'n' has values that uint8 cannot hold"),
        ("{**GOOD, 'n': 1.5}", "'n' has values that uint8 cannot hold"),
        ("{**GOOD, 'n': 'one'}", "'n' is <U3, not uint8"),
        ("{**GOOD, 'n': None}", "'n' is object, not uint8"),
        ("{**GOOD, 'x': [1, 2, 3]}", r"'x' has the shape (3,)"),
        ("{**GOOD, 'x': [[1], [1, 2]]}", "'x' is not float32"),
        ("{**GOOD, 't': b'a'}", "'t' is bytes, not text"),
        ("{**GOOD, 's': 3}", "'s' has the shape ()"),
        ("{'n': 1}", "it has n; the fields are"),
        ("7", "it is int, not a mapping"),
        ("1 / 0", "the rest of the file: the decoder raised ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_no_record_is_set_aside(put, line: str, reason: str) -> None:
    records, bad = read_all(source_of(put, "GOOD", line, "GOOD"))
    assert len(records) == (1 if "1 / 0" in line else 2)
    ((record,),) = [list(bad.values())]
    assert reason in record.reason
    assert (record.offset, record.payload) == ((5, b"xy") if "odd" in reason else (-1, b""))


def test_batches_are_read_whole_or_set_aside_whole(put) -> None:
    fields = (Field("n", "int8"), Field("t", "text"))
    lines = (
        b"{'n': np.arange(3), 't': ['a', 'b', 'c']}\n{'n': [1], 't': ['a', 'b']}\n"
        b"{'n': [5], 't': [3]}\n{'n': [9], 't': ['z']}\n"
    )
    source = DecodedSource(put("a.txt", lines), decoder=decode_scripts, fields=fields, batches=True)
    records, bad = read_all(source)
    assert [row[0] for row in records.values()] == ["0", "1", "2", "9"]
    reasons = [record.reason for record in bad.values()]
    assert "different numbers of records: n 1, t 2" in reasons[0]
    assert "'t' is int, not text" in reasons[1]


def test_options_reach_the_decoder_and_change_the_fingerprint(put) -> None:
    source, failing = source_of(put, "GOOD"), source_of(put, "GOOD", options={"fail": True})
    assert ["ValueError: no more" in record.reason for record in read_all(failing)[1].values()] == [True]
    again = source_of(put, "GOOD", version="2")
    assert len({source.fingerprint(), failing.fingerprint(), again.fingerprint()}) == 3


def test_functions_without_an_import_path_are_refused(put) -> None:
    with pytest.raises(DataError, match="cannot be imported elsewhere"):
        DecodedSource("a", decoder=lambda file, unit: [], fields=FIELDS)
    with pytest.raises(DataError, match="stated fields"):
        DecodedSource("a", decoder=decode_scripts, fields=())
    by_path = DecodedSource(put("a.txt", b'{"n": 1}\n'), decoder="json:loads", fields=(Field("n", "int8"),))
    assert "the decoder raised" in next(iter(read_all(by_path)[1].values())).reason
