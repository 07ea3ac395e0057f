from __future__ import annotations

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
