"""The only place that wires a configuration to concrete classes.

A `Platform` is a project folder with everything that works in it: the artifact store, the record, the model repository
and, once something has to run, a backend with its supervisor and a model server. Each is made on first use.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ganglion.core import config
from ganglion.core.config import Config
from ganglion.core.errors import ConfigurationError, suggest
from ganglion.core.ids import Ids, RandomIds
from ganglion.core.log import get_logger
from ganglion.core.project import find_folder
from ganglion.core.registry import load_object
from ganglion.core.run_events import AnyRunEvent

if TYPE_CHECKING:
    from ganglion.artifacts.store import FolderStore
    from ganglion.execution.backend import Backend
    from ganglion.execution.supervisor import Supervisor
    from ganglion.metadata.record import Record
    from ganglion.metadata.views import MetricPoint, RunDetail
    from ganglion.serving.controller import ModelServer
    from ganglion.serving.repository import ModelRepository
    from ganglion.serving.service_socket import ServiceSocket
    from ganglion.workflow.pipeline import Pipeline
    from ganglion.workflow.result import RunResult
    from ganglion.workflow.single_job import SingleJob

BACKENDS = {
    "local": "ganglion.backends.local.backend:LocalBackend",
    "ray": "ganglion.backends.ray.backend:RayBackend",
}
"""Where things run, by name; a backend is called with the project folder and its options."""

OPTIONS = {
    "local": "ganglion.backends.local.backend:LocalConfig",
    "ray": "ganglion.backends.ray.backend:RayConfig",
}
"""The class of each backend's options."""

CONFIGURATION = "ganglion.toml"
"""Read from the folder that contains the project folder, if it is there."""

Listener = Callable[[AnyRunEvent], None]


class ExecutionConfig(Config, frozen=True, kw_only=True):
    """Where things run.

    Attributes:
        backend: a name in `BACKENDS`.
        local: options of the local backend, by their names; see `LocalConfig`.
        ray: options of the Ray backend, by their names; see `RayConfig`.
    """

    backend: str = "local"
    local: dict[str, Any] = msgspec.field(default_factory=dict)
    ray: dict[str, Any] = msgspec.field(default_factory=dict)


class PlatformConfig(Config, frozen=True, kw_only=True):
    """Configuration of a platform: the contents of `ganglion.toml`.

    Attributes:
        execution: where things run.
    """

    execution: ExecutionConfig = ExecutionConfig()


def load_configuration(folder: Path, overrides: Sequence[str] = ()) -> PlatformConfig:
    """Read `ganglion.toml` beside the project folder, if there is one, and apply `section.key=value` overrides."""
    file = folder.parent / CONFIGURATION
    return config.load(PlatformConfig, file if file.is_file() else None, overrides)


