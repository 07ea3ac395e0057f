"""Gradients that are exchanged while others are still being computed: the same bits, sooner, nothing left behind."""

import threading

import pytest
import torch
from links import roster, together
from torch import nn
from torch.utils.checkpoint import checkpoint

from ganglion.execution.entry import Entry
from ganglion.training import tcp
from ganglion.training.assembly import Assembly, Bell
from ganglion.training.computation import Computation
from ganglion.training.gradients import Gradients
from ganglion.training.losses import load_loss
from ganglion.training.memory import Slots
from ganglion.training.mesh import DisruptedError
from ganglion.training.plan import Factory, TrainingPlan
from ganglion.training.statistics import RunningStatistics
from ganglion.training.summation import OrderedSum
from ganglion.training.tcp import TcpCollective
from ganglion.training.tensors import Columnizer
from ganglion.training.tree import leaves, merges

LENGTH, BUCKET = 10_001, 1024
PATIENCE = 20


@pytest.fixture
def connect(tmp_path, monkeypatch):
    """The collectives of processes; the links of all are cut at the end."""
    made = []
    monkeypatch.setattr(tcp, "BUCKET", BUCKET)

    def connect(rank, servers, peers, **options):
        assembly = Assembly(f"worker-{rank}", 1, "secret", servers[rank])
        mesh = assembly.form(peers, 1, **options)
        assembly.close()
        slots = Slots(5, LENGTH, torch.float32)
        collective = TcpCollective(mesh, slots, logical=8)
        made.append(collective)
        return collective, slots

    def leave(collective):
        made.remove(collective)
        collective.close()

    connect.leave = leave
    yield connect
    for collective in made:
        collective.close()


def fill(slots, span, values):
    """As a computation leaves the sums over the maximal subtrees."""
    height = 0
    for worker, count in zip(span, merges(leaves(span), 8), strict=True):
        slots[height].copy_(values[worker])
        for _ in range(count):
            height -= 1
            slots[height].add_(slots[height + 1])
        height += 1


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (1, 7), (3, 2, 3), (0, 5, 3), (2, 2, 2, 2), (3, 0, 1, 4)])
def test_the_bits_are_the_same_whatever_was_complete_when(sizes, tmp_path, connect):
    ends = [sum(sizes[: rank + 1]) for rank in range(len(sizes))]
    spans = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    servers, peers = roster("tcp", tmp_path, len(sizes))
    values = torch.randn(8, LENGTH, generator=torch.Generator().manual_seed(3)) * 10.0 ** torch.arange(-4, 4)[:, None]
    expected = torch.empty(LENGTH)
    OrderedSum(leaves(range(8)), 8, torch.float32).into(expected, list(values), 7.0)

    def work(rank):
        collective, slots = connect(rank, servers, peers)
        for turn in range(3):  # told of everything, of a part, of nothing
            fill(slots, spans[rank], values)
            complete = collective.overlap(spans) if turn < 2 else None
            assert (complete is not None) == (turn < 2 and len(sizes) > 1)
            for begin in (9_990, 6_000 + 100 * rank, 5_000, 0)[: 4 - 2 * turn] if complete else ():
                complete(begin)
            reduced = collective.reduce(spans, b"%d" % rank, lambda _notes: 7.0)
            assert reduced.notes == [b"%d" % other for other in range(len(sizes))]
            assert reduced.finite
            assert torch.equal(collective.result, expected)
            assert collective.gather(b"x" * rank) == [b"x" * other for other in range(len(sizes))]
        return True

    assert all(together(len(sizes), work))


def test_the_end_of_the_sum_is_there_before_the_beginning_is_computed(tmp_path, connect):
    servers, peers = roster("tcp", tmp_path, 2)
    spans = [range(4), range(4, 8)]
    done = [threading.Event(), threading.Event()]

    def work(rank):
        collective, slots = connect(rank, servers, peers)
        slots[0][LENGTH - BUCKET :] = rank + 1.0
        collective.overlap(spans)(LENGTH - BUCKET)
        waited = threading.Event()
        for _ in range(1000 * PATIENCE):
            if bool((collective.result[LENGTH - BUCKET :] == 3.0).all()):
                break
            waited.wait(0.001)
        early = float(collective.result.sum())
        done[rank].set()
        assert all(event.wait(PATIENCE) for event in done)
        slots[0][: LENGTH - BUCKET] = 1.0
        collective.reduce(spans, b"", lambda _notes: 1.0)
        return early, float(collective.result.sum())

    assert together(2, work) == [(3.0 * BUCKET, 3.0 * BUCKET + 2.0 * (LENGTH - BUCKET))] * 2


