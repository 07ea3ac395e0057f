"""Several hosts on one machine: network namespaces with names of their own, joined by cables that can be cut.

The controller runs on the first host. On two hosts members with an even number run on the first, those with an odd
number on the second; on more, each member has one of the others. What they say to each other goes over TCP through the
cables. Orders to start and stop processes do not: a cluster's own agents carry those.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec.structs import replace

from ganglion.backends.local.backend import LocalBackend, LocalConfig
from ganglion.backends.processes.wardens import Wardens

CLONE_NEWUTS, CLONE_NEWNET = 0x04000000, 0x40000000


class Host:
    """A network namespace, and a thread that lives in it: what the thread opens and starts belongs to this host."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._thread.submit(self._enter).result()

    def call(self, function, *arguments, **named):
        """Call a function on this host."""
        return self._thread.submit(function, *arguments, **named).result()

    def close(self) -> None:
        self._thread.shutdown()

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self.name}", "rb") as namespace:
            done = libc.setns(namespace.fileno(), CLONE_NEWNET) or libc.unshare(CLONE_NEWUTS)
        name = self.name.encode()
        if done or libc.sethostname(name, len(name)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Cable:
    """Two hosts and what joins them.

    Raises:
        OSError: this machine does not let us have network namespaces; it says why.
    """

    def __init__(self) -> None:
        self.names = [f"ganglion-{os.getpid()}-{side}" for side in "ab"]
        if shutil.which("ip") is None:
            raise OSError("There is no `ip`; Debian's package is called iproute2.")
        try:
            for name in self.names:
                _ip("netns", "add", name)
            one, other = self.names
            _ip("link", "add", "veth0", "netns", one, "type", "veth", "peer", "name", "veth0", "netns", other)
            for number, name in enumerate(self.names, 1):
                _ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "veth0")
                for device in ("lo", "veth0"):
                    _ip("-n", name, "link", "set", device, "up")
            self.hosts = [Host(name, f"10.77.0.{number}") for number, name in enumerate(self.names, 1)]
        except OSError:
            self._remove()
            raise

    def cut(self, *, silently: bool = False) -> None:
        """Let nothing through: with the link down, or by losing every packet while it seems to be up."""
        if silently:
            for name, other in zip(self.names, self.hosts[::-1], strict=True):
                nobody = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
                _ip("-n", name, "neigh", "replace", other.address, *nobody, "dev", "veth0")
        else:
            _ip("-n", self.names[1], "link", "set", "veth0", "down")

    def mend(self) -> None:
        """Let everything through again."""
        for name, other in zip(self.names, self.hosts[::-1], strict=True):
            _ip("-n", name, "link", "set", "veth0", "up")
            _ip("-n", name, "neigh", "flush", "to", other.address, "nud", "permanent")

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self._remove()

    def _remove(self) -> None:
        for name in self.names:
            if Path(f"/run/netns/{name}").exists():
                _ip("netns", "del", name)


class Switch:
    """Hosts that a switch joins; the way between two of them can be cut while both reach all others.

    Raises:
        OSError: as for `Cable`.
    """

    def __init__(self, count: int) -> None:
        self.names = [f"ganglion-{os.getpid()}-{number}" for number in range(count)]
        self._switch = f"ganglion-{os.getpid()}-switch"
        if shutil.which("ip") is None:
            raise OSError("There is no `ip`; Debian's package is called iproute2.")
        try:
            for name in (self._switch, *self.names):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "switch", "up")
            for number, name in enumerate(self.names, 1):
                port = f"port{number}"
                _ip("link", "add", "veth0", "netns", name, "type", "veth", "peer", "name", port, "netns", self._switch)
                _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
                _ip("-n", name, "addr", "add", f"10.78.0.{number}/24", "dev", "veth0")
                _ip("-n", name, "link", "set", "veth0", "up")
            self.hosts = [Host(name, f"10.78.0.{number}") for number, name in enumerate(self.names, 1)]
        except OSError:
            self._remove()
            raise

    def cut(self, one: int, other: int, *, silently: bool = True) -> None:
        """Let nothing through between two hosts: by losing every packet, or with an error for whoever sends one."""
        for here, there in ((one, other), (other, one)):
            address = self.hosts[there].address
            if silently:
                nobody = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
                _ip("-n", self.names[here], "neigh", "replace", address, *nobody, "dev", "veth0")
            else:
                _ip("-n", self.names[here], "route", "add", "unreachable", address)

    def mend(self) -> None:
        """Let everything through again."""
        for name in self.names:
            _ip("-n", name, "neigh", "flush", "dev", "veth0", "nud", "permanent")
            for host in self.hosts:
                subprocess.run(["ip", "-n", name, "route", "del", "unreachable", host.address], capture_output=True)

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self._remove()

    def _remove(self) -> None:
        for name in (self._switch, *self.names):
            if Path(f"/run/netns/{name}").exists():
                _ip("netns", "del", name)


class Hosts(LocalBackend):
    """Processes on several hosts; members share nothing but files."""

    name = "hosts"

    def __init__(self, folder: Path, network: Cable | Switch) -> None:
        super().__init__(folder, LocalConfig(cpu=2.0))
        self.control_host = network.hosts[0].address
        self._wardens.close()
        self._wardens = _WardensOfHosts(network.hosts[len(network.hosts) > 2 :], self._receive)


class _WardensOfHosts:
    """As `Wardens`, for several hosts."""

    def __init__(self, hosts: list[Host], receive) -> None:
        self._hosts = hosts
        self._wardens = [Wardens(receive, fork=True) for _ in hosts]

    def warm(self, numerics, preload, *, share=False) -> None:
        for host, wardens in zip(self._hosts, self._wardens, strict=True):
            host.call(wardens.warm, numerics, preload)

    def start(self, request) -> None:
        number = request.plan.index % len(self._hosts)
        host = self._hosts[number]
        host.call(self._wardens[number].start, replace(request, listen_at=f"tcp:{host.address}"))

    def stop(self, key: str, grace: float) -> bool:
        return any(wardens.stop(key, grace) for wardens in self._wardens)

    def close(self) -> None:
        for wardens in self._wardens:
            wardens.close()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
