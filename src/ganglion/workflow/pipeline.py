"""`@pipeline`: a function whose calls of steps are traced to a graph."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import msgspec

from ganglion.core.config import merge
from ganglion.core.errors import ConfigurationError, suggest
from ganglion.fingerprints import project_folders
from ganglion.workflow.graph import Graph, trace_into

P = ParamSpec("P")
R = TypeVar("R")


class Pipeline(Generic[P, R]):
    """A pipeline: called by itself, or within another one, it is the plain function.

    Called within another pipeline it adds its steps to that graph; called anywhere else it runs every step as a plain
    function, in order, in this process.

    Attributes:
        function: what is traced.
        name: of the function.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = function.__name__
        self._parameters = inspect.signature(function).parameters
        for parameter in self._parameters.values():
            if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
                raise ConfigurationError(f"Pipeline {self.name}: `{parameter}` is not a named parameter.")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function; its steps join the pipeline that is being traced, if one is."""
        return self.function(*args, **kwargs)

    @property
    def reference(self) -> str:
        """`module:name`, or `file.py:name` of a script."""
        module = self.function.__module__
        file = getattr(sys.modules.get(module), "__file__", None)
        return f"{Path(file).name if module == '__main__' and file else module}:{self.name}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(self._parameters)

    def bind(self, overrides: Mapping[str, Any] | Sequence[str] = ()) -> dict[str, Any]:
        """Arguments for the pipeline function.

        Args:
            overrides: values by parameter, or texts of the form `key=value`; plain data is converted to the annotated
                types.

        Returns:
            A value for every parameter, defaults included.

        Raises:
            ConfigurationError: a parameter is unknown (the nearest is suggested), has no value, or one of a wrong type.
        """
        given = dict(overrides) if isinstance(overrides, Mapping) else merge({}, overrides)
        for name in given:
            if name not in self._parameters:
                raise ConfigurationError(
                    f"Pipeline {self.name} has no parameter {name!r}. {suggest(name, self._parameters)}"
                )
        hints = typing.get_type_hints(self.function)
        return {name: self._value(name, found, given, hints) for name, found in self._parameters.items()}

    def _value(self, name: str, found: inspect.Parameter, given: Mapping[str, Any], hints: Mapping[str, Any]) -> Any:
        if name not in given:
            if found.default is inspect.Parameter.empty:
                raise ConfigurationError(f"Pipeline {self.name}: parameter {name!r} has no default; give {name}=VALUE.")
            return found.default
        value, wanted = given[name], hints.get(name, Any)
        if isinstance(wanted, type) and type(value) is wanted:
            return value
        try:
            return msgspec.convert(value, wanted, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"Pipeline {self.name}: parameter {name!r}: {error}.") from error

    def trace(self, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Graph:
        """Call the function once to see its steps, and check the graph; nothing runs.

        Raises:
            ConfigurationError: as for `bind`.
            GraphError: the graph is not well-formed.
        """
        parameters = self.bind(overrides)
        graph = Graph(
            self.reference,
            {name: msgspec.to_builtins(value, enc_hook=_describe) for name, value in parameters.items()},
            import_path=project_folders(self.function),
            source=self.function,
        )
        with trace_into(graph):
            graph.returned = self.function(**parameters)  # type: ignore[call-arg]  # checked by bind
        graph.check()
        return graph


def pipeline(function: Callable[P, R]) -> Pipeline[P, R]:
    """Make a pipeline of a function with keyword parameters, annotated and, as a rule, with defaults."""
    return Pipeline(function)


def _describe(value: Any) -> str:
    """What a record shows for a parameter that is not plain data; its content counts through the inputs of steps."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"