@pytest.mark.parametrize("end", ["a peer is gone", "the membership has changed", "the step is given up"])
def test_a_disruption_in_the_middle_leaves_no_thread(end, tmp_path, connect):
    servers, peers = roster("tcp", tmp_path, 2)
    spans = [range(4), range(4, 8)]
    over = threading.Event()
    before = {thread for thread in threading.enumerate() if thread.name == "ganglion-reduction"}

    def work(rank):
        bell = Bell()
        collective, _ = connect(rank, servers, peers, wake=bell.descriptor, disrupted=lambda: True)
        collective.overlap(spans)(5_000)
        if rank == 1:
            if end != "a peer is gone":
                assert over.wait(PATIENCE)
            connect.leave(collective)
            return None
        if end == "the step is given up":
            connect.leave(collective)
        else:
            if end == "the membership has changed":
                bell.ring()
            with pytest.raises(DisruptedError):
                collective.reduce(spans, b"", lambda _notes: 1.0)
        over.set()
        return {thread for thread in threading.enumerate() if thread.name == "ganglion-reduction"} - before

    left = together(2, work)[0]
    assert len(left) <= 1  # that of the other process
    assert not any(thread.is_alive() for thread in left)


class Stack(nn.Module):
    """Three layers of which the middle one may be computed again in the backward pass, and used twice."""

    def __init__(self, *, twice=False):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(300, 300) for _ in range(3))
        self.twice = twice

    def forward(self, inputs):
        first, middle, last = self.layers
        inputs = first(inputs)
        for _ in range(2 if self.twice else 1):
            inputs = checkpoint(middle, inputs, use_reentrant=True) if self.twice else middle(inputs)
        return last(inputs)


@pytest.fixture
def computation():
    """What computes the gradients of a stack, its vectors, and records for some logical workers."""

    def make(*, logical=4, twice=False, **fields):
        torch.manual_seed(0)
        model = Stack(twice=twice)
        nothing = Factory(entry=Entry(path="builtins:object"))
        plan = TrainingPlan(model=nothing, train=nothing, loss="mean_squared_error", **fields)
        gradients = Gradients(list(model.parameters()))
        slots = Slots(4, gradients.length, gradients.dtype)
        computing = Computation(
            plan,
            model=model,
            loss=load_loss("mean_squared_error"),
            columnizer=Columnizer(input_column="x", target_column="y", channels_last=False),
            statistics=RunningStatistics(model, lambda: None),
            gradients=gradients,
            slots=slots,
            logical=logical,
        )
        generator = torch.Generator().manual_seed(1)
        slices = {
            worker: {name: torch.randn(6, 300, generator=generator).numpy() for name in "xy"}
            for worker in range(logical)
        }
        return computing, slots, slices

    return make


@pytest.mark.parametrize("fields", [{}, {"micro_batches": 3}])
def test_what_is_said_to_be_complete_is_and_stays(computation, fields):
    computing, slots, slices = computation(**fields)
    computing.accumulate(0, range(4), slices)
    expected = slots[0].clone()
    told = []

    def complete(begin):
        told.append(begin)
        assert torch.equal(slots[0][begin:], expected[begin:])
        assert begin == 0 or not torch.equal(slots[0][:begin], expected[:begin])

    computing.accumulate(0, range(4), slices, complete)
    assert told == [2 * 300 * 301, 300 * 301, 0][: len(told)]
    assert len(told) >= 2
    assert torch.equal(slots[0], expected)


def test_a_layer_whose_gradient_comes_in_two_parts_is_noticed_before_the_first_step(computation):
    computing, _, slices = computation(twice=True, micro_batches=2)
    computing.warm_up(slices[0])
    assert not computing.may_overlap


def test_a_gradient_that_changes_after_it_was_sent_disrupts_the_step_and_not_the_next(computation):
    computing, _, slices = computation(twice=True)
    with pytest.raises(DisruptedError, match="added to twice"):
        computing.accumulate(0, range(4), slices, lambda _begin: None)
    assert not computing.may_overlap


def test_slices_that_may_be_left_out_are_not_sent_before_they_are_known_to_be_in(computation):
    assert not computation(max_bad_slices=1)[0].may_overlap
