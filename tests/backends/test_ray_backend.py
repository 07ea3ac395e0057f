"""The Ray backend beyond the contract: GPUs, keepers that die, what travels, what is left behind, and bad input."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil
import pytest

from ganglion.backends.ray.backend import RayBackend, RayConfig
from ganglion.core.errors import ConfigurationError, UserError
from ganglion.core.events import AnyEvent, ExitKind, MemberExited, MemberReady, MemberReported, MemberStarted
from ganglion.core.resources import Resources
from ganglion.execution.backend import Handle
from ganglion.execution.entry import Entry, entry_of
from ganglion.execution.exits import MemberEnded
from ganglion.execution.member import connect
from ganglion.execution.spec import OnControlLoss, Service, Task
from ganglion.execution.supervisor import Supervisor
from ganglion.testing import entries
from ganglion.testing.recorder import PATIENCE, Recorder, await_gone

sys.path.insert(0, str(Path(__file__).parent))

import ray_cluster  # found by the line above


@pytest.fixture(scope="module", autouse=True)
def address() -> Iterator[str]:
    with ray_cluster.started("--num-gpus=2") as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        yield address


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[RayBackend]:
    backend = RayBackend(tmp_path)
    yield backend
    backend.close()


@pytest.fixture
def supervisor(backend: RayBackend, tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(backend, tmp_path)
    yield supervisor
    supervisor.close()


def await_free(cpus: float) -> None:
    """Wait until Ray has so many CPUs to give."""
    import ray

    deadline = time.monotonic() + PATIENCE
    while ray.available_resources().get("CPU", 0.0) != cpus:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.05)


def test_members_see_the_gpus_that_ray_gave_them_and_no_others(supervisor: Supervisor):
    one = Resources(cpu=0.5, gpu=1.0)
    arguments = {"name": "CUDA_VISIBLE_DEVICES"}
    recorder = Recorder()
    keeper = Service(id="holder", entry=entry_of(entries.serve_pid), resources=one)
    supervisor.submit(keeper, recorder)
    recorder.wait(MemberReady)
    seen = [
        supervisor.submit(
            Task(id=f"seen-{n}", entry=entry_of(entries.environment), arguments=arguments, resources=one)
        ).wait(PATIENCE)
        for n in range(2)
    ]
    assert [outcome.value for outcome in seen] in (["0", "0"], ["1", "1"])
    none = supervisor.submit(Task(id="none", entry=entry_of(entries.environment), arguments=arguments)).wait(PATIENCE)
    assert none.value == ""


def test_replicas_serve_over_tcp_at_the_address_of_their_node(supervisor: Supervisor, backend: RayBackend):
    recorder = Recorder()
    supervisor.submit(Service(id="service", entry=entry_of(entries.serve_pid)), recorder)
    assert recorder.wait(MemberReady).endpoint.startswith(f"tcp:{backend.control_host}:")


def test_members_go_with_their_keeper_and_the_next_task_gets_a_new_one(supervisor: Supervisor, address: str):
    recorder = Recorder()
    job = supervisor.submit(Task(id="orphan", entry=entry_of(entries.wait_forever)), recorder)
    pids = recorder.wait(MemberReported).values["pids"]
    keeper = next(process for process in psutil.process_iter() if is_keeper(process, address))
    keeper.kill()
    outcome = job.wait(PATIENCE)
    assert outcome.exits["task-0"].kind is ExitKind.LOST
    assert "the Ray actor that ran it is gone" in outcome.message
    await_gone(pids)
    again = supervisor.submit(Task(id="next", entry=entry_of(entries.add), arguments={"a": 2, "b": 3}))
    assert again.wait(PATIENCE).value == 5


def test_members_go_with_the_connection_to_their_keeper(supervisor: Supervisor, backend: RayBackend):
    recorder = Recorder()
    job = supervisor.submit(Task(id="cut", entry=entry_of(entries.wait_forever)), recorder)
    pids = recorder.wait(MemberReported).values["pids"]
    [keeper] = backend._keepers.values()
    cut(keeper)
    outcome = job.wait(PATIENCE)
    assert outcome.exits["task-0"].kind is ExitKind.LOST
    assert "the connection to it ended" in outcome.message
    await_gone(pids)
    again = supervisor.submit(Task(id="next", entry=entry_of(entries.add), arguments={"a": 2, "b": 3}))
    assert again.wait(PATIENCE).value == 5


def test_what_continues_is_followed_on_a_new_connection(supervisor: Supervisor, backend: RayBackend):
    """Nothing is told twice, and what was asked for while there was no connection is done."""
    recorder = Recorder()
    spec = Task(id="cut", entry=entry_of(entries.wait_forever), on_control_loss=OnControlLoss.CONTINUE, grace=0.5)
    job = supervisor.submit(spec, recorder)
    pids = recorder.wait(MemberReported).values["pids"]
    [keeper] = backend._own_keepers.values()
    cut(keeper)
    job.cancel()
    assert job.wait(PATIENCE).exits["task-0"].kind is ExitKind.CANCELLED
    await_gone(pids)
    assert [len(recorder.of(kind)) for kind in (MemberStarted, MemberExited)] == [1, 1]


def test_a_keeper_tells_nothing_to_who_does_not_know_its_token(supervisor: Supervisor, backend: RayBackend):
    import ray

    recorder = Recorder()
    spec = Task(id="secret", entry=entry_of(entries.wait_forever), on_control_loss=OnControlLoss.CONTINUE, grace=0.5)
    job = supervisor.submit(spec, recorder)
    recorder.wait(MemberReported)
    [keeper] = backend._own_keepers.values()
    endpoint, token, _host = ray.get(keeper._actor.endpoint.remote())
    with connect(endpoint, PATIENCE) as stranger:
        stranger.sendall(bytes(len(token)))
        assert stranger.recv(1) == b""
    with connect(endpoint, PATIENCE) as follower:
        follower.sendall(token)
        assert b"started" in follower.recv(4096)
    job.cancel()
    assert job.wait(PATIENCE).exits["task-0"].kind is ExitKind.CANCELLED


def cut(keeper) -> None:
    """End the connection to a keeper."""
    assert keeper._channel is not None
    keeper._channel.shutdown(socket.SHUT_RDWR)


def is_keeper(process: psutil.Process, address: str) -> bool:
    """Ray names the process of an actor after its class; the command that started the cluster is among its parents."""
    option = f"--port={address.rpartition(':')[2]}"
    with suppress(psutil.NoSuchProcess):
        if " ".join(process.cmdline()).startswith("ray::Keeper"):
            return any(option in parent.cmdline() for parent in process.parents())
    return False


def test_a_log_can_be_read_when_its_keeper_is_gone(supervisor: Supervisor, backend: RayBackend, tmp_path: Path):
    spec = Task(id="lines", entry=entry_of(entries.write_lines), arguments={"count": 3, "label": "line"})
    recorder = Recorder()
    assert supervisor.submit(spec, recorder).wait(PATIENCE).succeeded
    [node] = backend._cluster.nodes()
    folder = tmp_path.resolve() / "jobs" / "lines" / "task-0" / "1"
    handle = Handle(
        backend="ray", job="lines", member="task-0", attempt=1, reference={"folder": str(folder), "node": node.id}
    )
    other = RayBackend(tmp_path)
    try:
        assert b"".join(other.logs(handle)) == b"line 0\nline 1\nline 2\n"
        late = Recorder()
        other.observe(handle, late)
        assert late.wait(MemberEnded).evidence.code == 0
    finally:
        other.close()


def test_what_continues_gives_everything_back_once_it_has_ended_and_nobody_follows_it(tmp_path: Path):
    arguments = {"count": 2, "label": "still here"}
    job = Task(
        id="survivor",
        entry=Entry(path="ray_entries:write_and_wait"),
        arguments=arguments,
        import_path=(str(Path(__file__).parent),),
        on_control_loss=OnControlLoss.CONTINUE,
    )
    controller = run_controller("ray_factories:connected", tmp_path, job)
    assert controller.stdout is not None
    with controller:
        [pid] = next(event.values["pids"] for event in events(controller) if isinstance(event, MemberReported))
        controller.kill()
    backend = RayBackend(tmp_path)
    try:
        folder = tmp_path.resolve() / "jobs" / "survivor" / "task-0" / "1"
        handle = Handle(backend="ray", job="survivor", member="task-0", attempt=1, reference={"folder": str(folder)})
        recorder = Recorder()
        backend.observe(handle, recorder)
        assert recorder.wait(MemberStarted).pid == pid
        assert b"".join(backend.logs(handle)) == b"still here 0\nstill here 1\n"
        await_free(1.0)
        backend.stop(handle, 5.0)
        assert recorder.wait(MemberEnded).evidence.signal == signal.SIGTERM
    finally:
        backend.close()
    watcher = RayBackend(tmp_path)
    try:
        await_free(2.0)
    finally:
        watcher.close()


def test_a_closed_backend_leaves_nothing_on_the_cluster(supervisor: Supervisor, backend: RayBackend):
    recorder = Recorder()
    spec = Service(id="service", entry=entry_of(entries.serve_pid), resources=Resources(cpu=2.0))
    supervisor.submit(spec, recorder)
    pid = recorder.wait(MemberStarted).pid
    recorder.wait(MemberReady)
    other = RayBackend(backend._folder)
    try:
        supervisor.close()
        await_gone([pid])
        await_free(2.0)
    finally:
        other.close()


def test_a_working_directory_travels(tmp_path: Path):
    """The members run in a copy, with it on their import path; its own folder they do not see."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "travelled.py").write_text("import os\n\ndef here() -> str:\n    return os.path.realpath(__file__)\n")
    home = tmp_path / "home"
    home.mkdir()
    job = Task(id="far", entry=Entry(path="travelled:here"))
    with run_controller("ray_factories:travelling", home, job) as controller:
        [ended] = [event for event in events(controller) if isinstance(event, MemberExited)]
    assert ended.exit.kind is ExitKind.SUCCESS, ended.exit
    assert Path(ended.exit.value).name == "travelled.py"
    assert not ended.exit.value.startswith(str(tmp_path.resolve()))


