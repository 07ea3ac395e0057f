"""What every backend has to do: one suite, run by each of them.

Subclass `BackendContract` in a test module and give `factory`, the import path of a function that makes the backend
from a folder with exactly two CPUs declared:

```python
class TestMine(BackendContract):
    factory = "my_package.testing:make"
```
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import psutil
import pytest

from ganglion.core.errors import SpecError
from ganglion.core.events import (
    AnyEvent,
    ExitKind,
    JobAdmitted,
    JobFinished,
    MemberExited,
    MemberJoined,
    MemberReady,
    MemberReported,
    MemberSampled,
    MemberStarted,
)
from ganglion.core.registry import load_object
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry, entry_of
from ganglion.execution.exits import MemberEnded
from ganglion.execution.member import connect
from ganglion.execution.outcome import OutcomeState
from ganglion.execution.spec import Gang, Numerics, OnControlLoss, Restart, Role, Service, Task
from ganglion.execution.supervisor import Job, Supervisor
from ganglion.testing import entries
from ganglion.testing.recorder import PATIENCE, Recorder, await_gone


def entry(function: Callable[..., Any]) -> Entry:
    """The entry of a function of `ganglion.testing.entries`."""
    return entry_of(function)


HALF = Resources(cpu=0.5)


class BackendContract:
    """The suite; `factory` names a function `folder -> Backend` that declares exactly two CPUs."""

    factory: ClassVar[str]

    @pytest.fixture
    def supervisor(self, tmp_path: Path) -> Iterator[Supervisor]:
        """A supervisor on a fresh backend."""
        supervisor = Supervisor(load_object(self.factory)(tmp_path), tmp_path)
        yield supervisor
        supervisor.close()

    # tasks and their ends

    def test_a_task_returns_the_value_of_its_entry(self, supervisor: Supervisor) -> None:
        """The value travels back as plain data."""
        job = supervisor.submit(Task(id="sum", entry=entry(entries.add), arguments={"a": 2, "b": 3}))
        outcome = job.wait(PATIENCE)
        assert outcome.state is OutcomeState.SUCCEEDED
        assert outcome.value == 5

    def test_getting_ready_ahead_holds_nothing_and_breaks_nothing(self, supervisor: Supervisor) -> None:
        """Said twice, and with a module that does not exist, which is the entry's own affair."""
        numerics, preload = Numerics(threads=1), ("json", "no_such_module")
        for _ in range(2):
            supervisor.backend.warm(numerics, preload)
        spec = Task(
            id="ready",
            entry=entry(entries.add),
            arguments={"a": 2, "b": 3},
            resources=Resources(cpu=2.0),
            numerics=numerics,
            preload=preload,
        )
        assert supervisor.submit(spec).wait(PATIENCE).value == 5

    def test_a_function_without_an_import_path_runs(self, supervisor: Supervisor) -> None:
        """A lambda travels pickled."""
        job = supervisor.submit(Task(id="lambda", entry=entry_of(lambda: 7)))
        assert job.wait(PATIENCE).value == 7

    def test_an_exception_comes_back_with_type_and_traceback(self, supervisor: Supervisor) -> None:
        """The failing line is shown."""
        outcome = supervisor.submit(Task(id="fail", entry=entry(entries.fail), arguments={"message": "no"})).wait(
            PATIENCE
        )
        exit_ = outcome.exits["task-0"]
        assert (outcome.state, exit_.kind, exit_.error_type) == (
            OutcomeState.FAILED,
            ExitKind.EXCEPTION,
            "ValueError",
        )
        assert "raise ValueError(message)" in (outcome.traceback or "")

    @pytest.mark.parametrize("how", [entries.leave, entries.vanish])
    def test_an_exit_status_is_reported(self, supervisor: Supervisor, how: Callable[..., Any]) -> None:
        """137 is only a number unless there is evidence of a signal or of memory."""
        outcome = supervisor.submit(Task(id="exit", entry=entry(how), arguments={"code": 137})).wait(PATIENCE)
        exit_ = outcome.exits["task-0"]
        assert (exit_.kind, exit_.code, exit_.signal) == (ExitKind.EXCEPTION, 137, None)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
    def test_a_signal_is_reported(self, supervisor: Supervisor, number: signal.Signals) -> None:
        """By its number."""
        spec = Task(id="killed", entry=entry(entries.kill_self), arguments={"number": int(number)})
        exit_ = supervisor.submit(spec).wait(PATIENCE).exits["task-0"]
        assert (exit_.kind, exit_.signal) == (ExitKind.KILLED, number)

    def test_running_out_of_memory_is_told_from_other_ends(self, supervisor: Supervisor) -> None:
        """An allocation beyond the declared memory ends as out of memory; one within it succeeds."""
        limited = Resources(cpu=0.5, memory=300 * 2**20)

        def allocate(name: str, amount: int) -> ExitKind:
            spec = Task(id=name, entry=entry(entries.allocate), arguments={"amount": amount}, resources=limited)
            return supervisor.submit(spec).wait(PATIENCE).exits["task-0"].kind

        assert allocate("small", 50 * 2**20) is ExitKind.SUCCESS
        assert allocate("large", 900 * 2**20) is ExitKind.OUT_OF_MEMORY

    def test_a_timeout_ends_the_task(self, supervisor: Supervisor) -> None:
        """With all it started."""
        recorder = Recorder()
        spec = Task(id="slow", entry=entry(entries.wait_forever), timeout=1.5, grace=0.2)
        outcome = supervisor.submit(spec, recorder).wait(PATIENCE)
        assert outcome.exits["task-0"].kind is ExitKind.TIMED_OUT
        await_gone(recorder.wait(MemberReported).values["pids"])

    def test_cancelling_lets_the_entry_clean_up(self, supervisor: Supervisor, tmp_path: Path) -> None:
        """The entry's `finally` runs within the grace."""
        mark = tmp_path / "cleaned"
        recorder = Recorder()
        job = supervisor.submit(
            Task(id="cancel", entry=entry(entries.wait_forever), arguments={"mark": str(mark)}), recorder
        )
        pids = recorder.wait(MemberReported).values["pids"]
        job.cancel()
        outcome = job.wait(PATIENCE)
        assert outcome.state is OutcomeState.CANCELLED
        assert outcome.exits["task-0"].kind is ExitKind.CANCELLED
        assert mark.exists()
        await_gone(pids)

    def test_what_ignores_a_polite_stop_is_killed_after_the_grace(self, supervisor: Supervisor) -> None:
        """With its children."""
        recorder = Recorder()
        job = supervisor.submit(Task(id="deaf", entry=entry(entries.ignore_stop), grace=0.2), recorder)
        pids = recorder.wait(MemberReported).values["pids"]
        job.cancel()
        assert job.wait(PATIENCE).exits["task-0"].kind is ExitKind.CANCELLED
        await_gone(pids)

    def test_a_value_that_is_not_plain_data_is_an_error_of_the_task(self, supervisor: Supervisor) -> None:
        """It names the type."""
        outcome = supervisor.submit(Task(id="object", entry=entry(entries.unserialisable))).wait(PATIENCE)
        assert "returned a object, which is not plain data" in outcome.message

    def test_events_come_in_order_and_only_once(self, supervisor: Supervisor) -> None:
        """Admission, start, join, reports in order, exit, end."""
        recorder = Recorder()
        spec = Task(id="events", entry=entry(entries.report_steps), arguments={"count": 50})
        supervisor.submit(spec, recorder).wait(PATIENCE)
        assert [event.values["step"] for event in recorder.of(MemberReported)] == list(range(50))
        assert len(recorder.of(MemberSampled)) >= 1
        for kind in (JobAdmitted, MemberStarted, MemberJoined, MemberExited, JobFinished):
            assert len(recorder.of(kind)) == 1, kind
        assert isinstance(recorder.events[-1], JobFinished)
        assert isinstance(recorder.events[-2], MemberExited)

    def test_a_message_reaches_the_entry(self, supervisor: Supervisor) -> None:
        """Plain data, down the control channel."""
        recorder = Recorder()
        job = supervisor.submit(Task(id="message", entry=entry(entries.echo_message)), recorder)
        recorder.wait(MemberJoined)
        job.send({"routes": [1, 2]})
        assert job.wait(PATIENCE).value == {"routes": [1, 2]}

    def test_logs_keep_the_order_of_both_streams(self, supervisor: Supervisor) -> None:
        """For each member and attempt."""
        spec = Gang(
            id="logs",
            entry=entry(entries.write_lines),
            arguments={"count": 200, "label": "line"},
            roles=(Role(count=2),),
            resources=HALF,
        )
        job = supervisor.submit(spec)
        assert job.wait(PATIENCE).succeeded
        for member in ("worker-0", "worker-1"):
            text = b"".join(chunk for _name, _attempt, chunk in job.logs(member)).decode()
            assert text.splitlines() == [f"line {number}" for number in range(200)]

    def test_the_environment_and_the_numerics_reach_the_process(self, supervisor: Supervisor) -> None:
        """Variables of the spec, and one thread by default."""
        spec = Task(
            id="variable",
            entry=entry(entries.environment),
            arguments={"name": "COLOUR"},
            environment={"COLOUR": "green"},
        )
        assert supervisor.submit(spec).wait(PATIENCE).value == "green"
        spec = Task(id="threads", entry=entry(entries.environment), arguments={"name": "OMP_NUM_THREADS"})
        assert supervisor.submit(spec).wait(PATIENCE).value == "1"

    # gangs

    def test_a_gang_finds_itself_as_torch_does(self, supervisor: Supervisor) -> None:
        """The first rank can listen at the meeting point and the others reach it."""
        spec = Gang(id="meet", entry=entry(entries.meet), roles=(Role(count=3),), resources=HALF)
        outcome = supervisor.submit(spec).wait(PATIENCE)
        assert outcome.value == ["rank 1", "rank 2"]

    def test_a_gang_sees_what_torch_tensorflow_and_jax_expect(self, supervisor: Supervisor) -> None:
        """Ranks through the roles in order; one address for each member."""
        roles = (Role(name="chief"), Role(name="worker", count=2), Role(name="ps"))
        spec = Gang(id="roles", entry=entry(entries.identity), roles=roles, resources=HALF)
        exits = supervisor.submit(spec).wait(PATIENCE).exits
        values = [exits[name].value for name in ("chief-0", "worker-0", "worker-1", "ps-0")]
        clusters = []
        for rank, value in enumerate(values):
            found = value["environment"]
            assert (found["RANK"], found["WORLD_SIZE"]) == (str(rank), "4")
            assert (found["JAX_PROCESS_ID"], found["JAX_NUM_PROCESSES"]) == (str(rank), "4")
            config = msgspec.json.decode(found["TF_CONFIG"])
            clusters.append(config["cluster"])
            assert config["task"] == {"type": value["role"], "index": int(value["name"][-1])}
        first = values[0]["environment"]
        assert clusters[0]["chief"] == [f"{first['MASTER_ADDR']}:{first['MASTER_PORT']}"]
        assert clusters.count(clusters[0]) == 4
        assert len({address for role in clusters[0].values() for address in role}) == 4

    def test_a_gang_larger_than_the_machine_is_refused_with_the_reason(self, supervisor: Supervisor) -> None:
        """At once, and nothing is started."""
        with pytest.raises(SpecError, match="3 CPUs of 2"):
            supervisor.submit(Gang(id="large", entry=entry(entries.meet), roles=(Role(count=3),)))

    def test_two_gangs_that_do_not_fit_together_run_one_after_the_other(self, supervisor: Supervisor) -> None:
        """All or none: neither takes half of what the other needs."""
        jobs = [
            supervisor.submit(
                Gang(id=f"gang-{n}", entry=entry(entries.hold), arguments={"seconds": 0.2}, roles=(Role(count=2),))
            )
            for n in range(2)
        ]
        spans = [[exit_.value for exit_ in job.wait(PATIENCE).exits.values()] for job in jobs]
        assert max(end for _begin, end in spans[0]) <= min(begin for begin, _end in spans[1])

    def test_resources_are_never_over_committed(self, supervisor: Supervisor) -> None:
        """Thirty tasks of half a CPU on two: never more than four at a time, and never fewer jobs than asked."""
        jobs = [
            supervisor.submit(
                Task(id=f"task-{n}", entry=entry(entries.hold), arguments={"seconds": 0.02}, resources=HALF)
            )
            for n in range(30)
        ]
        spans = [job.wait(PATIENCE).value for job in jobs]
        assert max(sum(begin <= at < end for begin, end in spans) for at, _end in spans) <= 4

    def test_no_resources_in_time_is_a_clear_end(self, supervisor: Supervisor) -> None:
        """The admission deadline is kept while another job holds the machine."""
        holder = supervisor.submit(
            Task(id="holder", entry=entry(entries.wait_forever), resources=Resources(cpu=2.0), grace=0.1)
        )
        late = supervisor.submit(
            Task(id="late", entry=entry(entries.add), arguments={"a": 1, "b": 1}, admission_timeout=0.2)
        )
        outcome = late.wait(PATIENCE)
        assert (outcome.state, outcome.exits) == (OutcomeState.FAILED, {})
        assert "no resources within 0.2 s" in outcome.message
        holder.cancel()

    def test_a_failing_rank_ends_the_gang_and_shows_its_traceback(self, supervisor: Supervisor) -> None:
        """The others, which would wait for ever, are stopped."""
        spec = Gang(
            id="broken", entry=entry(entries.fail_on), arguments={"rank": 1}, roles=(Role(count=3),), resources=HALF
        )
        outcome = supervisor.submit(spec).wait(PATIENCE)
        assert (outcome.state, outcome.culprit) == (OutcomeState.FAILED, "worker-1")
        assert "sys.exit(1)" in (outcome.traceback or "")
        assert outcome.exits["worker-0"].kind is ExitKind.CANCELLED

    def test_a_gang_ends_with_its_workers(self, supervisor: Supervisor) -> None:
        """Parameter servers never exit by themselves; they are drained and count as a success."""
        roles = (Role(name="worker", count=2), Role(name="ps", completes=False))
        spec = Gang(id="ps", entry=entry(entries.work_or_serve), roles=roles, resources=HALF, grace=0.5)
        outcome = supervisor.submit(spec).wait(PATIENCE)
        assert outcome.succeeded
        assert outcome.exits["ps-0"].kind is ExitKind.SUCCESS

    def test_a_gang_starts_with_its_minimum_and_grows(self, supervisor: Supervisor) -> None:
        """The third member comes when the task that held its place ends."""
        recorder = Recorder()
        held = Task(id="blocker", entry=entry(entries.echo_message), resources=Resources(cpu=1.0))
        blocker = supervisor.submit(held, recorder)
        recorder.wait(MemberJoined)
        spec = Gang(
            id="grow",
            entry=entry(entries.count_members),
            arguments={"wanted": 3},
            roles=(Role(count=3, minimum=2),),
            resources=HALF,
        )
        job = supervisor.submit(spec, recorder)
        recorder.wait(MemberSampled, lambda event: event.member == "worker-1")
        blocker.send("go", "task-0")
        outcome = job.wait(PATIENCE)
        assert outcome.succeeded
        assert [outcome.exits[f"worker-{n}"].value for n in range(3)] == [2, 2, 3]

    # restarts

    def test_restarts_stop_when_the_budget_is_used(self, supervisor: Supervisor) -> None:
        """Three attempts for a budget of two, then the job fails."""
        recorder = Recorder()
        spec = Task(
            id="budget",
            entry=entry(entries.fail),
            arguments={"message": "again"},
            restart=Restart(budget=2, backoff=0.01),
        )
        outcome = supervisor.submit(spec, recorder).wait(PATIENCE)
        assert outcome.state is OutcomeState.FAILED
        assert [event.attempt for event in recorder.of(MemberExited)] == [1, 2, 3]

    def test_a_gang_restarts_together(self, supervisor: Supervisor) -> None:
        """Every rank gets a second attempt when one fails."""
        spec = Gang(
            id="together",
            entry=entry(entries.fail_on),
            arguments={"rank": 0, "attempts": 1},
            roles=(Role(count=2),),
            resources=HALF,
            restart=Restart(budget=1, backoff=0.01),
        )
        outcome = supervisor.submit(spec).wait(PATIENCE)
        assert outcome.succeeded
        assert [exit_.value for exit_ in outcome.exits.values()] == [2, 2]

    def test_a_rank_is_replaced_alone(self, supervisor: Supervisor) -> None:
        """The others keep running and learn of a new membership."""
        spec = Gang(
            id="alone",
            entry=entry(entries.await_membership),
            arguments={"generation": 2},
            roles=(Role(count=3),),
            resources=HALF,
            restart=Restart(budget=1, backoff=0.01, alone=True),
        )
        outcome = supervisor.submit(spec).wait(PATIENCE)
        assert outcome.succeeded
        assert [exit_.value["attempt"] for exit_ in outcome.exits.values()] == [1, 2, 1]

    # services

    def _serve(self, supervisor: Supervisor, recorder: Recorder, replicas: int = 2) -> Job:
        restart = Restart(budget=-1, backoff=0.01, alone=True)
        spec = Service(id="service", entry=entry(entries.serve_pid), replicas=replicas, resources=HALF, restart=restart)
        return supervisor.submit(spec, recorder)

    def _ask(self, endpoint: str) -> tuple[str, int]:
        with connect(endpoint, 10.0) as client:
            name, pid = client.recv(64).decode().split()
        return name, int(pid)

    def test_replicas_serve_and_a_killed_one_is_started_again(self, supervisor: Supervisor) -> None:
        """Readiness comes with an endpoint, for each attempt."""
        recorder = Recorder()
        job = self._serve(supervisor, recorder)
        for number in range(2):
            ready = recorder.wait(MemberReady, lambda event, n=number: event.member == f"replica-{n}")  # type: ignore[misc]
            name, pid = self._ask(ready.endpoint)
            assert name == f"replica-{number}"
        os.kill(pid, signal.SIGKILL)
        again = recorder.wait(MemberReady, lambda event: event.attempt == 2)
        assert self._ask(again.endpoint)[0] == "replica-1"
        job.drain()
        assert job.wait(PATIENCE).succeeded

    def test_a_service_scales_up_and_down(self, supervisor: Supervisor) -> None:
        """Members are added and drained one by one."""
        recorder = Recorder()
        job = self._serve(supervisor, recorder, replicas=1)
        recorder.wait(MemberReady)
        job.scale(3)
        recorder.wait(MemberReady, count=3)
        job.scale(1)
        recorder.wait(MemberExited, count=2)
        assert {event.member for event in recorder.of(MemberExited)} == {"replica-1", "replica-2"}
        assert all(event.exit.kind is ExitKind.SUCCESS for event in recorder.of(MemberExited))
        job.cancel()
        assert job.wait(PATIENCE).state is OutcomeState.CANCELLED

    def test_a_member_is_replaced_on_request(self, supervisor: Supervisor) -> None:
        """A second attempt, and no failure counted."""
        recorder = Recorder()
        job = self._serve(supervisor, recorder, replicas=1)
        recorder.wait(MemberReady)
        job.replace("replica-0")
        assert recorder.wait(MemberReady, count=2).attempt == 2
        job.cancel()

    def test_a_replica_that_does_not_get_ready_is_stopped(self, supervisor: Supervisor) -> None:
        """And the service fails once its restarts are used."""
        spec = Service(
            id="stuck",
            entry=entry(entries.never_ready),
            resources=HALF,
            readiness_timeout=0.3,
            grace=0.1,
            restart=Restart(budget=1, backoff=0.01, alone=True),
        )
        outcome = supervisor.submit(spec).wait(PATIENCE)
        assert outcome.state is OutcomeState.FAILED
        assert outcome.exits["replica-0"].kind is ExitKind.TIMED_OUT

    # the controller dies

    def _controlled(self, folder: Path, spec: Task) -> tuple[subprocess.Popen[str], list[int]]:
        """Run a job from another process; return that process and the pids of the job."""
        controller = subprocess.Popen(
            [
                *(sys.executable, "-m", "ganglion.testing.controller"),
                *(self.factory, str(folder), msgspec.json.encode(spec).decode()),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert controller.stdout is not None
        for line in controller.stdout:
            event = msgspec.json.decode(line, type=AnyEvent)
            if isinstance(event, MemberReported):
                return controller, event.values["pids"]
        raise AssertionError(f"the controller ended with status {controller.wait()}")

    def test_no_orphan_survives_a_killed_controller(self, tmp_path: Path) -> None:
        """SIGKILL leaves it no time to say goodbye; the member and its child go all the same."""
        controller, pids = self._controlled(tmp_path, Task(id="orphan", entry=entry(entries.wait_forever)))
        with controller:
            controller.kill()
        await_gone(pids)

    def test_what_continues_is_found_again_by_its_handle(self, tmp_path: Path) -> None:
        """Another backend observes it, reads its log and stops it."""
        spec = Task(id="survivor", entry=entry(entries.wait_forever), on_control_loss=OnControlLoss.CONTINUE, grace=0.5)
        controller, pids = self._controlled(tmp_path, spec)
        with controller:
            controller.kill()
        assert psutil.Process(pids[0]).is_running()
        backend = load_object(self.factory)(tmp_path)
        try:
            recorder = Recorder()
            handle = self.handle(tmp_path, spec)
            backend.observe(handle, recorder)
            assert recorder.wait(MemberStarted).pid == pids[0]
            backend.stop(handle, 0.5)
            assert recorder.wait(MemberEnded).evidence.signal in (signal.SIGTERM, signal.SIGKILL)
            await_gone(pids)
        finally:
            backend.close()

    def handle(self, folder: Path, spec: Task) -> Any:
        """The handle that the killed controller had of the first attempt of `spec`; each backend knows its own form."""
        raise NotImplementedError
