"""Models that are a Python class of the user's: anything that can be computed from a batch.

```python
class Predictor:
    def load(self, folder: Path) -> None: ...
    def predict(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...
```

Text comes as arrays of `str` (dtype `object`), and goes as these, as lists, or as whatever NumPy makes arrays of `str`
of.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganglion.artifacts.elements import element_type
from ganglion.artifacts.package import PackageManifest
from ganglion.core.errors import ModelError
from ganglion.serving.runtime import Tensors
from ganglion.serving.runtimes.source import load_entry


class PythonRuntime:
    """An object of the class that the package's entry names.

    The class is made without arguments; `load(folder)` is called once, `predict(batch)` for each batch. `DataError`
    says that the instances are at fault; whatever else it raises is the model's failure, and the process goes on.
    """

    def load(self, folder: Path, manifest: PackageManifest) -> None:
        """Make the object and let it load what it needs from the package.

        Raises:
            ModelError: the class cannot be imported, lacks a method, or failed.
        """
        predictor = load_entry(folder, manifest)
        lacking = [method for method in ("load", "predict") if not callable(getattr(predictor, method, None))]
        if not isinstance(predictor, type) or lacking:
            needed = " and ".join(f"{method}()" for method in lacking) or "to be a class"
            raise ModelError(f"{manifest.entry!r} is no predictor: it lacks {needed}.")
        self._entry = manifest.entry
        self._dtypes = {tensor.name: element_type(tensor.dtype) for tensor in manifest.signature.outputs}
        try:
            self._predictor = predictor()
            self._predictor.load(folder)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise ModelError(f"{manifest.entry!r} could not load: {type(error).__name__}: {error}") from error

    def predict(self, inputs: Tensors) -> Tensors:
        """Call the predictor with a copy of the inputs, which is its own.

        Raises:
            DataError: it says that the instances are at fault.
            ModelError: it does not give a dictionary of arrays, or wants to end the process.
        """
        try:
            given: Any = self._predictor.predict({name: values.copy() for name, values in inputs.items()})
        except SystemExit as error:
            raise ModelError(f"{self._entry!r} called sys.exit({error.code!r}) in predict.") from error
        if not isinstance(given, Mapping):
            raise ModelError(f"{self._entry!r} gave {type(given).__name__}; a dictionary of arrays is expected.")
        return {name: self._array(name, given[name]) for name in self._dtypes if name in given}

    def settle(self, inputs: Tensors) -> None:
        """Nothing: memory between predictions is not this runtime's."""

    def close(self) -> None:
        """Drop the object."""
        del self._predictor

    def _array(self, name: str, value: Any) -> NDArray[Any]:
        """A value as an array; real numbers in the precision of the signature, everything else as it is."""
        try:
            if self._dtypes[name].kind == "O":
                return np.asarray(value, object)
            array = np.asarray(value)
        except ValueError as error:
            raise ModelError(f"{self._entry!r} gave no array as output {name!r}: {error}") from error
        return (
            array.astype(self._dtypes[name], copy=False)
            if array.dtype.kind == self._dtypes[name].kind == "f"
            else array
        )
