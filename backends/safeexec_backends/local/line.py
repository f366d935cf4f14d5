"""The host's end of the line to a cell's keeper: orders that are given, messages that are heard."""

from __future__ import annotations

import itertools
import socket
import threading

from safeexec_backends.local import keeping


class KeeperLine:
    """One for each cell; its sessions share it."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.lock = threading.RLock()
        """Held by whoever hears, and whoever asks for a checkpoint: what the keeper says concerns the session that runs."""
        self._orders = itertools.count(1)

    def order(self, kind: bytes, session: int) -> int:
        """Give the keeper an order about a session; the order's number. Raises OSError."""
        number = next(self._orders)
        self.socket.sendall(keeping.ORDER.pack(kind, session, number))
        return number

    def hear(self, timeout: float | None) -> tuple[bytes, int, int, list[int]]:
        """The next message, within `timeout` seconds: kind, number, the order it answers, descriptors, which the caller owns. Raises OSError, EOFError."""
        self.socket.settimeout(timeout)
        data, fds, _, _ = socket.recv_fds(self.socket, keeping.MESSAGE.size, 2)
        while data and len(data) < keeping.MESSAGE.size:
            more = self.socket.recv(keeping.MESSAGE.size - len(data))
            data = data + more if more else b""
        if not data:
            raise EOFError("it ended")
        kind, number, answers = keeping.MESSAGE.unpack(data)
        return kind, number, answers, list(fds)

    def close(self) -> None:
        """Hang up. Idempotent."""
        self.socket.close()
