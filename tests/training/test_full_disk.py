"""Checkpoints that cannot be saved do not end a training, and do not take the ones away that could."""

import os
import subprocess

import pytest
from msgspec.structs import replace

from ganglion.execution.entry import Entry
from ganglion.testing.faults import Fault, happened
from ganglion.training import Factory
from ganglion.training.checkpoints import Archive, Checkpointing

STEPS, FULL = 60, 30


@pytest.fixture
def disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder), capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(("umount", "--lazy", folder), check=True)


@pytest.fixture
def plan(small_plan, sample):
    """Checkpoints as often as they can be written."""

    def make(folder, **fields):
        checkpoints = Checkpointing(folder=str(folder), keep_last=2, shortest=0, longest=0)
        return small_plan(
            train=sample("squares", count=STEPS * 16 // 2, global_batch=16),
            held_out=None,
            epochs=2,
            logical_workers=2,
            checkpoints=checkpoints,
            **fields,
        )

    return make


def check(train, plan, outcome, archive, latest):
    """The training went on with what it had, says so, and can be taken up from there."""
    expected = train(replace(plan, checkpoints=None, callbacks=()), workers=1)
    outcome.raise_for_failure()
    assert outcome.value["digest"] == expected.value["digest"]
    assert os.strerror(28) in outcome.value["checkpoint_problem"]
    assert str(archive.folder) in outcome.value["checkpoint_problem"]
    newest = archive.steps()[0]
    assert 0 < newest <= latest
    assert archive.verify(newest).progress.step == newest
    again = train(replace(plan, callbacks=()), workers=1)
    again.raise_for_failure()
    assert again.value["digest"] == expected.value["digest"]
    assert again.value["checkpoint_problem"] == ""


def test_writing_fails_from_some_step_on(train, plan, tmp_path):
    archive = Archive(tmp_path / "checkpoints")
    script = [Fault(kind="disk_full", step=step, attempt=0, times=0) for step in range(FULL + 1, STEPS + 1)]
    outcome = train(plan(archive.folder), workers=2, faults=script)
    check(train, plan(archive.folder), outcome, archive, FULL)


def test_the_file_system_is_full(train, plan, disk):
    archive = Archive(disk / "checkpoints")
    filling = Factory(entry=Entry(path="checkpoint_samples:FillDisk"), arguments={"folder": str(disk), "step": FULL})
    outcome = train(plan(archive.folder, callbacks=(filling,)), workers=2)
    (disk / "filling").unlink()
    # One that is being written as the disk fills up gives room back when it ends.
    check(train, plan(archive.folder), outcome, archive, (FULL + 2 * STEPS) // 3)


@pytest.mark.parametrize("often", [True, False])
def test_a_loss_that_is_no_number_leaves_the_last_good_state_from_which_the_mended_training_goes_on(
    train, plan, sample, tmp_path, often
):
    archive = Archive(tmp_path / "checkpoints")
    every = {} if often else {"shortest": 600, "longest": 600}
    checkpoints = replace(plan(archive.folder).checkpoints, **every)
    images = {"count": STEPS * 16, "global_batch": 16, "shuffle": False}
    poisoned = sample("squares", **images, poison=FULL * 16)
    outcome = train(replace(plan(archive.folder), train=poisoned, epochs=1, checkpoints=checkpoints), workers=2)
    assert not outcome.succeeded
    assert f"not a finite number in epoch 1, batch {FULL + 1} of {STEPS}" in outcome.traceback
    assert f"the last good state is that after step {FULL}" in " ".join(outcome.traceback.split())
    assert f"kept as the checkpoint {archive.folder / str(FULL)}" in " ".join(outcome.traceback.split())
    assert archive.steps()[0] == FULL
    archive.verify(FULL)

    mended = replace(plan(archive.folder), train=sample("squares", **images), epochs=1)
    allowing = replace(mended, checkpoints=replace(checkpoints, allow=("plan",)))
    again = train(allowing, workers=1, faults=[Fault(kind="mark", point="commit", times=0)])
    again.raise_for_failure()
    assert [entry.step for entry in happened(tmp_path)] == list(range(FULL, STEPS))
