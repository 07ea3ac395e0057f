"""What every runtime has to do: each check is given a package of the model `y = x @ WEIGHTS + 1`.

Run as a program with the folder of a package, it prints what each check found as JSON: for runtimes whose library is in
an environment of its own.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ganglion.artifacts.package import Signature, TensorSpec
from ganglion.serving.model import LoadedModel

WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2) / 8
SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", (-1, 3)),), outputs=(TensorSpec("y", "float32", (-1, 2)),))


def numbers(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)


def gives_what_numpy_gives(folder: Path) -> None:
    model = LoadedModel(folder)
    model.warm(4)
    given = numbers(5)
    outputs, failures = model.predict({"x": given})
    assert failures == []
    np.testing.assert_allclose(outputs["y"], given @ WEIGHTS + 1, rtol=1e-5)
    model.close()


def names_types_and_shapes_are_the_signatures(folder: Path) -> None:
    outputs, _ = LoadedModel(folder).predict({"x": numbers(3)})
    assert list(outputs) == ["y"]
    assert isinstance(outputs["y"], np.ndarray)
    assert (outputs["y"].dtype, outputs["y"].shape) == (np.float32, (3, 2))


def takes_batches_of_any_size(folder: Path) -> None:
    model = LoadedModel(folder)
    whole = numbers(70)
    together = model.predict({"x": whole})[0]["y"]
    parts = [model.predict({"x": whole[start:stop]})[0]["y"] for start, stop in ((0, 1), (1, 3), (3, 64), (64, 70))]
    np.testing.assert_allclose(np.concatenate(parts), together, rtol=1e-5)


def gives_the_same_bytes_again(folder: Path) -> None:
    first, second = LoadedModel(folder), LoadedModel(folder)
    given = numbers(17)
    found = [model.predict({"x": given})[0]["y"].tobytes() for model in (first, first, second)]
    assert len(set(found)) == 1


def leaves_its_inputs_alone_even_read_only_ones(folder: Path) -> None:
    given = numbers(4)
    before = given.copy()
    given.flags.writeable = False
    _, failures = LoadedModel(folder).predict({"x": given})
    assert failures == []
    np.testing.assert_array_equal(given, before)


def goes_on_after_a_batch_that_it_fails_on(folder: Path) -> None:
    model = LoadedModel(folder)
    outputs, failures = model.predict({"x": np.zeros((2, 5), np.float32)})
    assert outputs == {}
    assert [failure.row for failure in failures] == [0, 1]
    assert all(failure.message for failure in failures)
    assert model.predict({"x": numbers(2)})[1] == []


CHECKS: dict[str, Callable[[Path], None]] = {
    check.__name__: check
    for check in (
        gives_what_numpy_gives,
        names_types_and_shapes_are_the_signatures,
        takes_batches_of_any_size,
        gives_the_same_bytes_again,
        leaves_its_inputs_alone_even_read_only_ones,
        goes_on_after_a_batch_that_it_fails_on,
    )
}


def problems(folder: Path, checks: Mapping[str, Callable[[Path], None]] = CHECKS) -> dict[str, str]:
    """What is wrong, by check; empty where nothing is."""
    found = {}
    for name, check in checks.items():
        try:
            check(folder)
            found[name] = ""
        except Exception:  # noqa: BLE001  whatever it is, it is what was found
            found[name] = traceback.format_exc()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(problems(Path(sys.argv[1]))) + "\n")
