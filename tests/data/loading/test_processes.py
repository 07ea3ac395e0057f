from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import psutil
import pytest
from loading_records import TRANSFORMS, Away, Deadly, digest

from ganglion.core.errors import ExecutionError, OutageError
from ganglion.data import Loader
from ganglion.data.dataset.prepared import PreparedDataset

PATIENCE = 30.0


@contextmanager
def on_processes(dataset: PreparedDataset, **options) -> Iterator[Loader]:
    options = {"transforms": TRANSFORMS, "global_batch": 20, "seed": 4, "parallel": 2, "memory": 2**20} | options
    with Loader(dataset, workers="processes", **options) as loader:
        yield loader


def until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def test_killed_workers_and_zygotes_are_replaced_and_their_work_is_done_again(packed, children) -> None:
    expected = [digest(batch) for batch in Loader(packed, global_batch=20, seed=4, transforms=TRANSFORMS)]
    found, kills = [], 0
    with on_processes(packed) as loader:
        for batch in loader:
            found.append(digest(batch))
            if loader.step in (3, 20, 40):
                children()[0 if loader.step == 20 else -1].kill()
                kills += 1
    assert kills == 3
    assert found == expected


def test_work_that_kills_every_worker_is_an_error_that_says_which(packed, children) -> None:
    with (
        on_processes(packed, transforms=(Deadly(),), parallel=1) as loader,
        pytest.raises(ExecutionError, match="from step 0 of epoch 0"),
    ):
        next(iter(loader))


def test_what_a_worker_raises_is_raised_here_and_can_be_gone_on_from(packed, children, tmp_path: Path) -> None:
    file = tmp_path / "away"
    file.touch()
    with on_processes(packed, transforms=(Away(str(file)),)) as loader:
        found = []
        with pytest.raises(OutageError, match="thesaurus") as raised:
            found.extend(digest(batch) for batch in loader)
        assert "In a data worker" in "".join(raised.value.__notes__)
        file.unlink()
        step = loader.step
        rest = [digest(batch) for batch in loader]
    expected = [digest(batch) for batch in Loader(packed, global_batch=20, seed=4)]
    assert rest == expected[step:]


def test_a_dataset_that_is_gone_is_an_error_and_not_a_hang(packed, children, tmp_path: Path) -> None:
    with on_processes(packed, parallel=1) as loader:
        packed_root = packed.store.root
        try:
            packed_root.rename(tmp_path / "elsewhere")
            with pytest.raises(Exception, match="There is no artifact"):
                next(iter(loader))
        finally:
            (tmp_path / "elsewhere").rename(packed_root)


def test_nothing_is_left_behind(packed, children) -> None:
    with on_processes(packed) as warm:  # what stays open for good is open after this
        list(islice(warm, 3))
    descriptors, shared = psutil.Process().num_fds(), set(os.listdir("/dev/shm"))
    for _ in range(2):
        with on_processes(packed) as loader:
            kept = list(islice(loader, 5))
            workers = children()[1:]
            assert len(workers) == 2
        assert not any(worker.is_running() for worker in workers)
        assert [len(batch.ids) for batch in kept] == [len(batch.columns["tokens"]) for batch in kept]
        del kept
    assert psutil.Process().num_fds() <= descriptors  # fewer, where garbage of earlier tests was collected
    assert {name for name in set(os.listdir("/dev/shm")) - shared if "ganglion" in name} == set()


def test_a_loader_that_is_forgotten_ends_its_processes(packed, children) -> None:
    loader = Loader(packed, global_batch=20, workers="processes", parallel=1, memory=2**20)
    next(iter(loader))
    started = children()[0]
    del loader
    until(lambda: not started.is_running())


def test_workers_end_with_the_process_that_started_them(packed, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with on_processes(packed) as loader:
                next(iter(loader))
                pids = [process.pid for process in psutil.Process().children(recursive=True)]
                os.write(writer, " ".join(map(str, pids)).encode())
                signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    pids = [int(pid) for pid in os.read(reader, 1000).split()]
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(pids) == 3
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_batches_that_are_kept_are_no_reason_to_wait(packed, children) -> None:
    with on_processes(packed) as loader:
        batches = list(loader)
        again = [digest(batch) for batch in Loader(packed, global_batch=20, seed=4, transforms=TRANSFORMS)]
        assert [digest(batch) for batch in batches] == again
