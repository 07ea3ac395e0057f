"""How `ganglion serve` ends, or goes on: real processes on a real terminal, and requests that wait for an answer."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import termios
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from command_line import CommandLine

from ganglion.cli.service import cut_text
from ganglion.serving.service_client import ServiceClient

NOTHING: dict[str, dict[int, dict[str, str]]] = {"versions": {}}
CTRL_C = b"\x03"
PREDICTOR = """
import os
import signal


def wait(folder):
    with open(f"{folder}/begun", "w"):
        pass  # somebody has opened it for reading
    with open(f"{folder}/go") as file:
        file.read()


class Patient:
    def load(self, folder):
        if "HOLD" in os.environ:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # deaf, as native code is
            wait(os.environ["GATE"])

    def predict(self, batch):
        if batch["x"].sum() > 0:
            wait(os.environ["GATE"])
        return {"y": batch["x"]}
"""


class Service:
    """A service on a terminal, or on whatever its standard output is.

    Its model waits in the middle of a request about 1, and of its load where `HOLD` is set, until it is let go.
    """

    def __init__(self, command: CommandLine, gate: Path) -> None:
        self.home = command.home
        self._command = command
        self._gate = gate
        self._pool = ThreadPoolExecutor()
        self._shown = b""
        self.terminal = -1
        self.process: subprocess.Popen[bytes]

    @contextmanager
    def on_a_terminal(self, **environment: str) -> Iterator[Service]:
        self.terminal, other = os.openpty()
        self.process = subprocess.Popen(
            [*self._command.line, *self.line],
            env={**self._environment, **environment},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(other)
        with self._ending():
            yield self
        with suppress(OSError):
            os.close(self.terminal)

    @contextmanager
    def in_a_shell(self, text: str) -> Iterator[Service]:
        """Started by `$SERVE` in a line of a shell."""
        self.process = subprocess.Popen(
            ["sh", "-c", text.replace("$SERVE", " ".join([*self._command.line, *self.line]))],
            env=self._environment,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        with self._ending():
            yield self
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def line(self) -> tuple[str, ...]:
        return "serve", "patient", "--port", "0", "--replicas", "1", "--cpu", "0.1"

    @property
    def _environment(self) -> dict[str, str]:
        return {**self._command.environment, "GATE": str(self._gate)}

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._pool.shutdown(wait=False)
            with suppress(psutil.NoSuchProcess):
                for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                    process.kill()
            self.process.wait()

    def read(self, pattern: str) -> re.Match[str]:
        """Read from the terminal until this was shown."""
        while (found := re.search(pattern, self._shown.decode())) is None:
            self._shown += os.read(self.terminal, 2**16)
        return found

    def read_all(self) -> str:
        """What was shown in the end."""
        with suppress(OSError):  # the terminal has no other side any more
            while data := os.read(self.terminal, 2**16):
                self._shown += data
        return self._shown.decode()

    def ask(self, url: str) -> Future[httpx.Response]:
        """A request that is being computed when this returns."""
        body = {"instances": [[1]]}
        answer = self._pool.submit(httpx.post, f"{url}/v1/models/patient:predict", json=body, timeout=60)
        self.begun()
        return answer

    def begun(self) -> None:
        """Return when the model waits."""
        (self._gate / "begun").read_bytes()

    def let_go(self) -> None:
        """Let the model go on."""
        (self._gate / "go").write_text("go")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    folder = tmp_path_factory.mktemp("patient")
    command = CommandLine(folder / "home")
    (folder / "patient.py").write_text(PREDICTOR)
    model = ("patient", folder / "patient.py:Patient")
    signature = ("--input", "x=float32:1", "--output", "y=float32:1")
    assert command("models", "publish", *model, *signature).returncode == 0
    return command


@pytest.fixture
def service(published: CommandLine, tmp_path: Path) -> Service:
    for name in ("begun", "go"):
        os.mkfifo(tmp_path / name)
    return Service(published, tmp_path)


READY = r"Serving patient:1 at (?:\x1b\[1m)?(http://127\.0\.0\.1:\d+)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_loads_is_left_at_once(service: Service, number: signal.Signals) -> None:
    with service.on_a_terminal(HOLD="1"):
        service.begun()
        service.read(r"loading patient:1 .*[1-9] s")  # it says for how long
        family = service.family()
        if number is signal.SIGINT:
            os.write(service.terminal, CTRL_C)
        else:
            service.process.send_signal(number)
        assert service.process.wait(4) == 128 + number, "well below the grace of a replica"
        assert psutil.wait_procs(family, timeout=4)[1] == []
        said = service.read_all()
        assert "Ended at once." in said
        assert "Traceback" not in said


def test_ctrl_c_answers_what_is_in_hand(service: Service) -> None:
    with service.on_a_terminal():
        answer = service.ask(service.read(READY)[1])
        os.write(service.terminal, CTRL_C)
        service.read("Answering what is in hand")
        service.let_go()
        assert answer.result(30).json() == {"predictions": [[1.0]]}
        assert service.process.wait(30) == 0


def test_ctrl_c_twice_cuts_what_is_in_hand_and_says_so(service: Service) -> None:
    with service.on_a_terminal():
        answer = service.ask(service.read(READY)[1])
        family = service.family()
        os.write(service.terminal, CTRL_C)
        service.read("Answering what is in hand")
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(0.5)  # the gateways say what they hold ten times a second
        os.write(service.terminal, CTRL_C)
        assert service.process.wait(4) == 130
        assert psutil.wait_procs(family, timeout=4)[1] == []
        said = service.read_all()  # a gateway that had no time to say what it holds is not counted
        assert re.search(r"Ended at once(: 1 request was cut)?\.", said), said
        with pytest.raises(httpx.HTTPError):
            answer.result(30)


@pytest.mark.parametrize(
    ("in_hand", "said"),
    [
        (0, "Ended at once."),
        (1, "Ended at once: 1 request was cut."),
        (2, "Ended at once: 2 requests were cut."),
    ],
)
def test_requests_that_are_cut_are_counted(in_hand: int, said: str) -> None:
    assert cut_text(in_hand) == said


def test_hanging_up_after_the_word_to_end_cuts_nothing(service: Service) -> None:
    with service.on_a_terminal():
        answer = service.ask(service.read(READY)[1])
        service.process.terminate()
        service.read("Answering what is in hand")
        for _ in range(2):  # a service manager sends one, and so do the shell and the kernel
            service.process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                service.process.wait(0.2)
        service.let_go()
        assert answer.result(30).json() == {"predictions": [[1.0]]}
        assert service.process.wait(30) == 0


def test_who_reads_that_it_serves_may_end_it(service: Service) -> None:
    with service.on_a_terminal():
        service.read(READY)
        service.process.terminate()
        assert service.process.wait(30) == 0
        assert "Ended at once" not in service.read_all()


def test_ctrl_c_while_it_starts_is_no_traceback(service: Service) -> None:
    with service.on_a_terminal():
        process = psutil.Process(service.process.pid)
        while "ganglion.cli.service" not in process.cmdline():
            assert service.process.poll() is None
        os.write(service.terminal, CTRL_C)
        assert service.process.wait(30) == 130
        assert "Traceback" not in service.read_all()


@pytest.mark.parametrize(("name", "value", "moves"), [("NO_COLOR", "1", True), ("TERM", "dumb", False)])
def test_a_terminal_gets_what_it_can_show(service: Service, name: str, value: str, moves: bool) -> None:
    with service.on_a_terminal(HOLD="1", **{"COLUMNS": "14", "TERM": "xterm", name: value}):
        service.begun()
        service.read(r"\| load.* 0 s\r" if moves else r"loading patient:1 \.\.\.")
        service.let_go()
        said = service.read(READY).string
    assert ("\x1b[2K" in said) == moves
    assert re.search(r"\x1b\[\d*m", said) is None, "no colours"
    turns = re.findall(r"\x1b\[2K([-|/\\] [^\r]+)\r", said)
    assert bool(turns) == moves
    assert all(len(turn) < 14 for turn in turns), "a full line would go on in the next"


def test_a_terminal_that_is_closed_ends_it_like_ctrl_c(service: Service) -> None:
    with service.on_a_terminal():
        url = service.read(READY)[1]
        answer = service.ask(url)
        os.close(service.terminal)
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(0.3)
        service.let_go()
        assert answer.result(30).json() == {"predictions": [[1.0]]}
        assert service.process.wait(30) == 0


def url_of(service: Service) -> str:
    """Of a service that says nothing that is read: by its entry in the project."""
    client = ServiceClient(service.home)
    while service.process.poll() is None:
        for state in client.states():
            if any(run["state"] == "AVAILABLE" for run in state["models"].get("patient", NOTHING)["versions"].values()):
                return str(state["url"])
        with suppress(subprocess.TimeoutExpired):
            service.process.wait(0.05)
    raise AssertionError("it has ended")


@pytest.mark.parametrize(
    "line",
    [
        "exec $SERVE | head -n 1",  # it is read no longer
        "exec $SERVE >&-",
        "exec $SERVE <&- >&- 2>&-",
        "trap '' HUP; exec $SERVE >/dev/null",  # as nohup does
    ],
)
def test_a_service_goes_on_without_anybody_who_reads(service: Service, line: str) -> None:
    with service.in_a_shell(line):
        url = url_of(service)
        [controller] = [
            process
            for process in [psutil.Process(service.process.pid), *service.family()]
            if "ganglion.cli.service" in process.cmdline() and process.parent().cmdline() != process.cmdline()
        ]
        if "HUP" in line:
            controller.send_signal(signal.SIGHUP)
        answer = service.ask(url)
        service.let_go()
        assert answer.result(30).json() == {"predictions": [[1.0]]}
        controller.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
