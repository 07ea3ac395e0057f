from __future__ import annotations

from typing import Any

import pytest

from ganglion.core.errors import ConfigurationError, GraphError
from ganglion.workflow import Graph, StepOptions, StepOutput, as_completed, operation, pipeline, step
from ganglion.workflow.function import FunctionOperation


@step
def load(size: int = 3) -> list[int]:
    return list(range(size))


@step
def fit(data: list[int], *, rate: float, epochs: int = 1) -> float:
    return sum(data) * rate


@step(effect=True)
def announce(score: float) -> None:
    pass


def traced(function: Any, **parameters: Any) -> Graph:
    return pipeline(function).trace(parameters)


def test_the_graph_has_the_steps_with_their_edges_and_duplicates_are_numbered():
    def two() -> Any:
        data = load()
        return [fit(data, rate=1.0), fit(data, rate=2.0), fit(data, rate=3.0, name="best")]

    graph = traced(two)
    assert list(graph.nodes) == ["load", "fit", "fit-2", "best"]
    assert graph.nodes["fit-2"].needs() == ["load"]
    assert graph.nodes["fit-2"].arguments["rate"] == 2.0


def test_two_steps_of_one_explicit_name_are_refused():
    def twice() -> Any:
        return [load(name="x"), load(name="x")]

    with pytest.raises(GraphError, match="Two steps are called `x`"):
        traced(twice)


def test_a_cycle_is_refused_and_named():
    def circular() -> Any:
        data = load()
        first = fit(data, rate=1.0, name="first")
        second = fit(first, rate=1.0, name="second")
        second.then(first)
        return second

    with pytest.raises(GraphError, match=r"cycle: `(first|second)` needs `(first|second)` needs `(first|second)`"):
        traced(circular)


def test_a_cycle_in_a_graph_built_by_hand_is_refused():
    graph = Graph()
    work = FunctionOperation(load.function)
    graph.add(work, {"x": StepOutput(graph, "c")}, name="a")
    graph.add(work, {"x": StepOutput(graph, "a")}, name="b")
    graph.returned = graph.add(work, {"x": [StepOutput(graph, "b")]}, name="c")
    with pytest.raises(GraphError, match="`a` needs `c` needs `b` needs `a`"):
        graph.check()


def test_an_input_from_nowhere_is_refused_with_the_nearest_name():
    graph = Graph()
    graph.add(FunctionOperation(load.function), {}, name="ingest")
    graph.returned = graph.add(FunctionOperation(fit.function), {"data": StepOutput(graph, "injest")}, name="fit")
    with pytest.raises(
        GraphError, match=r"Step `fit`, argument `data`: there is no step `injest`.*Did you mean 'ingest'"
    ):
        graph.check()


def test_an_output_of_another_trace_is_refused():
    kept: list[Any] = []

    def first() -> Any:
        kept.append(load())
        return kept[0]

    def second() -> Any:
        return fit(kept[0], rate=1.0)

    traced(first)
    with pytest.raises(GraphError, match="Step `fit`, argument `data`: the output of `load` belongs to another"):
        traced(second)


def test_a_step_that_nothing_uses_is_refused_by_name_unless_it_is_there_for_its_effect():
    def forgetful() -> Any:
        load(name="forgotten")
        return load()

    with pytest.raises(GraphError, match="Nothing uses the result of `forgotten`"):
        traced(forgetful)

    def announcing() -> Any:
        score = fit(load(), rate=1.0)
        announce(score)
        return score

    assert "announce" in traced(announcing).nodes


def test_arguments_are_checked_against_the_signature():
    with pytest.raises(GraphError, match="Step `fit` needs the argument `rate`, which is not given"):
        traced(lambda: fit(load()))
    with pytest.raises(GraphError, match=r"Step `fit` has no argument `rat`. Allowed: .*Did you mean 'rate'"):
        traced(lambda: fit(load(), rat=1.0))
    with pytest.raises(GraphError, match="Step `fit`: too many positional arguments"):
        traced(lambda: fit(load(), 1.0))


def test_a_pipeline_without_steps_and_one_that_decides_on_an_output_are_refused():
    with pytest.raises(GraphError, match="has no steps"):
        traced(lambda: None)
    with pytest.raises(GraphError, match="not known while the pipeline is built"):
        traced(lambda: load() if load() else None)
    with pytest.raises(GraphError, match=r"output\[0\]"):
        traced(lambda: [item + 1 for item in load()])


def test_as_completed_takes_outputs_only():
    with pytest.raises(GraphError, match=r"as_completed\(\) takes"):
        traced(lambda: load(as_completed([1, 2])))
    with pytest.raises(GraphError, match=r"as_completed\(\) takes"):
        traced(lambda: load(as_completed([])))


def test_outside_a_pipeline_steps_and_pipelines_are_plain_functions():
    @pipeline
    def whole(rate: float = 2.0) -> float:
        return fit(as_completed(load(4)), rate=rate)

    assert load(2) == [0, 1]
    assert whole() == 12.0


def test_a_pipeline_within_a_pipeline_adds_its_steps():
    @pipeline
    def inner(rate: float) -> float:
        return fit(load(), rate=rate)

    def outer() -> Any:
        return fit([inner(1.0), inner(2.0)], rate=1.0, name="last")

    assert list(traced(outer).nodes) == ["load", "fit", "load-2", "fit-2", "last"]


def test_an_operation_hides_its_host_and_can_be_named_by_an_argument():
    @operation(kind="training", named_by="label")
    def train(host: Any, data: list[int], label: str = "plain") -> int:
        return 1

    def several() -> Any:
        return [train(load()), train(load(), label="deep")]

    graph = traced(several)
    assert list(graph.nodes) == ["load", "plain", "load-2", "deep"]
    assert graph.nodes["deep"].operation.kind == "training"
    with pytest.raises(GraphError, match="`train` can only be called within a pipeline"):
        train([1])


def test_options_are_checked_when_the_step_is_made():
    assert load.with_options(max_age="7d").options.max_age == 604800.0
    with pytest.raises(ConfigurationError, match=r"Unknown step option 'retrys'.*Did you mean 'retries'"):
        step(retrys=2)
    with pytest.raises(ConfigurationError, match="not a duration"):
        step(timeout="soon")
    with pytest.raises(ConfigurationError, match="cannot name a step"):
        StepOptions(name="../x")
    with pytest.raises(GraphError, match="has no name that an argument could be given by"):
        step(lambda *values: values)


def test_parameters_are_bound_converted_and_checked():
    @pipeline
    def tuned(epochs: int, rate: float = 0.1, names: tuple[str, ...] = ("a",)) -> Any:
        return fit(load(epochs), rate=rate)

    assert tuned.bind(["epochs=3", 'names=["x","y"]']) == {"epochs": 3, "rate": 0.1, "names": ("x", "y")}
    assert tuned.bind({"epochs": "4"})["epochs"] == 4
    with pytest.raises(ConfigurationError, match=r"no parameter 'epoch'.*Did you mean 'epochs'"):
        tuned.bind(["epoch=3"])
    with pytest.raises(ConfigurationError, match=r"parameter 'epochs'.*int"):
        tuned.bind(["epochs=many"])
    with pytest.raises(ConfigurationError, match="'epochs' has no default; give epochs=VALUE"):
        tuned.bind()
