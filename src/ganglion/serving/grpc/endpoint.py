"""The gRPC process as the controller sees it: an address for as long as the server lives, and a job."""

from __future__ import annotations

import time
from importlib.util import find_spec

from ganglion.core.errors import ConfigurationError, GanglionError
from ganglion.core.resources import Resources
from ganglion.execution.entry import Entry
from ganglion.execution.spec import OnControlLoss, Service
from ganglion.execution.supervisor import Supervisor
from ganglion.serving.port import hold_port

_GRACE = 30.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Addresses that can be bound but not asked, and where what is bound to them can be asked on this machine."""


class GrpcEndpoint:
    """Answers gRPC at an address and asks the gateway for the answers.

    Args:
        supervisor: runs the process.
        job: its id.
        host: address to bind; the gateway's as well.
        port: port to bind; 0 chooses a free one, which is kept when the process has to be started again.
        gateway_port: port of the gateway.
        resources: what the process needs.

    Attributes:
        address: where it answers, `host:port`.

    Raises:
        ConfigurationError: grpcio or protobuf is not installed.
        UserError: the port is taken.
        SpecError: the backend can never run it.
    """

    def __init__(
        self, supervisor: Supervisor, job: str, *, host: str, port: int, gateway_port: int, resources: Resources
    ) -> None:
        missing = [name for name in ("grpc", "google.protobuf") if not _installed(name)]
        if missing:
            raise ConfigurationError(f"gRPC needs {' and '.join(missing)}: pip install 'ganglion[grpc]'.")
        self._port = hold_port(host, port)
        chosen = self._port.getsockname()[1]
        self.address = f"[{host}]:{chosen}" if ":" in host else f"{host}:{chosen}"
        spec = grpc_service(job, host=host, port=chosen, gateway_port=gateway_port, resources=resources)
        try:
            self._job = supervisor.submit(spec)
        except GanglionError:
            self._port.close()
            raise

    def close(self, timeout: float) -> None:
        """Answer what is in hand, then end the process."""
        end = time.monotonic() + timeout
        self._job.drain()
        try:
            self._job.wait(max(0.0, end - time.monotonic()))
        except TimeoutError:
            self._job.cancel()
        self._port.close()


def grpc_service(job: str, *, host: str, port: int, gateway_port: int, resources: Resources) -> Service:
    """The spec of the gRPC process; pure.

    Nothing of gRPC is imported before the process is forked: its core does not survive that.
    """
    return Service(
        id=job,
        entry=Entry(path="ganglion.serving.grpc.main:serve"),
        arguments={
            "host": host,
            "port": port,
            "gateway_host": _EVERYWHERE.get(host, host),
            "gateway_port": gateway_port,
        },
        resources=resources,
        preload=("numpy", "uvloop", "httptools", "orjson"),
        grace=_GRACE,
        on_control_loss=OnControlLoss.STOP,
        labels={"part": "grpc"},
    )


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
