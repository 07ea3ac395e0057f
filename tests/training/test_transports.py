"""Links and collectives as real processes would use them; each process is a thread here, with sockets of its own."""

import hashlib
import os
import socket
import threading
import time
from itertools import chain

import pytest
import torch
from links import roster, together

from ganglion.execution.member import Member
from ganglion.training.accelerator import TIMEOUT, AcceleratorCollective
from ganglion.training.assembly import Assembly, Bell
from ganglion.training.joining import join
from ganglion.training.memory import DeviceSlots, Slots
from ganglion.training.mesh import DisruptedError, Link, Mesh, frame
from ganglion.training.numerics import arithmetic
from ganglion.training.shared import SharedMemoryCollective
from ganglion.training.summation import OrderedSum, segments, shares
from ganglion.training.tcp import TcpCollective
from ganglion.training.tree import leaves, merges, partition


@pytest.fixture
def closing():
    """Keeps what has to be closed at the end."""
    kept = []

    def keep(thing):
        kept.append(thing)
        return thing

    yield keep
    for thing in kept:
        thing.close()


LENGTH = 70_001
LOGICAL = 8
FIVE = 5, LENGTH, torch.float32
MAKES = {"unix": SharedMemoryCollective, "tcp": TcpCollective, "device": AcceleratorCollective}


def slices():
    generator = torch.Generator().manual_seed(5)
    scale = 10.0 ** torch.randint(-6, 7, (LOGICAL, 1), generator=generator)
    return torch.randn(LOGICAL, LENGTH, generator=generator) * scale


def whole():
    result = torch.empty(LENGTH)
    OrderedSum(leaves(range(LOGICAL)), LOGICAL, torch.float32).into(result, list(slices()), 3.0)
    return result


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (1, 7), (3, 2, 3), (0, 5, 3), (2, 2, 2, 2), (3, 0, 1, 4)])
@pytest.mark.parametrize("kind", ["unix", "tcp", "device"])
def test_every_transport_and_mapping_gives_the_same_bits_twice(kind, sizes, tmp_path):
    ends = [sum(sizes[: rank + 1]) for rank in range(len(sizes))]
    spans = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    servers, peers = roster("tcp" if kind == "tcp" else "unix", tmp_path, len(sizes))
    values = slices()

    def work(rank):
        assembly = Assembly(f"worker-{rank}", 1, "secret", servers[rank])
        mesh = assembly.form(peers, 1)
        slots = DeviceSlots(*FIVE, torch.device("cpu")) if kind == "device" else Slots(*FIVE)
        collective = MAKES[kind](mesh, slots, logical=LOGICAL)
        digests = []
        for _ in range(2):
            height = 0
            for worker, count in zip(spans[rank], merges(leaves(spans[rank]), LOGICAL), strict=True):
                slots[height].copy_(values[worker])
                for _ in range(count):
                    height -= 1
                    slots[height].add_(slots[height + 1])
                height += 1
            reduced = collective.reduce(spans, b"%d" % rank, lambda notes: float(len(notes) * 3 / len(sizes)))
            assert reduced.notes == [b"%d" % other for other in range(len(sizes))]
            assert reduced.finite
            digests.append(hashlib.sha256(collective.result.numpy().tobytes()).hexdigest())
            assert collective.gather(b"x" * rank) == [b"x" * other for other in range(len(sizes))]
        collective.close()
        assembly.close()
        return digests

    expected = hashlib.sha256(whole().numpy().tobytes()).hexdigest()
    assert set(chain.from_iterable(together(len(sizes), work))) == {expected}


class Counted:
    """A replica whose whole state is one number."""

    def __init__(self, number):
        self.commits = -1
        self.number = torch.tensor(number)

    def begin(self):
        pass

    def state(self):
        return {"number": self.number}

    def restore(self, state):
        self.number = state["number"]


