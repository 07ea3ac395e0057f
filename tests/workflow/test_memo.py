from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ganglion.artifacts.store import FolderStore
from ganglion.workflow.codec import encode
from ganglion.workflow.fingerprint import Fingerprint
from ganglion.workflow.memo import Lookup, Memo, MemoEntry


class SetClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


FIRST = Fingerprint(digest="1" * 64, parts={"input n": "1", "code m.f": "a"})
OTHER = Fingerprint(digest="2" * 64, parts={"input n": "2", "code m.f": "a"})


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def memo(tmp_path: Path, store: FolderStore, clock: SetClock) -> Memo:
    return Memo(tmp_path / "memo", store, clock)


@pytest.fixture
def remembered(tmp_path: Path, memo: Memo, store: FolderStore, clock: SetClock) -> MemoEntry:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x").write_text("x")
    result = encode({"set": tmp_path / "set"}, store)
    entry = MemoEntry(at=clock.now(), run="run-1", step="f", parts=FIRST.parts, result=result)
    memo.remember(FIRST, entry, owner="p/f")
    return entry


Ask = Callable[..., Lookup]


def test_a_result_is_found_again_by_its_fingerprint(memo: Memo, remembered: MemoEntry, clock: SetClock):
    clock.time += 7200
    found = memo.look_up(FIRST, owner="p/f")
    assert found.entry == remembered
    assert found.reason == "hit: same code, inputs and environment as in run-1, 2 h ago"


def test_a_miss_says_why(memo: Memo, remembered: MemoEntry, tmp_path: Path):
    assert memo.look_up(OTHER, owner="p/g") == Lookup(entry=None, reason="miss: no earlier result")
    assert memo.look_up(OTHER, owner="p/f").reason == "miss: input `n` changed"
    unknown = Fingerprint(digest=None, parts={}, reason="input `s`: a socket")
    assert memo.look_up(unknown, owner="p/f").reason == "miss: cannot be fingerprinted (input `s`: a socket)"
    (tmp_path / "memo" / f"{FIRST.digest}.json").unlink()
    assert memo.look_up(FIRST, owner="p/f").reason == "miss: the earlier result was deleted"


def test_a_result_without_a_fingerprint_is_never_a_hit(memo: Memo, remembered: MemoEntry):
    unknown = Fingerprint(digest=None, parts={"input s": "unknown"}, reason="input `s`: a socket")
    memo.remember(unknown, remembered, owner="p/f")
    assert memo.look_up(unknown, owner="p/f").entry is None


def test_a_result_is_used_until_it_is_too_old(memo: Memo, remembered: MemoEntry, clock: SetClock):
    clock.time += 3599.0
    assert memo.look_up(FIRST, owner="p/f", max_age=3600.0).entry is not None
    clock.time += 1.0
    found = memo.look_up(FIRST, owner="p/f", max_age=3600.0)
    assert found == Lookup(entry=None, reason="miss: the result is 1 h old, max_age is 1 h")
    assert memo.look_up(FIRST, owner="p/f").entry is not None


def test_a_result_whose_artifact_is_gone_or_damaged_is_a_miss(memo: Memo, remembered: MemoEntry, store: FolderStore):
    (file,) = store.references(remembered.result["set"]["digest"])
    place = store.path(file)
    place.chmod(0o644)
    place.write_text("y")
    assert memo.look_up(FIRST, owner="p/f").reason.endswith("is damaged")
    store.delete(file)
    assert memo.look_up(FIRST, owner="p/f").reason.endswith("is gone")
    store.delete(remembered.result["set"]["digest"])
    assert memo.look_up(FIRST, owner="p/f").entry is None


def test_an_unreadable_entry_is_a_miss(memo: Memo, remembered: MemoEntry, tmp_path: Path):
    (tmp_path / "memo" / f"{FIRST.digest}.json").write_text("{")
    assert memo.look_up(FIRST, owner="p/f").entry is None
