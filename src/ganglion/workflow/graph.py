"""The graph of a pipeline: steps, what they need of each other, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from ganglion.core.errors import GraphError, suggest
from ganglion.workflow.operation import Operation
from ganglion.workflow.options import StepOptions, check_name

T = TypeVar("T")


class StepOutput:
    """What a step will return: a value for the arguments of other steps.

    `output[0]` and `output["key"]` stand for an item of it.

    Attributes:
        graph: the graph that the step is part of.
        step: name of the step.
        keys: items to take, outermost first.
    """

    def __init__(self, graph: Graph, step: str, keys: tuple[Any, ...] = ()) -> None:
        self.graph = graph
        self.step = step
        self.keys = keys

    def __getitem__(self, key: Any) -> StepOutput:
        return StepOutput(self.graph, self.step, (*self.keys, key))

    def then(self, *following: Any) -> None:
        """Let the steps of these outputs start only when this step has finished."""
        for output in following:
            if not isinstance(output, StepOutput):
                raise GraphError(f"`{self.step}`.then() takes outputs of steps, not {output!r}.")
            node = self.graph.nodes.get(output.step)
            if node is None or output.graph is not self.graph:
                raise GraphError(f"`{output.step}`, which is to follow `{self.step}`, is not a step of this pipeline.")
            node.after.append(self)

    def _not_yet(self, what: str) -> NoReturn:
        raise GraphError(f"The result of step `{self.step}` is not known while the pipeline is built: {what}.")

    def __iter__(self) -> NoReturn:
        self._not_yet("it cannot be iterated over; take items by output[0], or do it within a step")

    def __bool__(self) -> NoReturn:
        self._not_yet("it cannot decide a condition; do it within a step")

    def __repr__(self) -> str:
        return f"<output of {self.step}{''.join(f'[{key!r}]' for key in self.keys)}>"


class AsCompleted:
    """An argument that grows while its sources finish; made by `as_completed`."""

    def __init__(self, sources: StepOutput | list[StepOutput]) -> None:
        self.sources = sources

    @property
    def outputs(self) -> list[StepOutput]:
        """The sources as a list."""
        return [self.sources] if isinstance(self.sources, StepOutput) else self.sources


def as_completed(values: T) -> T:
    """Let a step start with the first result and be executed again for each further one.

    Of a list of outputs the step gets the list of those that have finished, in the order of the list; it is executed
    again each time one more has. Of a single output it gets the newest result, also while that step itself is still
    being updated. The last execution has everything; steps that take its result in the ordinary way wait for it.
    Outside a pipeline the values are returned as they are.

    Raises:
        GraphError: something else than outputs of steps is given.
    """
    if tracing() is None:
        return values
    given: Any = list(values) if isinstance(values, (list, tuple)) else values
    outputs = given if isinstance(given, list) else [given]
    if not outputs or not all(isinstance(output, StepOutput) for output in outputs):
        raise GraphError(f"as_completed() takes the output of a step or a list of such outputs, not {values!r}.")
    return AsCompleted(given)  # type: ignore[return-value]  # stands for the values, as outputs do


@dataclass
class Node:
    """A step within a graph.

    Attributes:
        name: in the run.
        operation: what it does.
        options: how it is run.
        arguments: literals, outputs and `as_completed` inputs, possibly nested in lists, tuples and dicts.
        after: outputs of steps that have to finish first, though their results are not used.
    """

    name: str
    operation: Operation
    options: StepOptions
    arguments: dict[str, Any]
    after: list[StepOutput] = field(default_factory=list)

    def inputs(self) -> Iterator[tuple[str, StepOutput | AsCompleted]]:
        """Every input from another step, with a description of where it is used."""
        for name, value in self.arguments.items():
            for found in _placeholders(value):
                yield f"argument `{name}`", found
        for output in self.after:
            yield "`after`", output

    def needs(self) -> list[str]:
        """Steps that have to finish first."""
        return list(dict.fromkeys(found.step for _, found in self.inputs() if isinstance(found, StepOutput)))

    def streams(self) -> list[AsCompleted]:
        """Its `as_completed` inputs."""
        return [found for _, found in self.inputs() if isinstance(found, AsCompleted)]

    def sources(self) -> list[str]:
        """All steps that it has an input from."""
        streamed = (output.step for stream in self.streams() for output in stream.outputs)
        return list(dict.fromkeys((*self.needs(), *streamed)))


class Graph:
    """The steps of one pipeline with its parameters; built by tracing, or by hand through `add`.

    Attributes:
        pipeline: `module:name` of the pipeline function.
        parameters: its arguments, as plain data.
        import_path: folders in which processes find the project's modules.
        source: the pipeline function; `None` when built by hand.
        nodes: steps by name, in the order in which they were added.
        returned: what the pipeline returns: outputs, possibly nested in lists, tuples and dicts.
    """

    def __init__(
        self,
        pipeline: str = "",
        parameters: Mapping[str, Any] | None = None,
        import_path: tuple[str, ...] = (),
        source: Callable[..., Any] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.source = source
        self.parameters = dict(parameters or {})
        self.import_path = import_path
        self.nodes: dict[str, Node] = {}
        self.returned: Any = None

    def add(
        self,
        operation: Operation,
        arguments: Mapping[str, Any],
        *,
        name: str,
        options: StepOptions | None = None,
        after: tuple[StepOutput, ...] = (),
        unique: bool = False,
    ) -> StepOutput:
        """Add a step.

        Args:
            operation: what it does.
            arguments: by name.
            name: of the step; numbered (`train-2`) when taken.
            options: how it is run.
            after: outputs of steps that have to finish first.
            unique: refuse a name that is taken instead of numbering it.

        Raises:
            GraphError: the name is taken and has to be unique.
        """
        check_name(name)
        if unique and name in self.nodes:
            raise GraphError(f"Two steps are called `{name}`; give one of them another name.")
        number, chosen = 1, name
        while chosen in self.nodes:
            number += 1
            chosen = f"{name}-{number}"
        self.nodes[chosen] = Node(chosen, operation, options or StepOptions(), dict(arguments), list(after))
        return StepOutput(self, chosen)

    def check(self) -> tuple[str, ...]:
        """Check the graph.

        Returns:
            The names of the steps in an order in which each comes after what it needs.

        Raises:
            GraphError: an input is unknown, there is a cycle, nothing uses a step, or there is no step.
        """
        if not self.nodes:
            raise GraphError(f"Pipeline {self.pipeline or 'without a name'} has no steps.")
        self._refuse_unknown_inputs()
        order = self._order()
        self._refuse_unused_steps()
        return order

    def check_inputs(self) -> None:
        """Read every source that a step is given (what has a `fingerprint()`), so that a bad one is refused at once.

        Raises:
            UserError: whatever the source finds wrong with its data.
        """
        for node in self.nodes.values():
            for value in node.arguments.values():
                if callable(check := getattr(value, "fingerprint", None)) and not isinstance(value, StepOutput):
                    check()

    def _refuse_unknown_inputs(self) -> None:
        returned = [("what the pipeline returns", found) for found in _placeholders(self.returned)]
        inputs = [
            (f"Step `{node.name}`, {where}", found) for node in self.nodes.values() for where, found in node.inputs()
        ]
        for where, found in (*inputs, *returned):
            for output in found.outputs if isinstance(found, AsCompleted) else [found]:
                if output.graph is not self:
                    raise GraphError(
                        f"{where}: the output of `{output.step}` belongs to another run of the pipeline function."
                    )
                if output.step not in self.nodes:
                    raise GraphError(f"{where}: there is no step `{output.step}`. {suggest(output.step, self.nodes)}")

    def _order(self) -> tuple[str, ...]:
        """Depth first, so that a cycle is found as the path that closes it."""
        order: dict[str, None] = {}
        path: list[str] = []
        remaining: list[Iterator[str]] = []

        def enter(name: str) -> None:
            path.append(name)
            remaining.append(iter(self.nodes[name].sources()))

        for start in self.nodes:
            if start not in order:
                enter(start)
            while path:
                source = next(remaining[-1], None)
                if source is None:
                    remaining.pop()
                    order[path.pop()] = None
                elif source in path:
                    cycle = [*path[path.index(source) :], source]
                    raise GraphError("The steps form a cycle: " + " needs ".join(f"`{name}`" for name in cycle) + ".")
                elif source not in order:
                    enter(source)
        return tuple(order)

    def _refuse_unused_steps(self) -> None:
        used = {source for node in self.nodes.values() for source in node.sources()}
        used |= {output.step for found in _placeholders(self.returned) for output in _outputs(found)}
        unused = [name for name, node in self.nodes.items() if name not in used and not node.options.effect]
        if unused:
            names = ", ".join(f"`{name}`" for name in unused)
            raise GraphError(
                f"Nothing uses the result of {names}. Use it in another step, return it from the pipeline, or mark the "
                "step with effect=True if it is there for what it does."
            )


def substitute(value: Any, replace: Callable[[StepOutput | AsCompleted], Any]) -> Any:
    """Rebuild lists, tuples and dicts with every input from another step replaced."""
    if isinstance(value, (StepOutput, AsCompleted)):
        return replace(value)
    if type(value) in (list, tuple):
        return type(value)(substitute(item, replace) for item in value)
    if type(value) is dict:
        return {key: substitute(item, replace) for key, item in value.items()}
    return value


_tracing: ContextVar[Graph | None] = ContextVar("ganglion_tracing", default=None)


def tracing() -> Graph | None:
    """The graph that is being built in this context, if one is."""
    return _tracing.get()


@contextmanager
def trace_into(graph: Graph | None) -> Iterator[None]:
    """Let calls of steps add to `graph` (`None`: run as plain functions)."""
    token = _tracing.set(graph)
    try:
        yield
    finally:
        _tracing.reset(token)


def _placeholders(value: Any) -> Iterator[StepOutput | AsCompleted]:
    if isinstance(value, (StepOutput, AsCompleted)):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _placeholders(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _placeholders(item)


def _outputs(found: StepOutput | AsCompleted) -> list[StepOutput]:
    return found.outputs if isinstance(found, AsCompleted) else [found]
