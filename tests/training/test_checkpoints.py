"""Checkpoints as a training uses them: saved beside it, verified, refused where they do not belong."""

import contextlib
import os
import resource
import select
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch

from ganglion.core import faults
from ganglion.core.errors import ConfigurationError, IntegrityError, ModelError
from ganglion.training.checkpoints import Archive, Checkpointing, Keeper, Progress, Recipe, Saver
from ganglion.training.checkpoints import saver as saver_module
from ganglion.training.checkpoints.reading import newest

RECIPE = Recipe(plan={"seed": 3, "epochs": 2, "callbacks": []}, arithmetic={"torch": "2", "threads": 1})


@pytest.fixture
def state():
    """A model with layouts of two kinds and its optimizer, after a step; filled with one number on request."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()

    def make(fill=None):
        if fill is not None:
            with torch.no_grad():
                for tensor in model.parameters():
                    tensor.fill_(fill)
        return {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict(), "position": {"epoch": 1}}

    return make


@pytest.fixture
def make_saver(tmp_path):
    savers = []

    def make(recipe=RECIPE, **fields):
        settings = Checkpointing(**{"folder": str(tmp_path / "checkpoints"), "shortest": 0, **fields})
        savers.append(Saver(settings, recipe=recipe))
        return savers[-1]

    yield make
    for saver in savers:
        saver.close()


@pytest.fixture
def at_point():
    """Call something at fault points."""
    yield lambda handler: faults.install(lambda name, context: handler(name, context))
    faults.install(None)


@pytest.fixture
def warnings(monkeypatch):
    lines = []

    class Logger:
        def warning(self, event, **values):
            lines.append((event, values))

    monkeypatch.setattr(saver_module, "get_logger", Logger)
    monkeypatch.setattr("ganglion.training.checkpoints.reading.get_logger", Logger)
    return lines


def at(step, **metrics):
    return Progress(step=step, epoch=0, batch=step, metrics=metrics)


def load(saver, state, recipe=RECIPE, allow=()):
    return newest(saver.archive, model=state["model"], recipe=recipe, allow=allow)


def test_what_is_read_is_what_was_saved_down_to_the_layout(make_saver, state):
    saver = make_saver()
    given = {**state(), "callbacks": {1: {"best": float("-inf"), "many": (1, 2**70), "weights": torch.arange(3)}}}
    assert saver.save(given, at(5, accuracy=0.5), wait=True)
    found = load(saver, given)
    assert found.manifest.progress == at(5, accuracy=0.5)
    for part in ("model", "optimizer", "callbacks"):
        flat, _ = torch.utils._pytree.tree_flatten(given[part])
        again, _ = torch.utils._pytree.tree_flatten(found.state[part])
        assert len(flat) == len(again)
        for ours, theirs in zip(flat, again, strict=True):
            if isinstance(ours, torch.Tensor):
                assert torch.equal(ours, theirs)
                assert (ours.dtype, ours.stride()) == (theirs.dtype, theirs.stride())
            else:
                assert ours == theirs
    assert found.state["position"] == {"epoch": 1}


def test_the_weights_are_an_ordinary_safetensors_file(make_saver, state):
    saver = make_saver()
    given = state()
    saver.save(given, at(1), wait=True)
    weights = safetensors.torch.load_file(saver.archive.folder / "1" / "model.safetensors")
    assert weights.keys() == given["model"].keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in given["model"].items())


def test_training_goes_on_while_it_is_written(make_saver, state, at_point):
    saver = make_saver()
    saver.save(state(0.0), at(0), wait=True)
    writing, go_on = threading.Event(), threading.Event()

    def hold(name, _context):
        if name == "training.checkpoint_write":
            writing.set()
            assert go_on.wait(30)

    at_point(hold)
    assert saver.save(state(1.0), at(1))
    assert writing.wait(30)
    changed = state(2.0)
    assert not saver.due({})
    assert not saver.save(changed, at(2))
    assert saver.archive.steps() == [0]
    go_on.set()
    saver.close()
    assert saver.archive.steps() == [1, 0]
    assert load(saver, changed).state["model"]["0.weight"].eq(1).all()


def test_the_first_one_waits_for_memory_that_is_made_beside_the_training(make_saver, state):
    saver = make_saver()
    assert not saver.save(state(), at(1))
    saver._work.result(30)
    assert saver.save(state(), at(2))
    saver.close()
    assert saver.archive.steps() == [2]


def test_the_last_and_the_best_are_kept(make_saver, state):
    saver = make_saver(keep_last=2, keep_best="accuracy")
    for step, accuracy in enumerate((0.2, 0.9, 0.5, 0.6, 0.4)):
        assert saver.due({"accuracy": accuracy}) == (step < 2)
        assert saver.save(state(), at(step, accuracy=accuracy), wait=True)
    assert saver.archive.steps() == [4, 3, 1]
    another = make_saver(keep_last=1, keep_best="accuracy", shortest=500)
    assert not another.due({"accuracy": 0.8})
    assert another.due({"accuracy": 0.95})
    another.save(state(), at(9, accuracy=0.95), wait=True)
    assert another.archive.steps() == [9]


def test_the_cadence_follows_the_cost(make_saver, state):
    saver = make_saver(shortest=0, longest=10**9)
    saver.save(state(), at(1), wait=True)
    assert saver.cost > 0
    assert 0.5 * (2 * saver.cost * 86_400) ** 0.5 < saver.interval < 2 * (2 * saver.cost * 86_400) ** 0.5
    assert not saver.due({})


class Training:
    """What a loop has: a model with a buffer that its state dictionary leaves out, and where it stands."""

    def __init__(self, folder, **fields):
        self.model = torch.nn.Linear(3, 2)
        self.model.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.step = 0
        settings = Checkpointing(**{"folder": str(folder), "shortest": 0, "longest": 0, **fields})
        self.keeper = Keeper(settings, recipe=RECIPE, model=self.model)

    def commit(self):
        self.step += 1
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                tensor.fill_(self.step)
        self.keeper.offer(lambda: {"tensors": [], "count": {"step": self.step}}, at(self.step))


def test_a_training_goes_on_from_what_it_offered(tmp_path):
    first = Training(tmp_path)
    assert first.keeper.resume() is None
    while len(Archive(tmp_path).steps()) < 2:
        first.commit()
    first.keeper.close()
    second = Training(tmp_path)
    found = second.keeper.resume()
    second.step = found["count"]["step"]
    assert 2 <= second.step <= first.step
    weight, bias, hidden = found["tensors"]
    assert weight.shape == (2, 3)
    assert all(tensor.eq(second.step).all() for tensor in (weight, bias, hidden))


def test_lives_are_counted_so_that_failures_shorten_the_interval(tmp_path):
    seconds = []
    for losses in range(3):
        training = Training(tmp_path)
        found = training.keeper.resume()
        training.step = found["count"]["step"] if found else 0
        before = training.step
        while max(Archive(tmp_path).steps(), default=0) <= before:
            training.commit()
        training.keeper.close()
        manifest = Archive(tmp_path).newest()
        assert manifest.losses == losses
        seconds.append(manifest.seconds)
    assert seconds == sorted(seconds)
    one_of_many = Training(tmp_path)  # it was not there when the training went on: nothing was lost since
    one_of_many.step = manifest.progress.step
    while Archive(tmp_path).newest().progress.step <= manifest.progress.step:
        one_of_many.commit()
    one_of_many.keeper.close()
    assert Archive(tmp_path).newest().losses == 2


# what does not belong


def test_a_checkpoint_of_another_model_names_the_tensors(make_saver, state):
    saver = make_saver()
    given = state()
    saver.save(given, at(1), wait=True)
    other = {"model": dict(given["model"])}
    other["model"]["0.weight"] = torch.zeros(4, 3, 5, 5)
    other["model"]["extra.weight"] = other["model"].pop("0.bias")
    with pytest.raises(ModelError) as caught:
        load(saver, other)
    message = str(caught.value)
    assert "missing in the checkpoint: extra.weight" in message
    assert "unexpected in the checkpoint: 0.bias" in message
    assert "0.weight is float32[4, 3, 5, 5] here, float32[4, 3, 3, 3] there" in message


@pytest.mark.parametrize("what", ["plan", "arithmetic"])
def test_another_plan_or_arithmetic_is_refused_unless_it_is_allowed(make_saver, state, what):
    saver = make_saver()
    saver.save(state(), at(1), wait=True)
    fields = {"plan": {"seed": 4}, "arithmetic": {"threads": 2}}[what]
    other = msgspec.structs.replace(RECIPE, **{what: getattr(RECIPE, what) | fields})
    (name, value) = next(iter(fields.items()))
    with pytest.raises(ConfigurationError, match=f"another {what}.*{name}: {value} here"):
        load(saver, state(), other)
    assert load(saver, state(), other, allow=[what]).manifest.progress.step == 1


def test_what_the_weights_do_not_depend_on_may_differ(make_saver, state):
    saver = make_saver()
    saver.save(state(), at(1), wait=True)
    other = msgspec.structs.replace(RECIPE, plan=RECIPE.plan | {"callbacks": ["one"]})
    assert load(saver, state(), other) is not None


def test_what_cannot_be_saved_is_named(make_saver, state):
    with pytest.raises(ConfigurationError, match=r"callbacks/1/file, which is a PosixPath.*get_state"):
        make_saver().save({**state(), "callbacks": {1: {"file": Path()}}}, at(1))


# damage


def test_a_cut_or_a_flipped_bit_anywhere_is_found(tmp_path):
    """Every length and a flipped bit in every byte, of a checkpoint small enough for that."""
    saver = Saver(Checkpointing(folder=str(tmp_path)), recipe=Recipe(plan={}, arithmetic={}))
    saver.save({"model": {"w": torch.arange(9)}, "rest": {"x": 1.5}}, at(1), wait=True)
    saver.close()
    archive = Archive(tmp_path)
    files = list((tmp_path / "1").iterdir())
    assert {path.name for path in files} == {"manifest.json", "model.safetensors", "state.msgpack"}
    for path in files:
        whole = path.read_bytes()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            for damaged in (whole[:place], flipped):
                path.write_bytes(damaged)
                with pytest.raises(IntegrityError, match="damaged"):
                    archive.verify(1)
        path.write_bytes(whole + b"\0")
        with pytest.raises(IntegrityError, match="damaged"):
            archive.verify(1)
        path.unlink()
        with pytest.raises(IntegrityError):
            archive.verify(1)
        path.write_bytes(whole)
    archive.verify(1)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "state.msgpack"])
def test_the_previous_one_is_used_and_the_damaged_one_named(make_saver, state, warnings, name):
    saver = make_saver()
    for step in (1, 2):
        saver.save(state(float(step)), at(step), wait=True)
    path = saver.archive.folder / "2" / name
    path.write_bytes(path.read_bytes()[:-1])
    found = load(saver, state())
    assert found.manifest.progress.step == 1
    assert found.state["model"]["0.weight"].eq(1).all()
    ((_, values),) = warnings
    assert str(path.parent) in values["reason"]
    assert name in values["reason"]
    saver.save(state(3.0), at(2), wait=True)  # the training comes by again
    assert load(saver, state()).state["model"]["0.weight"].eq(3).all()


def test_a_copy_under_another_step_is_no_checkpoint(make_saver, state):
    saver = make_saver()
    saver.save(state(), at(1), wait=True)
    shutil.copytree(saver.archive.folder / "1", saver.archive.folder / "7")
    assert load(saver, state()).manifest.progress.step == 1


def save_forever(folder, step, said):
    weights = {"w": torch.zeros(300_000), "v": torch.zeros(1000)}
    saver = Saver(Checkpointing(folder=str(folder)), recipe=Recipe(plan={}, arithmetic={}))
    while True:
        step += 1
        for tensor in weights.values():
            tensor.fill_(step)
        saver.save({"model": weights}, at(step), wait=step % 2 == 0)
        said.write(f"{step}\n")
        said.flush()


def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path):
    last = 0
    model = {"w": torch.zeros(300_000), "v": torch.zeros(1000)}
    for life in range(12):
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            save_forever(tmp_path, last, os.fdopen(writes, "w"))
        os.close(writes)
        with os.fdopen(reads) as heard:
            for _ in range(2 + life % 3):
                said = int(heard.readline())
            select.select([heard], [], [], 0.001 * life)  # into the next one
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        found = newest(Archive(tmp_path), model=model, recipe=Recipe(plan={}, arithmetic={}))
        step = found.manifest.progress.step
        assert step >= said - 1 > last - 1
        assert all(tensor.eq(step).all() for tensor in found.state["model"].values())
        last = step


def test_a_process_killed_while_it_replaces_a_checkpoint_loses_neither(tmp_path):
    training = Training(tmp_path)
    while not Archive(tmp_path).steps():
        training.commit()
    training.keeper.close()
    step = Archive(tmp_path).steps()[0]
    pid = os.fork()
    if pid == 0:
        faults.install(
            lambda name, _context: os.kill(os.getpid(), signal.SIGKILL) if name.endswith("_replace") else None
        )
        Saver(Checkpointing(folder=str(tmp_path)), recipe=RECIPE).save({"model": {}}, at(step), wait=True)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert step not in Archive(tmp_path).steps()
    assert Training(tmp_path).keeper.resume()["count"]["step"] == step


# a disk that takes no more


def check_survives(saver, state, warnings, *, fill, clear):
    saver.save(state(1.0), at(1), wait=True)
    fill()
    try:
        for step in (2, 3):
            assert saver.save(state(float(step)), at(step), wait=True)
            assert saver.problem
    finally:
        clear()
    assert [event for event, _ in warnings if "could not be saved" in event] == [warnings[0][0]]
    assert load(saver, state()).state["model"]["0.weight"].eq(1).all()
    assert sorted(path.name for path in saver.archive.folder.iterdir()) == ["1"]
    assert saver.save(state(4.0), at(4), wait=True)
    assert not saver.problem
    assert load(saver, state()).state["model"]["0.weight"].eq(4).all()


def test_files_may_not_grow(make_saver, state, warnings):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    check_survives(
        make_saver(),
        state,
        warnings,
        fill=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard)),
        clear=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
    )


def test_the_disk_is_full(make_saver, state, warnings, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        ballast = folder / "ballast"

        def fill():
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        check_survives(make_saver(folder=str(folder / "checkpoints")), state, warnings, fill=fill, clear=ballast.unlink)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