def run_controller(factory: str, folder: Path, spec: Task) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ganglion.testing.controller", factory, str(folder), msgspec.json.encode(spec).decode()],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def events(controller: subprocess.Popen[str]) -> Iterator[AnyEvent]:
    assert controller.stdout is not None
    for line in controller.stdout:
        yield msgspec.json.decode(line, type=AnyEvent)


# above the waist

RECIPE = """
import os
from ganglion import pipeline, step


@step
def double(number: int) -> int:
    return 2 * number


@step(cache=False)
def place() -> str:
    return os.getcwd()


@pipeline
def good(number: int = 3) -> tuple[int, str]:
    return double(number), place()
"""


def test_a_run_has_the_same_steps_fingerprints_and_values_as_on_this_machine(tmp_path: Path):
    (tmp_path / "doubling.py").write_text(RECIPE)
    runs = []
    for backend in ("local", "ray"):
        done = subprocess.run(
            [*(sys.executable, "-m", "ganglion.cli.main"), *("run", "doubling.py", "--backend", backend, "--json")],
            cwd=tmp_path,
            env={**os.environ, "GANGLION_HOME": str(tmp_path / backend), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        runs.append(msgspec.json.decode(done.stdout))
    assert runs[1]["value"] == [6, str(tmp_path.resolve())]
    assert runs[0]["value"] == runs[1]["value"]
    here, there = ([(step["name"], step["fingerprint"], step["state"]) for step in run["steps"]] for run in runs)
    assert here == there


# the connection


def test_connecting_leaves_the_handlers_of_signals_alone(tmp_path: Path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    RayBackend(tmp_path).close()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_address_where_nobody_answers_is_named(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError, match=f"No Ray cluster answers at 127.0.0.1:{port}: .*refused"):
        RayBackend(tmp_path, RayConfig(address=f"127.0.0.1:{port}"))


@contextmanager
def service(answer: bytes) -> Iterator[str]:
    """Something that is no Ray: says `answer` to whatever it hears and hangs up; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "says nothing"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "says b'HTTP/1.1 400"),
        (b"-ERR unknown command\r\n", "says b'-ERR unknown command"),
    ],
    ids=["closing", "http", "lines"],
)
def test_what_is_no_ray_is_named_with_what_it_says(tmp_path: Path, answer: bytes, said: str):
    with service(answer) as address, pytest.raises(UserError) as refused:
        RayBackend(tmp_path, RayConfig(address=address))
    assert f"What listens at {address} is no Ray cluster: it {said}" in str(refused.value)


def test_what_speaks_grpc_and_is_no_ray_is_named(tmp_path: Path, address: str):
    """A port of Ray itself, that of the node's own service, is the nearest mistake."""
    import ray

    backend = RayBackend(tmp_path)
    try:
        [node] = ray.nodes()
    finally:
        backend.close()
    wrong = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    with pytest.raises(UserError, match=f"The Ray cluster {wrong} cannot be used"):
        RayBackend(tmp_path, RayConfig(address=wrong))


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "somewhere", "127.0.0.1:"])
def test_what_is_no_address_is_named(tmp_path: Path, address: str):
    with pytest.raises(UserError, match=f"'{address}' is not the address of a Ray cluster"):
        RayBackend(tmp_path, RayConfig(address=address))


def test_a_process_is_connected_to_one_cluster(backend: RayBackend, tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"cannot use 127\.0\.0\.1:1 too"):
        RayBackend(tmp_path, RayConfig(address="127.0.0.1:1"))
