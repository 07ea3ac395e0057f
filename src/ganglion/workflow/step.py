"""`@step`: a function becomes a step of pipelines and stays a function everywhere else."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from ganglion.core.errors import GraphError, suggest
from ganglion.core.resources import Resources
from ganglion.execution.spec import Numerics
from ganglion.workflow.function import FunctionOperation
from ganglion.workflow.graph import Graph, StepOutput, tracing
from ganglion.workflow.operation import Host, HostedOperation, Operation
from ganglion.workflow.options import StepOptions, change_options

P = ParamSpec("P")
R = TypeVar("R")

_CALL_OPTIONS = ("name", "after")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)


class Step(Generic[P, R]):
    """A function, or another operation with the signature of one, that pipelines are made of.

    Called while a pipeline is traced it adds itself to the graph and returns a `StepOutput` in place of the result;
    called anywhere else it runs the function.

    There it also takes, unless its function has parameters of these names, `name` (of the step in the run) and `after`
    (an output, or a list of them, of steps that have to finish first).

    Attributes:
        function: what gives the step its signature; for a function step also what it runs.
        operation: what it does in a run.
        options: how it is run.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        operation: Operation,
        options: StepOptions | None = None,
        signature: inspect.Signature | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.operation = operation
        self.options = options or StepOptions()
        self._signature = signature or inspect.signature(function)
        self._title = self.options.name or getattr(function, "__name__", "step").strip("<>_") or "step"
        for parameter in self._signature.parameters.values():
            if parameter.kind in _VARIADIC:
                raise GraphError(
                    f"Step `{self._title}`: `{parameter}` has no name that an argument could be given by; "
                    "steps take named parameters (and **keywords)."
                )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Add the step to the pipeline that is being traced; elsewhere run the function."""
        graph = tracing()
        if graph is None:
            return self._run(*args, **kwargs)
        return cast(R, self._add(graph, args, dict(kwargs)))

    def with_options(self, **changes: Any) -> Step[P, R]:
        """The same step with other options (see `StepOptions`), such as `train.with_options(name="plain")`."""
        return Step(self.function, self.operation, change_options(self.options, changes), self._signature)

    def _run(self, *args: Any, **kwargs: Any) -> R:
        if isinstance(self.operation, FunctionOperation):
            return cast(R, self.function(*args, **kwargs))
        raise GraphError(f"`{self._title}` can only be called within a pipeline: it needs the platform to run.")

    def _add(self, graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepOutput:
        own = {key: kwargs.pop(key) for key in _CALL_OPTIONS if key in kwargs and key not in self._signature.parameters}
        arguments = self._bind(args, kwargs)
        given = own.get("name") or self.options.name
        if not given and isinstance(named := arguments.get(self.options.named_by), str):
            given = named
        after = own.get("after") or ()
        if not given and self.options.named_by:
            default = self._signature.parameters[self.options.named_by].default
            given = default if isinstance(default, str) else ""
        return graph.add(
            self.operation,
            arguments,
            name=given or self._title,
            options=self.options,
            after=(after,) if isinstance(after, StepOutput) else tuple(after),
            unique="name" in own,
        )

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        parameters = self._signature.parameters
        keywords = [name for name, found in parameters.items() if found.kind is inspect.Parameter.VAR_KEYWORD]
        allowed = [name for name in parameters if name not in keywords]
        if not keywords:
            for name in kwargs:
                if name not in parameters:
                    raise GraphError(f"Step `{self._title}` has no argument `{name}`. {suggest(name, allowed)}")
        try:
            bound = self._signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise GraphError(f"Step `{self._title}`: {error}. It takes: {', '.join(allowed) or 'nothing'}.") from error
        for name in allowed:
            if name not in bound.arguments and parameters[name].default is inspect.Parameter.empty:
                raise GraphError(f"Step `{self._title}` needs the argument `{name}`, which is not given.")
        arguments = dict(bound.arguments)
        for name in keywords:
            arguments.update(arguments.pop(name, {}))
        return arguments


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str = ...,
    named_by: str = ...,
    resources: Resources = ...,
    numerics: Numerics = ...,
    environment: dict[str, str] = ...,
    preload: tuple[str, ...] = ...,
    timeout: float | str | None = ...,
    retries: int = ...,
    backoff: float | str = ...,
    cache: bool = ...,
    max_age: float | str | None = ...,
    effect: bool = ...,
) -> Callable[[Callable[P, R]], Step[P, R]]: ...
def step(function: Callable[P, R] | None = None, /, **options: Any) -> Any:
    """Make a step of a function; with or without options.

    The function runs in a process of its own, in the folder of the run; its arguments and result travel as
    `ganglion.workflow.codec` describes.

    Args:
        function: what to run.
        options: see `StepOptions`; `timeout`, `max_age` and `backoff` are seconds or text such as `"7d"`.

    Raises:
        ConfigurationError: an option is unknown or its value not allowed.
    """
    chosen = change_options(StepOptions(), options)

    def wrap(wrapped: Callable[P, R]) -> Step[P, R]:
        return Step(wrapped, FunctionOperation(wrapped), chosen)

    return wrap if function is None else wrap(function)


def operation(
    *, kind: str, resumable: bool = True, **options: Any
) -> Callable[[Callable[Concatenate[Host, P], R]], Step[P, R]]:
    """Make a step of a function that runs in the orchestrator and reaches processes through its first argument.

    Args:
        kind: what records call it, such as `training`.
        resumable: whether its result survives the orchestrator.
        options: see `StepOptions`.

    Returns:
        A decorator; callers of the step do not give the host.
    """
    chosen = change_options(StepOptions(), options)

    def wrap(function: Callable[Concatenate[Host, P], R]) -> Step[P, R]:
        whole = inspect.signature(function)
        visible = whole.replace(parameters=list(whole.parameters.values())[1:])
        return Step(function, HostedOperation(function, kind=kind, resumable=resumable), chosen, visible)

    return wrap