def test_processes_that_an_operator_started_find_each_other_and_begin_alike(closing):
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def work(rank):
        slots = Slots(1, 10, torch.float32)
        slots[0].fill_(rank + 1.0)
        group = closing(
            join(Member(), place | {"RANK": str(rank)}, slots, logical=2, arithmetic=arithmetic(), exact=True)
        )
        replica = Counted(7 + rank)
        group.settle(replica)
        group.reduce(b"", lambda _notes: 1.0, 0.0)
        return int(replica.number), float(group.result.sum())

    assert together(2, work) == [(7, 30.0), (7, 30.0)]


def test_one_number_that_is_not_finite_is_known_to_all(tmp_path, closing):
    servers, peers = roster("unix", tmp_path, 3)

    def work(rank):
        mesh = closing(Assembly(f"worker-{rank}", 1, "secret", servers[rank])).form(peers, 1)
        slots = Slots(1, 100, torch.float32)
        slots[0][99] = float("nan") if rank == 1 else 0.0
        return (
            closing(SharedMemoryCollective(mesh, slots, logical=3))
            .reduce([range(n, n + 1) for n in range(3)], b"", lambda _notes: 1.0)
            .finite
        )

    assert together(3, work) == [False, False, False]


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_message_larger_than_any_buffer_arrives(kind, tmp_path, closing):
    servers, peers = roster(kind, tmp_path, 2)
    message = os.urandom(3_000_000)

    def work(rank):
        mesh = closing(closing(Assembly(f"worker-{rank}", 1, "", servers[rank])).form(peers, 1))
        return mesh.exchange(message[rank:])

    assert together(2, work) == [[message, message[1:]]] * 2


def test_the_end_of_a_process_ends_the_wait_for_it():
    here, there = socket.socketpair()
    mesh = Mesh(0, {1: Link(here)})
    threading.Timer(0.05, there.close).start()
    with pytest.raises(DisruptedError, match="has left"):
        mesh.receive([1])
    mesh.close()


def test_who_has_said_everything_may_go_before_the_others_have(closing):
    (first, gone), (second, late) = (socket.socketpair() for _ in range(2))
    mesh = closing(Mesh(0, {1: Link(first), 2: Link(second)}))
    gone.sendall(frame(b"done"))
    gone.close()
    threading.Timer(0.05, late.sendall, [frame(b"too")]).start()
    assert mesh.receive([1, 2]) == {1: b"done", 2: b"too"}
    late.close()
    with pytest.raises(DisruptedError, match="Rank 1 has left"):
        mesh.receive([1])


def test_a_change_of_the_membership_ends_every_wait(closing):
    here, _ = map(closing, socket.socketpair())
    bell = Bell()
    mesh = Mesh(0, {1: Link(here)}, wake=bell.descriptor, disrupted=lambda: True)
    for wait in (lambda: mesh.receive([1]), lambda: mesh.transfer({}, {1: [memoryview(bytearray(10))]})):
        threading.Timer(0.05, bell.ring).start()
        with pytest.raises(DisruptedError, match="membership"):
            wait()
        bell.silence()


def test_whoever_does_not_know_the_secret_is_not_let_in(tmp_path):
    servers, peers = roster("unix", tmp_path, 2)

    def work(rank):
        bell = Bell()
        threading.Timer(0.5, bell.ring).start()
        assembly = Assembly(f"worker-{rank}", 1, f"secret {rank}", servers[rank])
        with pytest.raises(DisruptedError):
            assembly.form(peers, 1, wake=bell.descriptor, disrupted=lambda: True)
        assembly.close()
        return True

    assert together(2, work) == [True, True]


def test_who_is_behind_is_refused_and_who_is_ahead_is_waited_for(tmp_path, closing):
    servers, peers = roster("unix", tmp_path, 2)
    behind, ahead = (closing(Assembly(f"worker-{rank}", 1, "s", servers[rank])) for rank in range(2))

    def work(rank):
        if rank == 1:
            return closing(ahead.form(peers, 2)).rank
        bell = Bell()
        threading.Timer(0.3, bell.ring).start()
        with pytest.raises(DisruptedError, match="membership"):
            behind.form(peers, 1, wake=bell.descriptor, disrupted=lambda: True)
        return closing(behind.form(peers, 2)).rank

    assert together(2, work) == [0, 1]

    def late(rank):
        if rank == 1:
            with pytest.raises(DisruptedError, match="has left"):
                ahead.form(peers, 1)
            return "refused"
        bell = Bell()
        threading.Timer(0.5, bell.ring).start()
        with pytest.raises(DisruptedError, match="membership"):
            behind.form(peers, 2, wake=bell.descriptor, disrupted=lambda: True)
        return "waited"

    assert together(2, late) == ["waited", "refused"]


