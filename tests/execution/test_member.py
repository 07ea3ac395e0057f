"""A member's view of its place, in and out of Ganglion's processes."""

import socket
from pathlib import Path

import pytest

from ganglion.execution.member import Member, Membership, Peer, connect, current_member


def peers(*names: str) -> tuple[Peer, ...]:
    return tuple(
        Peer(member=name, role="worker", index=n, rank=n, address=f"127.0.0.1:{n}") for n, name in enumerate(names)
    )


def test_outside_a_job_a_process_is_a_gang_of_one():
    member = current_member()
    assert (member.rank, member.world_size, member.name) == (0, 1, "task-0")
    assert member.report({"loss": 1.0}) is None
    assert current_member() is member


def test_the_rank_is_the_place_among_the_present_peers():
    member = Member(name="worker-2", membership=Membership(peers=peers("worker-0", "worker-1", "worker-2")))
    assert (member.rank, member.world_size) == (2, 3)
    member.membership = Membership(generation=2, peers=peers("worker-0", "worker-2"))
    assert (member.rank, member.world_size) == (1, 2)


def test_reports_and_readiness_are_sent():
    sent = []
    member = Member(send=lambda kind, value: sent.append((kind, value)))
    values = {"loss": 1.0}
    member.report(values)
    values["loss"] = 2.0
    member.ready("unix:/here")
    assert sent == [("report", {"loss": 1.0}), ("ready", "unix:/here")]


@pytest.mark.parametrize("where", ["unix", "tcp", ""])
def test_what_listens_can_be_connected_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    listen_at = {"unix": f"unix:{tmp_path / 'replica.sock'}", "tcp": "tcp:127.0.0.1", "": ""}[where]
    server, endpoint = Member(name="replica-0", listen_at=listen_at).listen()
    assert endpoint.startswith(listen_at or "unix:")
    with server, connect(endpoint, 10.0) as client:
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"hello")
            assert accepted.recv(16) == b"hello"


def test_nobody_serves_at_an_endpoint_that_was_left(tmp_path: Path):
    server, endpoint = Member(listen_at=f"unix:{tmp_path / 'replica.sock'}").listen()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        connect(endpoint, 10.0)


def test_tcp_connections_do_not_wait_to_fill_a_packet():
    server, endpoint = Member(listen_at="tcp:127.0.0.1").listen()
    with server, connect(endpoint, 10.0) as client:
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        server.accept()[0].close()