class Platform:
    """A project folder with everything that works in it; use as a context manager, or close it.

    Args:
        folder: the project folder; found as `find_folder` does where none is given.
        configuration: read from `ganglion.toml` where none is given.
        ids: where ids come from.

    Attributes:
        folder: the project folder.
        configuration: in force.
    """

    def __init__(
        self, folder: Path | None = None, configuration: PlatformConfig | None = None, *, ids: Ids | None = None
    ) -> None:
        self.folder = (folder or find_folder()).absolute()
        self.configuration = configuration or load_configuration(self.folder)
        self._ids = ids or RandomIds()
        self._guard = threading.RLock()
        self._closers: list[Callable[[], None]] = []

    @cached_property
    def store(self) -> FolderStore:
        """The artifact store."""
        from ganglion.artifacts.store import FolderStore

        return FolderStore(self.folder / "store")

    @cached_property
    def repository(self) -> ModelRepository:
        """The published models."""
        from ganglion.serving.repository import ModelRepository

        return ModelRepository(self.folder / "models")

    @cached_property
    def record(self) -> Record:
        """What happened."""
        from ganglion.metadata.record import Record

        self.folder.mkdir(parents=True, exist_ok=True)
        record = Record.open(self.folder / "record.db")
        self._closers.append(record.close)
        return record

    @cached_property
    def backend(self) -> Backend:
        """Where things run."""
        backend = make_backend(self.folder, self.configuration.execution)
        self._closers.append(backend.close)
        return backend

    @cached_property
    def supervisor(self) -> Supervisor:
        """Runs jobs on the configured backend."""
        from ganglion.execution.supervisor import Supervisor

        with self._guard:
            supervisor = Supervisor(self.backend, self.folder, name=self._ids.new("controller"))
            self._closers.append(supervisor.close)
        return supervisor

    @cached_property
    def server(self) -> ModelServer:
        """A gateway on a free port with the models behind it."""
        return self.open_server()

    def expect_service(self, models: Iterable[tuple[str, int]]) -> None:
        """Begin to load what serving these models takes, in one place, while everything else is still prepared.

        Only for a process that does nothing else: what it has loaded until now is shared with those that serve.

        Args:
            models: names and versions.
        """
        from ganglion.execution.spec import Numerics
        from ganglion.serving.services import serving_modules

        manifests = [self.repository.manifest(name, version) for name, version in models]
        self.backend.warm(Numerics(), serving_modules(manifests), share=True)

    def open_server(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        gateways: int = 1,
        grpc_port: int | None = None,
        access_log: Path | None = None,
    ) -> ModelServer:
        """Start gateways that are closed with the platform.

        Args:
            host: address to bind.
            port: port to bind; 0 chooses a free one.
            gateways: processes that answer at it together.
            grpc_port: port for gRPC, 0 chooses a free one; `None` answers no gRPC.
            access_log: file to which a line is appended for each request, if any.
        """
        from ganglion.core.resources import Resources
        from ganglion.serving.controller import ModelServer

        with self._guard:
            server = ModelServer(
                self.supervisor,
                self.repository,
                host=host,
                port=port,
                gateways=gateways,
                grpc_port=grpc_port,
                access_log=access_log,
                ids=self._ids,
                gateway=Resources(cpu=0.1),
            )
            self._closers.append(server.close)
        return server

    def take_commands(self, server: ModelServer, on_stopped: Callable[[], None]) -> ServiceSocket:
        """Let other processes of this project see and change what a server serves; a context manager.

        Args:
            server: one of this platform.
            on_stopped: called when, by a command, nothing is served any more.
        """
        from ganglion.serving.service_socket import ServiceSocket

        return ServiceSocket(server, self.folder, on_stopped, ids=self._ids)

    def run(
        self,
        pipeline: Pipeline[..., Any],
        parameters: Mapping[str, Any] | Sequence[str] = (),
        *,
        limit: int | None = None,
        inline: bool = False,
        seed: int = 0,
        resume: bool = True,
        listener: Listener | None = None,
    ) -> Run:
        """Run a pipeline to its end; what it serves lives until the platform is closed.

        Args:
            pipeline: made with `@pipeline`.
            parameters: its arguments by name, or texts of the form `key=value`.
            limit: take this many records from each source.
            inline: run every step in this process, in order, so that a debugger stops in it.
            seed: what steps derive theirs from.
            resume: go on with a run of the same pipeline and parameters whose orchestrator died.
            listener: gets every event, in order.

        Raises:
            UserError: the pipeline, its parameters or its inputs cannot work; nothing was written.
        """
        from ganglion.workflow.engine import Engine

        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit is {limit}; at least 1 record is needed.")
        graph = pipeline.trace(parameters)
        graph.check_inputs()
        with _Projection(self.record) as projection:
            engine = Engine(
                self.folder,
                self.store,
                None if inline else self.supervisor,
                services=_Services({"repository": lambda: self.repository, "serving": lambda: self.server}),
                listeners=(projection, listener) if listener else (projection,),
                seed=seed,
                limit=limit,
                inline=inline,
                ids=self._ids,
            )
            result = engine.run(graph, resume=resume)
        return Run(self, result)

    @contextmanager
    def single_job(
        self, pipeline: str, *, step: str, kind: str, parameters: Mapping[str, Any], seed: int = 0
    ) -> Iterator[SingleJob]:
        """Keep the books of a job that is run by itself, without a pipeline, so that it is among the runs.

        Args:
            pipeline: what is run, as a person wrote it.
            step: name of its one step.
            kind: what that is, as `train`.
            parameters: plain data.
            seed: of the job.
        """
        from ganglion.workflow.single_job import SingleJob

        with (
            _Projection(self.record) as projection,
            SingleJob(
                self.folder / "runs",
                self._ids.new("run"),
                pipeline=pipeline,
                step=step,
                kind=kind,
                parameters=parameters,
                seed=seed,
                listeners=(projection,),
            ) as single,
        ):
            yield single

    def is_running(self, job: Path) -> bool:
        """Whether a process of the job whose folder this is (`jobs/<job>`) still runs on this machine."""
        from ganglion.backends.processes.attempts import is_running

        return is_running(job)

    def close(self) -> None:
        """End what was started, in reverse order."""
        while self._closers:
            self._closers.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Run:
    """A run as an object: its end, its steps, its metrics, what it made and what it serves.

    Attributes:
        id: of the run.
        state: `succeeded`, `failed` or `cancelled`.
        result: its end, with the value that the pipeline returned.
    """

    def __init__(self, platform: Platform, result: RunResult) -> None:
        self._platform = platform
        self.id = result.run
        self.state = result.state
        self.result = result

    @property
    def value(self) -> Any:
        """What the pipeline returned; raises `RunFailedError` if the run did not succeed."""
        return self.result.value

    @property
    def detail(self) -> RunDetail:
        """Everything that the record has of the run: steps, attempts, metrics, artifacts."""
        from ganglion.metadata import queries

        return queries.run(self._platform.record, self.id)

    def metrics(self, step: str | None = None, name: str | None = None) -> tuple[MetricPoint, ...]:
        """Metrics over time, of all steps or one, of all names or one."""
        from ganglion.metadata import queries

        return queries.metrics(self._platform.record, self.id, step=step, name=name)

    def frame(self) -> Any:
        """Metrics over time as a pandas data frame (extra `notebook`)."""
        from ganglion.metadata.frames import metrics_frame

        return metrics_frame(self._platform.record, self.id)

    @property
    def services(self) -> dict[str, Any]:
        """What the platform serves: `url`, `models` with versions and replicas, `ensembles`; empty if nothing."""
        server = self._platform.__dict__.get("server")
        return server.status() if server is not None else {}

    @property
    def url(self) -> str | None:
        """Where the platform's gateway answers, if the run has started one and the platform is open."""
        return self.services.get("url")


