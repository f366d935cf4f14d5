"""Cells and each other: what lies between two sessions of one executor."""

from __future__ import annotations

import os
import sys

import pytest

from safeexec import Executor, Policy, Session
from safeexec_backends._hardening import landlock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="n/a: walls of Linux")

LISTEN = """
import socket
def made(kind, address):
    try:
        s = socket.socket(*kind)
        s.bind(address)
        if kind[1] == socket.SOCK_STREAM:
            s.listen()
        s.setblocking(False)
        return s
    except OSError as error:
        return None
open_ = {name: s for name, kind, address in (
    ("abstract", (socket.AF_UNIX, socket.SOCK_STREAM), "\\0between"),
    ("abstract datagrams", (socket.AF_UNIX, socket.SOCK_DGRAM), "\\0between-d"),
    ("tcp", (socket.AF_INET, socket.SOCK_STREAM), ("127.0.0.1", 4711)),
    ("udp", (socket.AF_INET, socket.SOCK_DGRAM), ("127.0.0.1", 4711)),
    ("udp everywhere", (socket.AF_INET, socket.SOCK_DGRAM), ("0.0.0.0", 4712)),
    ("udp 6", (socket.AF_INET6, socket.SOCK_DGRAM), ("::", 4713)),
) if (s := made(kind, address)) is not None}
sorted(open_)
"""
KNOCK = """
import socket
for kind, address in (
    ((socket.AF_UNIX, socket.SOCK_STREAM), "\\0between"),
    ((socket.AF_UNIX, socket.SOCK_DGRAM), "\\0between-d"),
    ((socket.AF_INET, socket.SOCK_STREAM), ("127.0.0.1", 4711)),
    ((socket.AF_INET, socket.SOCK_DGRAM), ("127.0.0.1", 4711)),
    ((socket.AF_INET, socket.SOCK_DGRAM), ("127.0.0.1", 4712)),
    ((socket.AF_INET, socket.SOCK_DGRAM), ("255.255.255.255", 4712)),
    ((socket.AF_INET6, socket.SOCK_DGRAM), ("::1", 4713)),
):
    try:
        with socket.socket(*kind) as s:
            s.settimeout(1)
            s.connect(address)
            s.send(b"knock")
    except OSError as error:
        pass
"""
HEARD = """
heard = []
for name, s in open_.items():
    try:
        heard.append((name, s.accept()[1] if s.type == socket.SOCK_STREAM else s.recv(100)))
    except OSError as error:
        pass
heard
"""


@pytest.mark.parametrize("deny", [[], ["seccomp"], ["landlock"], ["seccomp", "landlock"]], ids="+".join)
def test_no_session_reaches_a_socket_of_another(deny: list[str]) -> None:
    policy = Policy(require=(), rollback="never")
    with Executor("local", policy=policy, _language="full", _deny=deny) as executor:
        with executor.session() as one, executor.session() as other:
            made = one.run(LISTEN).value
            # With the filter none can be made at all; without it the walls behind it are what holds.
            assert bool(made) is ("seccomp" in deny), made
            assert other.run(KNOCK).ok
            assert one.run(HEARD).value == []
            # It is what lies between them: the same program reaches a socket of its own.
            if made:
                assert one.run(KNOCK).ok
                assert "abstract" in dict(one.run(HEARD).value)


def network(session: Session) -> str:
    return os.readlink(f"/proc/{session._guest.pid}/ns/net")  # type: ignore[attr-defined]


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="n/a: only root may look at cells from outside"
)
@pytest.mark.parametrize("deny", [[], ["landlock"], ["user_namespace"], ["mount_namespace"]], ids="+".join)
def test_one_network_for_all_only_where_sockets_are_kept_apart(deny: list[str]) -> None:
    policy = Policy(require=(), rollback="never")
    with Executor("local", policy=policy, _language="full", _deny=deny) as executor:
        with executor.session() as one, executor.session() as other:
            assert one.run("1").ok and other.run("1").ok
            outside = os.readlink("/proc/self/ns/net")
            stands = executor.isolation["network_namespace"].active
            assert (network(one) != outside) is stands and (network(other) != outside) is stands
            common = stands and "landlock" not in deny and landlock.keeps_sockets_apart()
            assert (network(one) == network(other)) is (common or not stands)
            assert stands is (common or "user_namespace" not in deny)
