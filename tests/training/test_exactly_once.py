"""Every record of an epoch in exactly one committed step, whatever happens to whom: the plan alone, without processes.

What decides is the real thing (the mapping, the order formula, the feed, whose state counts); what is played is who
dies when: before the sum is agreed upon, or while it is being committed, so that some have and others have not.
"""

import copy
import random

import numpy as np
import pytest

from ganglion.data import Certificate, Order
from ganglion.training.elastic import newest_state
from ganglion.training.feed import Feed
from ganglion.training.mapping import Balance

SCHEDULES = 1000
EPOCHS = 2
LOGICAL = 5


class Numbers:
    """A source whose records are their own ids, in the order of the data room."""

    def __init__(self, count, global_batch, seed):
        self.count, self.global_batch = count, global_batch
        self.steps_per_epoch = -(-count // global_batch)
        self.order = Order(count, seed)

    def batches(self, epoch, *, first, last, of, start=0):
        for step in range(start, self.steps_per_epoch):
            positions = np.arange(step * self.global_batch, min(self.count, (step + 1) * self.global_batch))
            mine = positions[first * len(positions) // of : last * len(positions) // of]
            yield {"id": self.order.at(epoch, mine)}


class Process:
    """What one process holds: its state, which contains what was learned from, and its place in the data."""

    def __init__(self, source):
        self.commits = -1
        self.epoch = self.step = 0
        self.learned = [Certificate() for _ in range(EPOCHS)]
        self.feed = Feed(source, LOGICAL)

    def restore(self, other):
        self.commits, self.epoch, self.step = other.commits, other.epoch, other.step
        self.learned = copy.copy(other.learned)

    def commit(self, steps_per_epoch, learned):
        self.learned[self.epoch] += learned
        self.commits += 1
        self.step += 1
        if self.step == steps_per_epoch:
            self.epoch, self.step = self.epoch + 1, 0


def play(seed, *, whose_state=newest_state):
    """A training under a drawn schedule; what it learned from, what there was, and how many transactions broke off."""
    chance = random.Random(seed)
    source = Numbers(chance.randint(20, 60), chance.randint(5, 19), seed)
    processes = [Process(source) for _ in range(chance.randint(1, 4))]
    saved, broken, balance = None, 0, None
    while processes[0].epoch < EPOCHS:
        if balance is None:
            newest, holder, behind = whose_state([process.commits for process in processes])
            for rank in behind:
                processes[rank].restore(processes[holder])
            for process in processes:
                process.commits = newest
            balance = Balance(len(processes), LOGICAL)
            if processes[0].epoch == EPOCHS:
                break
        spans = balance.spans
        learned = Certificate()
        for process, span in zip(processes, spans, strict=True):
            for columns in process.feed.slices(process.epoch, process.step, span).values():
                learned += Certificate.of(columns["id"])
        event = chance.choice(["nothing"] * 6 + ["die before", "die between", "join", "cut", "all die", "save"])
        survivors = [process for process in processes if chance.random() < 0.6] or [chance.choice(processes)]
        if event in ("die before", "cut", "all die"):
            broken += 1
            if event == "die before":
                processes = survivors
            elif event == "all die":  # the newest checkpoint, or the beginning
                processes = [Process(source) for _ in processes]
                for process in processes if saved else ():
                    process.restore(saved)
            balance = None
            continue
        reached = set(map(id, processes))
        if event == "die between":  # some have heard that the sum is complete, the others learn of a death
            broken += 1
            reached = {id(process) for process in processes if chance.random() < 0.5}
        for process in processes:
            if id(process) in reached:
                process.commit(source.steps_per_epoch, learned)
        balance.observe([chance.choice((0.1, 0.1, 0.4)) * len(span) for span in spans])
        if event == "die between":
            processes, balance = survivors, None
        elif event == "join":
            processes, balance = [*processes, Process(source)], None
        elif event == "save":
            saved = Process(source)
            saved.restore(processes[0])
    return processes[0].learned, [Certificate.of(np.arange(source.count))] * EPOCHS, broken


def test_no_record_is_lost_or_learned_from_twice():
    """Certificates of what was learned from are those of whole epochs; most schedules break steps off."""
    wrong, disturbed = [], 0
    for seed in range(SCHEDULES):
        learned, whole, broken = play(seed)
        disturbed += bool(broken)
        if learned != whole:
            wrong.append(seed)
    assert wrong == []
    assert disturbed > SCHEDULES / 2


@pytest.mark.parametrize("planted", ["whoever is first", "nobody gives"])
def test_a_planted_mistake_is_seen(planted):
    """Going on from any state but the newest loses or repeats records."""

    def mistaken(commits):
        newest, holder, behind = newest_state(commits)
        if planted == "nobody gives":
            return newest, holder, [rank for rank in behind if commits[rank] < 0]
        return max(commits[0], 0), 0, [rank for rank, own in enumerate(commits) if rank and own < commits[0]]

    wrong = 0
    for seed in range(150):
        try:
            learned, whole, _ = play(seed, whose_state=mistaken)
        except IndexError:  # beyond the last epoch
            wrong += 1
            continue
        wrong += learned != whole
    assert wrong > 10