_default: Platform | None = None


def run(pipeline: Pipeline[..., Any], parameters: Mapping[str, Any] | Sequence[str] = (), **options: Any) -> Run:
    """Run a pipeline on the platform of this folder, as `ganglion run` does; options as for `Platform.run`.

    The platform stays open, with what the run serves, until the interpreter ends.
    """
    global _default
    if _default is None:
        import atexit

        _default = Platform()
        atexit.register(_default.close)
    return _default.run(pipeline, parameters, **options)


def make_backend(folder: Path, execution: ExecutionConfig) -> Backend:
    """The configured backend.

    Raises:
        ConfigurationError: its name or one of its options is unknown.
    """
    if execution.backend not in BACKENDS:
        raise ConfigurationError(f"Unknown backend {execution.backend!r}. {suggest(execution.backend, BACKENDS)}")
    options: type[Config] = load_object(OPTIONS[execution.backend])
    chosen = config.convert(options, getattr(execution, execution.backend), where=f"execution.{execution.backend}")
    backend: Backend = load_object(BACKENDS[execution.backend])(folder, chosen)
    return backend


class _Services(Mapping[str, Any]):
    """Long-lived controllers, made when they are first asked for."""

    def __init__(self, makers: dict[str, Callable[[], Any]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Any:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class _Projection:
    """Keeps the record in step with a run: a thread of its own, several events a transaction."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._queue: queue.SimpleQueue[AnyRunEvent | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="ganglion-record", daemon=True)

    def __call__(self, event: AnyRunEvent) -> None:
        """Take one event; returns at once."""
        self._queue.put(event)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        following = True
        while following:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            following = None not in batch
            try:
                self._record.apply_all([event for event in batch if event is not None])
            except Exception:  # noqa: BLE001  # the journal is the truth; a record that cannot be written must not end the run
                get_logger().error("the record could not be written", exc_info=True)
