"""Synchronous data-parallel training, one transaction after the other.

Every process computes its slices of each global batch, the gradients are summed along the tree, and every replica takes
the same step. Whatever a step changes (weights, the optimizer, running statistics, the position in the data, counts,
callbacks) is changed after the sum has been agreed upon; whoever is lost before that is done without, and the step is
repeated.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from ganglion.core import faults
from ganglion.core.errors import DataError, ExecutionError
from ganglion.core.resources import cores
from ganglion.execution.member import Member
from ganglion.training.callbacks import Callback, Training
from ganglion.training.checkpoints.keeper import Keeper
from ganglion.training.checkpoints.manifest import Progress
from ganglion.training.computation import Computation, Slice
from ganglion.training.departure import Departure, LeftAloneError
from ganglion.training.diagnosis import Circumstances, Verdict, diagnose
from ganglion.training.evaluation import evaluate_together
from ganglion.training.feed import Feed
from ganglion.training.gradients import Gradients
from ganglion.training.group import Group
from ganglion.training.losses import Loss
from ganglion.training.measures import Survey, Told
from ganglion.training.memory import vectors_for
from ganglion.training.mesh import DisruptedError
from ganglion.training.metrics import find_metrics
from ganglion.training.observers import Observers
from ganglion.training.optimizers import build_optimizer
from ganglion.training.pauses import Pauses
from ganglion.training.plan import TrainingPlan
from ganglion.training.source import BatchSource, Columns, part_of
from ganglion.training.state import digest
from ganglion.training.statistics import RunningStatistics
from ganglion.training.tensors import Columnizer
from ganglion.training.timing import Stage
from ganglion.training.tree import depth, leaves


class DivergedError(ExecutionError):
    """The loss or a gradient is not a finite number; the step was not taken."""


class Phase(enum.StrEnum):
    """What the next transaction is."""

    STEP = "step"
    EVALUATE = "evaluate"
    DECIDE = "decide"
    FINISH = "finish"
    DONE = "done"


class Position(msgspec.Struct):
    """Where a training stands; part of what a transaction commits.

    Attributes:
        phase: what comes next.
        epoch: from 0.
        batch: steps taken in this epoch; with `epoch` the whole cursor of the data.
        loss: sum over the records of this epoch so far.
        records: how many they are.
    """

    phase: Phase = Phase.STEP
    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    records: float = 0.0


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """What a process has to say: why the training is to stop, of each slice, and where the time of its steps went.

    `leaves` says that it ends after this step.
    """

    stop: str
    slices: tuple[Slice, ...]
    told: Told
    leaves: bool


class Loop:
    """One training on one process.

    Args:
        plan: what to do.
        model: the same on every process.
        train: what is learned from.
        held_out: what is measured on after each epoch, if anything.
        loss: mean over records.
        columnizer: picks inputs and targets.
        probe: some training records, on which the model shows which buffers it changes.
        logical: number of logical workers.
        callbacks: the same on every process.
        keeper: of its checkpoints, if there are to be any.
        member: this process.

    Attributes:
        training: what callbacks see.
        slots: the vectors that a group sums; to be given to it.
        commits: as `group.Replica` has it.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        model: torch.nn.Module,
        train: BatchSource,
        held_out: BatchSource | None,
        loss: Loss,
        columnizer: Columnizer,
        probe: Columns,
        logical: int,
        callbacks: Sequence[Callback],
        keeper: Keeper | None = None,
        member: Member,
    ) -> None:
        self.training = Training(model, steps=plan.steps(train.steps_per_epoch), steps_per_epoch=train.steps_per_epoch)
        self.commits = -1
        self._plan = plan
        self._model = model
        self._train = train
        self._held_out = held_out
        self._loss = loss
        self._columnizer = columnizer
        self._metrics = find_metrics(plan.measured)
        self._logical = logical
        self._observers = Observers(callbacks, self.training)
        self._position = Position()
        self._feed = Feed(train, logical)
        self._keeper = keeper
        self._departure = Departure(member)
        self._leaving: list[bool] = []
        self._pauses = Pauses(
            patience=plan.patience, secure=self._secure, report=member.report, leaving=member.draining
        )
        self._model.train()
        self._statistics = RunningStatistics(model, lambda: model(columnizer(probe)[0]))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = build_optimizer(plan.optimizer, trained, plan.learning_rate)
        self._gradients = Gradients(trained, self._statistics.length)
        count = depth(leaves(range(logical)), logical) + 1
        self.slots = vectors_for(trained[0].device, count, self._gradients.length, self._gradients.dtype)
        self._computation = Computation(
            plan,
            model=model,
            loss=loss,
            columnizer=columnizer,
            statistics=self._statistics,
            gradients=self._gradients,
            slots=self.slots,
            logical=logical,
        )
        self._shown: tuple[torch.Tensor, list[torch.Tensor]] | None = None
        self._survey = Survey()
        self._timer = self._survey.timer
        self._circumstances = Circumstances(
            logical=logical,
            cores=cores(),
            channels_last=plan.channels_last,
            precision=plan.precision,
            micro_batches=plan.micro_batches,
        )
        self.training.diagnose = lambda: diagnose(self._survey.tally.recent(), self._circumstances)

    def run(self, group: Group, publish: Callable[[str], bytes]) -> bytes:
        """Train to the last epoch, or until a callback stops it.

        Args:
            group: the processes.
            publish: makes what `run` returns of `training` and the digest of its state; called on rank 0.

        Returns:
            What `publish` returned; the same on every process.

        Raises:
            DivergedError: the loss or a gradient was not finite; raised on every process.
            DataError: the source gave a label out of range, or fewer batches than it said.
            OutageError: a source was away for longer than the plan's patience lasts.
            ControlError: another process is gone and cannot be done without.
            Terminated: this process was asked to leave, and has.
        """
        try:
            with self._departure:
                result = self._run(group, publish)
            self._feed.close()
            return result
        except LeftAloneError:
            self._secure()
            self._departure.leave()
        finally:
            self._pauses.close()
            if self._keeper is not None:
                self._keeper.close()

    def _run(self, group: Group, publish: Callable[[str], bytes]) -> bytes:
        result = b""
        while self._position.phase is not Phase.DONE:
            try:
                group.settle(self)
                self._observers.start(group.rank)
                match self._position.phase:
                    case Phase.STEP:
                        self._step(group)
                    case Phase.EVALUATE:
                        self._evaluate(group)
                    case Phase.DECIDE:
                        self._decide(group)
                    case _:
                        faults.point("training.finish", step=self.training.step)
                        result = group.gather(publish(self._digest()) if group.rank == 0 else b"")[0]
                        self._position.phase = Phase.DONE
                self.commits += 1
                self._offer(group.rank)
                self._timer.finish()
                self._part(group)
            except DisruptedError as error:
                group.disband(error)
        return result

    def warm_up(self, records: Columns) -> None:
        """Compute a slice for nothing, so that others need not wait for what a process does only once.

        Args:
            records: at least one; of as many as a slice has, if there are as many.
        """
        size = max(1, self._train.global_batch // self._logical)
        self._computation.warm_up(part_of(records, slice(size)))

    def diagnosis(self) -> Verdict:
        """What the training was bound by, as far as this process has seen it."""
        return diagnose(self._survey.tally.total(), self._circumstances)

    # the state, as `group.Replica` has it

    def begin(self) -> None:
        """Go on from a checkpoint, if there is one."""
        state = self._keeper.resume() if self._keeper is not None else None
        if state is not None:
            self.restore(state)

    def state(self) -> dict[str, Any]:
        """Everything that the next transaction depends on."""
        self._statistics.restore()
        training = self.training
        return {
            "position": msgspec.structs.asdict(self._position),
            "training": {name: getattr(training, name) for name in _COUNTS},
            "tensors": [*self._model.parameters(), *self._model.buffers()],
            "optimizer": self._optimizer.state_dict(),
            "callbacks": self._observers.get_state(),
        }

    def restore(self, state: object) -> None:
        """Take over the state of another process."""
        assert isinstance(state, dict)
        with torch.no_grad():
            for mine, theirs in zip((*self._model.parameters(), *self._model.buffers()), state["tensors"], strict=True):
                mine.copy_(theirs)
        self._statistics.keep()
        self._optimizer.load_state_dict(state["optimizer"])
        self._position = msgspec.convert(state["position"], Position)
        for name, value in state["training"].items():
            setattr(self.training, name, value)
        self._observers.set_state(state["callbacks"])
        self._survey.forget()

    def _offer(self, rank: int) -> None:
        """Let the chief save what was committed, if that is due; a state that was just measured with its metrics."""
        if self._keeper is not None and rank == 0 and self._position.phase is not Phase.DONE:
            self._keeper.offer(self.state, self._progress())

    def _secure(self) -> None:
        """Save what was committed now, whoever this process is; only between two commits."""
        if self._keeper is not None and self.commits >= 0:
            self._keeper.secure(self.state, self._progress())

    def _progress(self) -> Progress:
        position, training = self._position, self.training
        metrics = training.metrics if position.phase is Phase.DECIDE else {}
        return Progress(step=training.step, epoch=position.epoch, batch=position.batch, metrics=metrics)

    def _part(self, group: Group) -> None:
        """After a step in which somebody said that it leaves: leave, or let it go."""
        leaving, self._leaving = self._leaving, []
        if not any(leaving):
            return
        stay = group.release(leaving)
        if not stay and group.rank == 0:
            self._secure()
        if leaving[group.rank] or not stay:
            self._departure.leave()

    def _digest(self) -> str:
        position = (self._position.epoch, self._position.batch, self.training.step, self.training.records)
        return digest((dict(self._model.state_dict()), self._optimizer.state_dict(), position))

    # transactions

    def _step(self, group: Group) -> None:
        position, training = self._position, self.training
        self._timer.start()
        span = group.spans[group.rank]
        faults.point("training.load", step=training.step)
        slices = self._pauses.read(
            lambda: self._feed.slices(position.epoch, position.batch, span), step=training.step, again=self._feed.close
        )
        self._timer.ended(Stage.LOAD)
        faults.point("training.batch", step=training.step, slices=slices)
        try:
            with group.computing():
                complete = group.overlap() if self._computation.may_overlap else None
                said = self._computation.accumulate(training.step, span, slices, complete)
        except DataError as error:
            raise DataError(f"{error} It is {self._place()}.") from error
        faults.point("training.before_reduce", step=training.step)
        parts: list[_Part] = []

        def divisor(notes: Sequence[bytes]) -> float:
            parts.extend(msgspec.msgpack.decode(note, type=_Part) for note in notes)
            return float(max(1, sum(said.records for part in parts for said in part.slices)))

        note = msgspec.msgpack.encode(
            _Part(
                training.stopped,
                tuple(said),
                self._survey.say(left=training.steps - training.step - 1),
                self._departure.asked.is_set(),
            )
        )
        reduced = group.reduce(note, divisor, self._timer.ended(Stage.COMPUTE))
        self._timer.ended(Stage.REDUCE)
        self._survey.hear([part.told for part in parts])
        faults.point("training.after_reduce", step=training.step)
        self._leaving = [part.leaves for part in parts]
        everyone = [each for part in parts for each in part.slices]  # in the order of the logical workers
        self._check(everyone, reduced.finite)
        records = sum(each.records for each in everyone)
        loss = 0.0
        for each in everyone:  # one by one: the sum has one order
            loss += each.loss
        self._show(group.result)
        self._set_learning_rate()
        self._optimizer.step()
        self._timer.ended(Stage.UPDATE)
        faults.point("training.optimizer", step=training.step)
        self._statistics.commit(self._gradients.statistics(group.result))
        position.batch += 1
        position.loss += loss
        position.records += records
        training.step += 1
        training.records += records
        training.loss = loss / max(1, records)
        training.bad_slices += sum(bool(each.problem) for each in everyone)
        training.stopped = next((part.stop for part in parts if part.stop), training.stopped)
        is_last = training.step == training.steps or any(part.stop for part in parts)
        if is_last or position.batch == self._train.steps_per_epoch:
            position.phase = Phase.EVALUATE
        self._observers.step(group.rank)
        faults.point("training.commit", step=training.step - 1)

    def _evaluate(self, group: Group) -> None:
        position = self._position
        metrics = {"train_loss": position.loss / max(1.0, position.records)}
        if self._held_out is not None:
            measure = partial(
                evaluate_together,
                self._model,
                self._held_out,
                metrics=self._metrics,
                loss=self._loss,
                columnizer=self._columnizer,
                gather=group.gather,
                span=group.spans[group.rank],
                logical=self._logical,
            )
            metrics |= self._pauses.read(measure, step=self.training.step, timed=False)
        self.training.metrics = metrics
        self._position = Position(phase=Phase.DECIDE, epoch=position.epoch + 1)
        self._observers.epoch(group.rank, position.epoch + 1, metrics)
        faults.point("training.evaluated", step=self.training.step)

    def _decide(self, group: Group) -> None:
        """Agree whether the training goes on: callbacks of rank 0 may have stopped it."""
        reasons = [msgspec.msgpack.decode(said, type=str) for said in group.gather(_encode(self.training.stopped))]
        self.training.stopped = next(filter(None, reasons), "")
        if self.training.stopped or self.training.step == self.training.steps:
            self._position.phase = Phase.FINISH
            self._observers.end(group.rank)
        else:
            self._position.phase = Phase.STEP

    # a step

    def _check(self, slices: Sequence[Slice], finite: bool) -> None:
        """Refuse a step that would spoil the model; on every process alike."""
        training, plan, place = self.training, self._plan, self._place()
        problems = [f"logical worker {worker}: {each.problem}" for worker, each in enumerate(slices) if each.problem]
        if training.bad_slices + len(problems) > plan.max_bad_slices:
            raise DataError(
                f"{training.bad_slices + len(problems)} slices cannot be used, {plan.max_bad_slices} may be left out; "
                f"the last {place}: {'; '.join(problems)}. Mend the data, or raise max_bad_slices. "
                f"{self._keep_good()}".rstrip()
            )
        if not finite or not all(np.isfinite(each.loss) for each in slices):
            where = [str(worker) for worker, each in enumerate(slices) if not np.isfinite(each.loss)]
            which = f", in the loss of logical worker {', '.join(where)} of {len(slices)}" if where else ""
            raise DivergedError(
                f"The loss or a gradient is not a finite number {place}{which}. The step was not taken: the last good "
                f"state is that after step {training.step}. Try a lower learning rate than {plan.learning_rate:g}, "
                f"clip_norm, or look for such numbers in the records. {self._keep_good()}".rstrip()
            )

    def _keep_good(self) -> str:
        """Save the state that a step which cannot be taken has left as it was; where it lies, and how to go on."""
        settings = self._plan.checkpoints
        if settings is None or self._keeper is None:
            return ""
        self._secure()
        folder = Path(settings.folder) / str(self.training.step)
        if not folder.is_dir():
            return f"The state before that step could not be saved: {self._keeper.problem()}."
        return (
            f"The state before that step is kept as the checkpoint {folder}, from which the same training goes on when "
            'it is begun again; with changed settings, where its checkpoints have allow=("plan",).'
        )

    def _place(self) -> str:
        position, training = self._position, self.training
        return (
            f"in epoch {position.epoch + 1}, batch {position.batch + 1} of {self._train.steps_per_epoch} (step "
            f"{training.step + 1} of {training.steps})"
        )

    def _show(self, result: torch.Tensor) -> None:
        """Let the optimizer see the reduced gradient."""
        most = self._plan.clip_norm
        vector = result if most is None else self._gradients.clipped(result, most)
        if self._shown is None or self._shown[0] is not vector:
            self._shown = (vector, self._gradients.views(vector))
        self._gradients.show(self._shown[1])

    def _set_learning_rate(self) -> None:
        training = self.training
        factor = self._plan.schedule.factor(training.step, training.steps, training.steps_per_epoch)
        training.learning_rate = self._plan.learning_rate * factor * training.scale
        for group in self._optimizer.param_groups:
            group["lr"] = training.learning_rate


_COUNTS = ("step", "records", "loss", "metrics", "stopped", "scale", "bad_slices")
"""Attributes of `Training` that are part of the state."""

_encode = msgspec.msgpack.encode
