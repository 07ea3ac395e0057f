"""Names, quantities, and what fields of a spec become."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ganglion.backends.kubernetes import quantities
from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.names import dns_label, label_value
from ganglion.backends.kubernetes.pods import literal
from ganglion.backends.kubernetes.render import render
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import Gang, Role, Task

CONFIG = KubernetesConfig(image="model:1")
UNITS = {"": 1, "m": Fraction(1, 1000), "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200).filter(lambda text: re.search("[a-z0-9]", text))


def value_of(quantity: str) -> Fraction:
    match = re.fullmatch(r"([0-9]+)(|m|Ki|Mi|Gi)", quantity)
    assert match, quantity
    return Fraction(match[1]) * UNITS[match[2]]


@given(NAMES, st.integers(12, 63))
def test_every_name_becomes_a_dns_label(text: str, longest: int) -> None:
    name = dns_label(text, longest=longest)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= longest
    assert dns_label(text, longest=longest) == name
    assert dns_label(name, longest=longest) == name


@given(NAMES, NAMES)
def test_different_names_stay_different(first: str, second: str) -> None:
    assume(first != second)
    assert dns_label(first) != dns_label(second)
    assert label_value(first) != label_value(second)


@pytest.mark.parametrize("make", [dns_label, label_value])
def test_names_that_look_alike_stay_different(make: Callable[[str], str]) -> None:
    texts = ["run-1-a", "run 1-a", "run_1/a", "run 1/a", "run--1:a", "run-1-a-", "a" * 63, "a" * 64, "a" * 65]
    assert len({make(text) for text in texts}) == len(texts)


@given(st.text(max_size=200))
def test_every_text_becomes_the_value_of_a_label(text: str) -> None:
    assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", label_value(text))


@given(st.integers(1, 10**6), st.integers(16 * 2**20, 2**44), st.integers(0, 16))
def test_quantities_say_what_was_asked_for(thousandths: int, memory: int, gpu: int) -> None:
    wanted = Resources(cpu=thousandths / 1000, memory=memory, gpu=gpu)
    made = quantities.requirements(wanted, "work")
    assert value_of(made["requests"]["cpu"]) == Fraction(thousandths, 1000)
    assert value_of(made["requests"]["memory"]) == value_of(made["limits"]["memory"]) == memory
    assert int(made["limits"].get("nvidia.com/gpu", "0")) == gpu
    assert all(isinstance(value, str) for part in made.values() for value in part.values())


def test_quantities_are_written_as_people_do() -> None:
    made = quantities.requirements(Resources(cpu=0.5, memory=512 * 2**20, gpu=2), "work")
    assert made["limits"] == {"memory": "512Mi", "nvidia.com/gpu": "2"}
    assert made["requests"]["cpu"] == "500m"


def expand(text: str, variables: dict[str, str]) -> str:
    """What Kubernetes makes of a value (https://kubernetes.io/docs/tasks/inject-data-application)."""
    made, rest = "", text
    while rest:
        if rest.startswith("$$"):
            made, rest = made + "$", rest[2:]
        elif match := re.match(r"\$\(([^)]*)\)", rest):
            made, rest = made + variables.get(match[1], match[0]), rest[match.end() :]
        else:
            made, rest = made + rest[0], rest[1:]
    return made


@given(st.text("$()aHOME{}", max_size=30))
def test_text_arrives_in_the_container_as_it_was_given(text: str) -> None:
    assert expand(literal(text), {"HOME": "/root", "a": "b", "": "c"}) == text


def plan_in(container: dict[str, Any]) -> Any:
    return json.loads({found["name"]: found.get("value") for found in container["env"]}["GANGLION_MEMBER"])


def test_a_task_runs_once_with_its_limits() -> None:
    task = Task(id="work", entry=Entry(path="a.b:c"), arguments={"x": (1, 2)}, timeout=0.2, grace=7.5)
    (made,) = render(task, CONFIG)
    pod = made["spec"]["template"]["spec"]
    assert (made["spec"]["backoffLimit"], made["spec"]["activeDeadlineSeconds"]) == (0, 1)
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 8)
    assert plan_in(pod["containers"][0])["entry"] == "a.b:c"
    assert plan_in(pod["containers"][0])["arguments"] == {"x": [1, 2]}


@pytest.mark.parametrize("roles", [(Role(count=3),), (Role(name="chief"), Role(count=2))])
def test_the_first_member_is_the_master(roles: tuple[Role, ...]) -> None:
    gang = Gang(id="train", entry=Entry(path="a:b"), roles=roles)
    (made,) = render(gang, KubernetesConfig(image="model:1", training="pytorchjob"))
    replicas = made["spec"]["pytorchReplicaSpecs"]
    assert {name: found["replicas"] for name, found in replicas.items()} == {"Master": 1, "Worker": 2}


def test_a_gang_of_one_has_no_workers() -> None:
    gang = Gang(id="train", entry=Entry(path="a:b"))
    (made,) = render(gang, KubernetesConfig(image="model:1", training="pytorchjob"))
    assert list(made["spec"]["pytorchReplicaSpecs"]) == ["Master"]


def test_rendering_changes_nothing_that_it_is_given() -> None:
    gang = Gang(id="train", entry=Entry(path="a:b"), labels={"run": "r"}, environment={"A": "1"})
    first = render(gang, CONFIG)
    first[0]["metadata"]["labels"]["x"] = "y"
    first[0]["spec"]["trainer"]["env"].clear()
    assert render(gang, CONFIG)[0]["spec"]["trainer"]["env"]
    assert "x" not in render(gang, CONFIG)[0]["metadata"]["labels"]
