"""A guest that sends exactly the frames a test wants it to, and a backend around it."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

from safeexec import wire
from safeexec.backend import Backend, Guest, GuestDied, StreamGuest, Wall
from safeexec.policy import Policy

Behave = Callable[["Peer", dict[str, Any]], None]


class Peer:
    """The guest's end: raw bytes and frames over a socket."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.reader = wire.FrameReader(stream.recv_into, 2**27)

    def raw(self, data: bytes) -> None:
        self.stream.sendall(data)

    def send(self, header: dict[str, Any], *blobs: bytes) -> None:
        self.raw(frame(header, *blobs))

    def done(self, request: dict[str, Any], **fields: Any) -> None:
        self.send({"t": "done", "id": request["id"], **fields})

    def wait_for_the_end(self) -> None:
        """Until the host hangs up; nothing is read."""
        poll = select.poll()
        poll.register(self.stream, 0)
        poll.poll(20_000)


def frame(header: dict[str, Any], *blobs: bytes) -> bytes:
    """The bytes of a frame, without anything an honest sender would check."""
    if blobs:
        header = {**header, "b": [len(b) for b in blobs]}
    return packed(json.dumps(header).encode(), *blobs)


def packed(text: bytes, *blobs: bytes) -> bytes:
    """The same with any text for a header."""
    return struct.pack("<II", 4 + len(text) + sum(map(len, blobs)), len(text)) + text + b"".join(blobs)


class ScriptedGuest(StreamGuest):
    """Answers ``init`` by itself; every other request goes to `behave`, in a thread of its own."""

    def __init__(self, behave: Behave, max_frame: int) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours, max_frame)
        self.events: list[str] = []
        self._theirs = theirs
        self._thread = threading.Thread(
            target=self._main, args=(Peer(theirs), behave), name="scripted-guest", daemon=True
        )
        self._thread.start()

    def _main(self, peer: Peer, behave: Behave) -> None:
        try:
            while True:
                header, _ = peer.reader.next()
                if header["t"] == "init":
                    peer.done(header)
                else:
                    behave(peer, dict(header))
        except (EOFError, OSError):
            pass
        finally:
            self._theirs.close()

    def interrupt(self) -> None:
        self.events.append("interrupt")

    def kill(self) -> None:
        self.events.append("kill")
        self.hang_up()

    def death(self) -> GuestDied:
        return GuestDied("crash", "the scripted guest hung up")

    def close(self) -> None:
        self.kill()
        self._thread.join(10)
        super().close()
        assert not self._thread.is_alive()


class ScriptedBackend(Backend):
    name = "scripted"

    def __init__(self, behave: Behave, max_frame: int | None = None) -> None:
        self._behave = behave
        self._max = max_frame
        self.guests: list[ScriptedGuest] = []

    def start(self, policy: Policy) -> Guest:
        guest = ScriptedGuest(self._behave, self._max or policy.limits.value + 2**20)
        self.guests.append(guest)
        return guest

    @property
    def isolation(self) -> Mapping[str, Wall]:
        return {}

    def close(self) -> None:
        pass


def threads_named(prefix: str) -> list[str]:
    """The names of live threads that begin with `prefix`."""
    return [t.name for t in threading.enumerate() if t.name.startswith(prefix)]


def open_descriptors() -> int:
    """How many descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))