def test_segments_cover_a_vector_once():
    for length in (0, 1, 15, 16, 17, 1000, LENGTH):
        for world in (1, 2, 3, 8):
            covered = [index for part in segments(length, world) for index in range(length)[part]]
            assert covered == list(range(length))


def test_who_is_slow_adds_nothing_up_and_nobody_waits_for_its_word(tmp_path, closing):
    """The fast one has its sum although the slow one says nothing after its vectors."""
    spans = [range(7), range(7, 8)]
    assert shares(100, spans) == (slice(0, 100), slice(0, 0))
    servers, peers = roster("unix", tmp_path, 2)
    over = threading.Event()

    def work(rank):
        mesh = closing(Assembly(f"worker-{rank}", 1, "secret", servers[rank])).form(peers, 1)
        slots = Slots(4, 100, torch.float32)
        for slot in range(3 if rank == 0 else 1):
            slots[slot].fill_(1.0)
        collective = closing(SharedMemoryCollective(mesh, slots, logical=8))
        if rank == 1:
            mesh.exchange(b"")
            assert over.wait(20)
            return None
        reduced = collective.reduce(spans, b"", lambda _notes: 1.0)
        over.set()
        return reduced.finite, float(collective.result.sum())

    assert together(2, work)[0] == (True, 400.0)


@pytest.fixture
def devices(tmp_path):
    """Collectives of two processes whose vectors lie on devices."""

    def make(work):
        servers, peers = roster("tcp", tmp_path, 2)
        bells = [Bell(), Bell()]

        def connect(rank):
            assembly = Assembly(f"worker-{rank}", 1, "secret", servers[rank])
            mesh = assembly.form(peers, 1, wake=bells[rank].descriptor, disrupted=lambda: True)
            assembly.close()
            slots = DeviceSlots(1, 100, torch.float32, torch.device("cpu"))
            return work(rank, mesh, AcceleratorCollective(mesh, slots, logical=2), bells[rank])

        return together(2, connect)

    return make


@pytest.mark.parametrize("end", ["gone", "membership"])
def test_an_operation_of_a_device_ends_when_a_peer_is_gone_or_the_membership_changes(end, devices):
    """The peer takes part in the notes and then never in the operation."""
    over = threading.Event()

    def work(rank, mesh, collective, bell):
        if rank == 1:
            mesh.exchange(b"")
            if end == "gone":
                mesh.close()
            assert over.wait(20)
            collective.close()
            return None
        if end == "membership":
            threading.Timer(0.2, bell.ring).start()
        began = time.monotonic()
        with pytest.raises(DisruptedError, match=end if end == "membership" else "left"):
            collective.reduce([range(1), range(1, 2)], b"", lambda _notes: 1.0)
        collective.close()
        over.set()
        return time.monotonic() - began

    assert devices(work)[0] < TIMEOUT / 2


def test_a_number_that_is_not_finite_on_a_device_is_known_to_all(devices):
    def work(rank, mesh, collective, bell):
        collective._slots[0].fill_(float("nan") if rank else 1.0)
        reduced = collective.reduce([range(1), range(1, 2)], b"", lambda _notes: 1.0)
        collective.close()
        return reduced.finite

    assert devices(work) == [False, False]


def test_parts_that_are_not_the_whole_tree_are_refused():
    with pytest.raises(ValueError, match="not the whole tree"):
        OrderedSum(partition([range(3)], 3)[0][:1] + leaves(range(3, 4)), 5, torch.float32)
