"""The guest's threads that carry bytes: what another thread does in the middle of it."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from safeexec.egress import inside


class Guest:
    def __init__(self) -> None:
        self._send_lock = threading.RLock()
        self.sent: list[dict[str, Any]] = []

    def send(self, header: dict[str, Any], blobs: Any = ()) -> None:
        self.sent.append(header)


class Sock:
    """A socket that takes `room` bytes of each piece, while something else happens."""

    def __init__(self, room: int, meanwhile: Any) -> None:
        self.room = room
        self.meanwhile = meanwhile
        self.got = b""

    def send(self, piece: Any) -> int:
        self.meanwhile()
        count = min(self.room, len(piece))
        if not count:
            raise BlockingIOError
        self.got += bytes(piece[:count])
        return count


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setitem(sys.modules, "safeexec_inside", inside)
    for part in ("names", "tls"):
        module = importlib.import_module(f"safeexec.egress.inside_{part}")
        monkeypatch.setitem(sys.modules, f"safeexec_inside_{part}", module)
    yield importlib.import_module("safeexec.egress.inside_threads")
    for part in ("names", "tls", "threads"):
        sys.modules.pop(f"safeexec.egress.inside_{part}", None)


def carried(threads: Any, room: int, ends: bool, pieces: list[bytes]) -> tuple[bool, Any, Sock]:
    network = inside.Network(Guest(), {"window": 1000, "piece": 100})
    pump = threads.Pump(network)
    try:
        connection = network.open(("host", 80))
        for piece in pieces:
            network.feed({"id": connection.number, "op": "data"}, [piece])
        sock = Sock(room, network.reset if ends else lambda: None)
        return pump._write(threads.Far(connection, sock)), connection, sock
    finally:
        os.close(pump._wake_in)
        os.close(pump._wake_out)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_step_that_ends_while_its_bytes_are_handed_on(threads: Any, room: int) -> None:
    """The main thread empties the queue: that must be no error in the thread that reads the host's frames, which ends the guest."""
    done, connection, _ = carried(threads, room, True, [b"first", b"second"])
    assert connection.dropped and not connection.pieces
    assert done is (room > 0)


def test_all_bytes_are_handed_on_in_order(threads: Any) -> None:
    done, connection, sock = carried(threads, 2, False, [b"first", b"", b"second"])
    assert (done, sock.got, list(connection.pieces)) == (True, b"firstsecond", [])


def test_what_finds_no_room_waits(threads: Any) -> None:
    done, connection, sock = carried(threads, 0, False, [b"first", b"second"])
    assert (done, sock.got, b"".join(connection.pieces)) == (False, b"", b"firstsecond")
