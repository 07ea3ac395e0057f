"""Events are plain data with a tag: the same in memory, on a wire and on disk."""

from __future__ import annotations

import typing

import msgspec
import pytest

from ganglion.core.events import AnyEvent, Event, Exit, ExitKind, MemberEvent, MemberExited
from ganglion.core.run_events import AnyRunEvent, ArtifactReference, RunEvent

SAMPLES = {
    "int": 3,
    "float": 1.5,
    "str": "text",
    "bool": True,
    "str | None": "text",
    "float | None": 2.5,
    "Any": {"nested": [1, None]},
    "tuple[str, ...]": ("a", "b"),
    "dict[str, Any]": {"loss": 0.5, "list": [1]},
    "dict[str, float]": {"accuracy": 0.9},
    "dict[str, str]": {"python": "3.11"},
    "list[dict[str, Any]]": [{"step": "a", "needs": []}],
    "Exit": Exit(kind=ExitKind.KILLED, message="killed by SIGKILL", signal=9),
    "tuple[ArtifactReference, ...]": (ArtifactReference(digest="d", kind="model", size=3),),
}


def sample(kind: type[msgspec.Struct]) -> msgspec.Struct:
    """One with a value other than the default in every field."""
    annotations = {
        name: text for base in reversed(kind.__mro__) for name, text in vars(base).get("__annotations__", {}).items()
    }
    return kind(**{field: SAMPLES[annotations[field]] for field in kind.__struct_fields__})


def concrete(base: type) -> set[type]:
    found = set()
    for kind in base.__subclasses__():
        found |= concrete(kind) or {kind}
    return {kind for kind in found if kind.__module__.startswith("ganglion.core.")}


@pytest.mark.parametrize(("base", "union"), [(Event, AnyEvent), (RunEvent, AnyRunEvent)])
def test_the_union_has_every_event(base, union):
    assert set(typing.get_args(union)) == concrete(base)


@pytest.mark.parametrize("union", [AnyEvent, AnyRunEvent])
def test_tags_are_unique(union):
    tags = [kind.__struct_config__.tag for kind in typing.get_args(union)]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
@pytest.mark.parametrize(
    ("union", "kind"), [(union, kind) for union in (AnyEvent, AnyRunEvent) for kind in typing.get_args(union)]
)
def test_every_event_is_decoded_by_its_tag(union, kind, codec):
    event = sample(kind)
    data = codec.encode(event)
    assert codec.decode(data)["event"] == kind.__struct_config__.tag
    assert codec.decode(data, type=union) == event


def test_an_unknown_tag_is_refused():
    with pytest.raises(msgspec.ValidationError, match="Invalid value"):
        msgspec.json.decode(b'{"event": "unheard_of", "at": 1, "job": "j"}', type=AnyEvent)


def test_events_of_members_name_the_attempt():
    for kind in concrete(MemberEvent):
        assert {"at", "job", "member", "attempt"} <= set(kind.__struct_fields__)


def test_an_exit_keeps_its_kind_as_a_word():
    event = sample(MemberExited)
    assert msgspec.json.decode(msgspec.json.encode(event))["exit"]["kind"] == "killed"
