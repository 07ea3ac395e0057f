"""A user's functions in a replica: how a large request is split, how its parts are merged, how models are combined.

They never run in the gateway. A function that takes longer than its request may is interrupted, and one that raises
fails its request alone; `DataError` says that the request is at fault.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganglion.core.errors import DataError, GanglionError, ModelError
from ganglion.core.log import get_logger
from ganglion.core.registry import load_object
from ganglion.serving.runtime import Tensors
from ganglion.serving.strings import array_of_lists, problem
from ganglion.serving.wire import Call, Failure

PARTS = "parts"
"""Name of what a split gives: the number of the part of each instance."""

_log = get_logger(part="serving.functions")


class _OvertimeError(BaseException):
    """Raised inside a function that takes too long; no `except Exception` of the function holds it back."""


class Functions:
    """The user's functions, loaded once.

    Args:
        paths: those that are loaded now, as `module:function`; others are when they are first called.

    Raises:
        ModelError: one cannot be imported or called.
    """

    def __init__(self, paths: Sequence[str] = ()) -> None:
        self._loaded: dict[str, Callable[..., Any]] = {}
        for path in paths:
            self._load(path)

    def call(self, call: Call, tensors: Tensors, images: Sequence[bytes | memoryview]) -> tuple[Tensors, list[Failure]]:
        """Call one.

        Args:
            call: which one, and what it is given.
            tensors: the inputs of a split; the outputs of every group, called `number/name`, otherwise.
            images: what a split is given for encoded images.

        Returns:
            Outputs by name, and the failure if there is one; then there are no outputs.
        """
        try:
            function = self._load(call.function)
            with _limited(call.seconds):
                given = function(_argument(call, tensors, images))
            if call.role == "split":
                rows = len(images) or len(next(iter(tensors.values())))
                return {PARTS: _numbers(given, rows)}, []
            return _outputs(given), []
        except _OvertimeError:
            trouble = f"took longer than the {call.seconds:.3g} s that were left"
            invalid = False
        except Exception as error:  # noqa: BLE001  a user's function may raise anything; it is the answer
            trouble = f"failed: {type(error).__name__}: {error}"
            invalid = isinstance(error, DataError)
        _log.warning("function_failed", function=call.function, role=call.role, problem=trouble)
        return {}, [Failure(0, invalid, f"The function {call.function!r} {trouble}")]

    def _load(self, path: str) -> Callable[..., Any]:
        function = self._loaded.get(path)
        if function is None:
            try:
                found = load_object(path)
            except (GanglionError, ImportError) as error:
                raise ModelError(f"The function {path!r} cannot be imported in a replica: {error}") from error
            if not callable(found):
                raise ModelError(f"{path!r} is a {type(found).__name__}, which cannot be called.")
            function = self._loaded[path] = found
        return function


def _argument(call: Call, tensors: Tensors, images: Sequence[bytes | memoryview]) -> Any:
    if call.role == "split":
        return [bytes(image) for image in images] if images else tensors
    groups: list[Tensors] = [{} for _ in call.groups]
    for full, values in tensors.items():
        number, _, name = full.partition("/")
        groups[int(number)][name] = values
    return groups if call.role == "merge" else dict(zip(call.groups, groups, strict=True))


def _numbers(given: Any, rows: int) -> NDArray[np.int64]:
    numbers = np.asarray(given)
    if numbers.shape != (rows,) or numbers.dtype.kind not in "iu" or (rows and int(numbers.min()) < 0):
        raise TypeError(
            f"it gave {numbers.dtype} {list(numbers.shape)}; a whole number of at least 0 for each of "
            f"{rows} instances is expected"
        )
    return numbers.astype(np.int64)


def _outputs(given: Any) -> Tensors:
    if not isinstance(given, dict) or not given:
        raise TypeError(f"it gave {type(given).__name__}; a dictionary of arrays by output is expected")
    outputs = {str(name): _array(values) for name, values in given.items()}
    for name, values in outputs.items():
        text = values.dtype.kind == "O" and not problem(values)
        if not (text or values.dtype.kind in "biuf") or not values.ndim:
            raise TypeError(f"{name!r} is {values.dtype} {list(values.shape)}; an array of numbers or text is expected")
    if len({len(values) for values in outputs.values()}) > 1:
        shapes = {name: list(values.shape) for name, values in outputs.items()}
        raise TypeError(f"its outputs have different numbers of rows: {shapes}")
    return outputs


def _array(values: Any) -> NDArray[Any]:
    array = array_of_lists(values)
    return array.astype(object) if array.dtype.kind == "U" else array


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer; Python alone can be, and only in the main thread, where a replica answers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise _OvertimeError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
