from __future__ import annotations

import resource
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import ControlError
from ganglion.serving import frames, wire
from ganglion.serving.payload import Payload


@given(
    bodies=st.lists(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 50), min_size=1),
)
def test_frames_survive_any_cutting_of_the_stream(bodies: list[list[bytes]], cuts: list[int]) -> None:
    stream = b"".join(b"".join(Payload(images=images).encode(number, [])) for number, images in enumerate(bodies))
    reader = frames.FrameReader()
    received = []
    position = 0
    while position < len(stream):
        cut = cuts[position % len(cuts)]
        for header, body in reader.feed(stream[position : position + cut]):
            batch = wire.decode_batch(header)
            received.append((batch.id, [bytes(image) for image in wire.images_of(batch.images, body)]))
        position += cut
    assert received == list(enumerate(bodies))
    assert len(reader) == 0


@given(
    bodies=st.lists(st.binary(max_size=200), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 90), min_size=1),
    direct=st.lists(st.booleans(), min_size=1),
)
def test_long_bodies_are_the_same_copied_or_written_where_they_stay(
    bodies: list[bytes], cuts: list[int], direct: list[bool]
) -> None:
    parts = [frames.encode(wire.Answer(number), [body]) for number, body in enumerate(bodies)]
    stream = b"".join(map(b"".join, parts))
    reader = frames.FrameReader()
    received: list[tuple[int, bytes]] = []
    step = position = 0
    with patch.object(frames, "LONG_BODY", 40):
        while position < len(stream):
            data = stream[position : position + cuts[step % len(cuts)]]
            room = reader.room
            if room is not None and direct[step % len(direct)]:
                data = data[: room.nbytes]
                room[: len(data)] = data
                frame = reader.filled(len(data))
                found = [frame] if frame is not None else []
            else:
                found = reader.feed(data)
            received += [(wire.decode_answer(header).id, bytes(body)) for header, body in found]
            assert all(body.readonly for _header, body in found)
            position += len(data)
            step += 1
    assert received == list(enumerate(bodies))
    assert len(reader) == 0
    assert reader.room is None


def test_a_tensor_in_a_long_body_is_not_copied_and_only_claimed_bytes_need_no_memory() -> None:
    values = np.arange(2 * frames.LONG_BODY, dtype=np.float64)
    stream = b"".join(Payload(tensors={"a": values}).encode(1, []))
    reader = frames.FrameReader()
    assert reader.feed(stream[:1000]) == []
    ((header, body),) = reader.feed(stream[1000:])
    array = wire.tensors_of(wire.decode_batch(header).tensors, body)["a"]
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert array.tolist() == values.tolist()
    claimed = frames.encode_sized(wire.Answer(1), [], frames.LONGEST_BODY)[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert frames.FrameReader().feed(claimed) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "kibibytes, of two gibibytes"


def test_parts_of_several_requests_become_one_tensor_in_order() -> None:
    parts = [
        Payload(tensors={"a": np.full((rows, 3), rows, np.uint8), "b": np.full((rows,), rows / 2, np.float32)})
        for rows in (1, 4, 2)
    ]
    ((header, body),) = frames.FrameReader().feed(b"".join(parts[0].encode(9, parts[1:])))
    tensors = wire.tensors_of(wire.decode_batch(header).tensors, body)
    assert tensors["a"][:, 0].tolist() == [1, 4, 4, 4, 4, 2, 2]
    assert tensors["b"].tolist() == [0.5, 2, 2, 2, 2, 1, 1]


def test_tensors_that_do_not_fit_their_frame_are_refused() -> None:
    headers = (wire.TensorHeader("a", "float32", (2, 2)),)
    for size in (15, 17):
        with pytest.raises(ControlError):
            wire.tensors_of(headers, memoryview(bytes(size)))
    with pytest.raises(ControlError):
        wire.tensors_of((wire.TensorHeader("a", "object", (1,)),), memoryview(bytes(8)))
    with pytest.raises(ControlError):
        wire.images_of((3, 4), memoryview(bytes(8)))


def test_a_frame_that_claims_to_be_huge_is_refused_at_once() -> None:
    with pytest.raises(ControlError, match="allowed"):
        frames.FrameReader().feed(b"\xff" * 12)


@given(rows=st.integers(1, 20), most=st.integers(1, 8))
def test_splitting_keeps_every_instance_once_and_in_order(rows: int, most: int) -> None:
    slices = Payload(tensors={"a": np.arange(rows)}).split(most)
    assert all(part.rows <= most for part in slices)
    assert np.concatenate([part.tensors["a"] for part in slices]).tolist() == list(range(rows))
