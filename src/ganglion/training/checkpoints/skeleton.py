"""A state taken apart: its tensors by name, and the rest as MessagePack, where they are only referred to.

Unlike a pickle the rest is plain data: to read it calls nothing, so a checkpoint from elsewhere can do no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import torch

from ganglion.core.errors import ConfigurationError, IntegrityError

_TENSOR, _TUPLE, _INTEGER = 1, 2, 3
"""Codes of what MessagePack has no type for: a tensor by name and strides, a tuple, an integer past 64 bits."""

Tensors = dict[str, dict[str, torch.Tensor]]
"""By part of the state and name in it."""


def take_apart(state: Mapping[str, Any]) -> tuple[bytes, Tensors]:
    """Separate tensors from plain data.

    Args:
        state: parts by name; each consists of tensors and plain data in dictionaries, lists and tuples.

    Returns:
        The rest, and the tensors of each part that has any; they are not copied. Names of tensors are the keys that
        lead to them, joined by `/`.

    Raises:
        ConfigurationError: there is something else in it.
    """
    tensors: Tensors = {}

    def plain(value: Any, part: str, path: str) -> Any:
        if value is None or isinstance(value, (bool, bytes)):
            return value
        if isinstance(value, torch.Tensor):
            tensor = value.detach()
            found = tensors.setdefault(part, {})
            name = path
            while name in found:  # the keys 0 and "0" read the same
                name += "'"
            found[name] = tensor
            return _ext(_TENSOR, (part, name, strides(tensor)))
        if isinstance(value, str):
            return str(value)
        if isinstance(value, int):
            number = int(value)
            return number if -(2**63) <= number < 2**64 else _ext(_INTEGER, str(number))
        if isinstance(value, float):
            return float(value)
        if isinstance(value, dict):
            return {_key(key, path): plain(entry, part, _join(path, key)) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            entries = [plain(entry, part, _join(path, index)) for index, entry in enumerate(value)]
            return entries if isinstance(value, list) else _ext(_TUPLE, entries)
        raise ConfigurationError(
            f"A checkpoint cannot hold {part}/{path}, which is a {type(value).__name__}: only tensors, numbers, text, "
            "bytes, and dictionaries, lists and tuples of them. If it is of a callback, return such from get_state."
        )

    rest = {part: plain(value, part, "") for part, value in state.items()}
    return msgspec.msgpack.encode(rest), tensors


def put_together(rest: bytes, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    """Reverse `take_apart`; tensors get the layout in memory that they had, which fused optimizers rely on.

    Raises:
        IntegrityError: it refers to tensors that are not there, or is no such data.
    """

    def special(code: int, data: memoryview) -> Any:
        content = decoder.decode(data)
        if code == _TUPLE:
            return tuple(content)
        if code == _INTEGER:
            return int(content)
        if code != _TENSOR:
            raise IntegrityError(f"The state has something of the unknown code {code}.")
        part, name, layout = content
        if name not in tensors.get(part, {}):
            raise IntegrityError(f"The state refers to the tensor {name!r} of {part!r}, which is not there.")
        tensor = tensors[part][name]
        if tensor.stride() == tuple(layout):
            return tensor
        return torch.empty_strided(tensor.shape, layout, dtype=tensor.dtype).copy_(tensor)

    decoder = msgspec.msgpack.Decoder(ext_hook=special, strict=True)
    try:
        return decoder.decode(rest)  # type: ignore[no-any-return]  # `take_apart` wrote a dictionary
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"The state does not parse: {error}.") from error


def strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Of a copy of a tensor: the same where it fills its piece of memory, in whatever order, without gaps."""
    if tensor.is_contiguous():
        return tensor.stride()
    return torch.empty_like(tensor, device="meta").stride()


def _ext(code: int, content: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, msgspec.msgpack.encode(content))


def _key(key: Any, path: str) -> Any:
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return str(key) if isinstance(key, str) else int(key)
    raise ConfigurationError(
        f"A checkpoint cannot hold the key {key!r} in {path!r}, which is a {type(key).__name__}; use text or integers."
    )


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)
