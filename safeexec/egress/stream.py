"""The host's end of one connection of the guest: bytes in frames, both ways, with a window for each so that neither side piles up at the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from safeexec import wire
from safeexec.errors import ProtocolError

WINDOW = 256 * 1024
"""Bytes under way in one direction that the other side has not said it took. The guest's end counts by the same number."""
PIECE = 64 * 1024
"""Bytes in one frame at most."""


class Gone(Exception):
    """The guest closed the connection, or its step is over."""


class Stream:
    """Read and written by one thread (a tunnel: two), fed by the thread that reads the guest's frames, which never waits here."""

    def __init__(self, number: int, send: Callable[[wire.Frame], None]) -> None:
        self.number = number
        self._send = send
        self._changed = threading.Condition(threading.Lock())
        self._pieces: deque[bytearray] = deque()
        self._waiting = 0
        self._taken = 0
        self._credit = WINDOW
        self._ended = False
        self.closed = False

    # -- from the thread that reads frames -------------------------------------------------------------------------------

    def feed(self, data: wire.Blob) -> None:
        """Bytes of the guest. Raises ProtocolError past the window: its own end would have waited."""
        size = len(data)
        if not size:
            return
        with self._changed:
            self._waiting += size
            if self._waiting > WINDOW or size > PIECE:
                raise ProtocolError("more bytes on a connection than its window")
            if self.closed or self._ended:
                self._waiting -= size
                return
            if self._pieces and len(self._pieces[-1]) + size <= PIECE:
                # A piece of its own for every two bytes would be twenty times the window.
                self._pieces[-1] += data
            else:
                self._pieces.append(bytearray(data))
            self._changed.notify_all()

    def acknowledged(self, size: int) -> None:
        """The guest took this many bytes. Raises ProtocolError for more than it was sent."""
        with self._changed:
            self._credit += size
            if self._credit > WINDOW:
                raise ProtocolError("more bytes acknowledged than were sent")
            self._changed.notify_all()

    def end(self) -> None:
        """The guest sends no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def drop(self) -> None:
        """The guest, or the step's end, closed it: whoever waits here gets Gone."""
        with self._changed:
            self.closed = True
            self._pieces.clear()
            self._changed.notify_all()

    # -- from the thread that serves the connection ----------------------------------------------------------------------

    def read(self) -> bytes:
        """The next bytes of the guest, b"" when it sends no more. Raises Gone."""
        with self._changed:
            while not self._pieces and not self._ended and not self.closed:
                self._changed.wait()
            if self.closed:
                raise Gone
            if not self._pieces:
                return b""
            data = bytes(self._pieces.popleft())
            self._taken += len(data)
            size = self._taken if 2 * self._taken >= WINDOW else 0
            if size:
                self._taken = 0
                self._waiting -= size
        if size:
            self.tell("ack", size=size)
        return data

    def write(self, data: bytes) -> None:
        """Send bytes, waiting while the guest does not take them. Raises Gone."""
        view = memoryview(data)
        while len(view):
            with self._changed:
                while not self._credit and not self.closed:
                    self._changed.wait()
                if self.closed:
                    raise Gone
                size = min(len(view), self._credit, PIECE)
                self._credit -= size
            self.tell("data", view[:size])
            view = view[size:]

    def tell(self, op: str, blob: wire.Blob | None = None, **more: object) -> None:
        """Send one frame about this connection, unless it is closed. Raises Gone when the guest is."""
        if self.closed:
            raise Gone
        try:
            self._send(({"t": "net", "op": op, "id": self.number, **more}, () if blob is None else (blob,)))
        except Exception as error:  # the guest is gone: the thread that reads its frames finds that out and says why
            raise Gone from error

    def close(self) -> None:
        """No more bytes come from here."""
        with self._changed:
            if self.closed:
                return
        try:
            self.tell("close")
        except Gone:
            pass
        self.drop()
