"""The attached stream of a container: raw towards its stdin, in docker's pieces back from its stdout and stderr.

Each piece is one byte of stream number (1 stdout, 2 stderr), three zeros, and its length, big-endian, in four bytes; then its bytes. Source: the
Docker Engine API, "Attach to a container", stream format.
"""

from __future__ import annotations

import socket
from typing import Any

_TAIL = 2000
_CHUNK = 256 * 1024


class Attached:
    """What :class:`safeexec.backend.StreamGuest` needs of a socket. Owns the HTTP response whose connection it took over."""

    def __init__(self, response: Any) -> None:
        raw = response
        self._response = getattr(raw, "_response", None)
        # The SDK hands out a SocketIO over the socket, or a TLS socket itself.
        self._socket: socket.socket = getattr(raw, "_sock", raw)
        self._raw = raw
        self._buffer = memoryview(bytearray(_CHUNK))
        self._start = 0
        self._end = 0
        self._left = 0
        self._stderr = False
        self.tail = b""
        """The last bytes of stderr: an interpreter that does not start says why there."""

    def setblocking(self, flag: bool) -> None:
        """As a socket's; also clears the SDK's timeout."""
        self._socket.setblocking(flag)

    def settimeout(self, seconds: float | None) -> None:
        """As a socket's."""
        self._socket.settimeout(seconds)

    def fileno(self) -> int:
        """As a socket's."""
        return self._socket.fileno()

    def sendall(self, data: Any) -> None:
        """As a socket's."""
        self._socket.sendall(data)

    def send_now(self, data: bytes) -> bool:
        """Send a few bytes without waiting; False when the stream is full."""
        if not isinstance(self._socket, socket.socket) or not hasattr(socket, "MSG_DONTWAIT"):
            return False
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT) == len(data)
        except ValueError:  # TLS takes no flags
            self._socket.sendall(data)
            return True
        except BlockingIOError:
            return False

    def shutdown(self, how: int) -> None:
        """As a socket's."""
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        response, self._response = self._response, None
        if response is not None:
            response.close()
        self._raw.close()
        self._socket.close()

    def recv_into(self, view: memoryview) -> int:
        """The next bytes of the container's stdout; 0 at its end."""
        while True:
            if not self._left and not self._header():
                return 0
            if self._stderr:
                if not self._skip():
                    return 0
                continue
            have = self._end - self._start
            if have:
                count = min(have, self._left, len(view))
                view[:count] = self._buffer[self._start : self._start + count]
                self._start += count
            elif self._left > 65536 and len(view) > 65536:  # a large frame goes to its place without a copy
                count = self._socket.recv_into(view[: min(self._left, len(view))])
                if not count:
                    return 0
            else:
                if not self._fill():
                    return 0
                continue
            self._left -= count
            return count

    def _fill(self) -> bool:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        count = self._socket.recv_into(self._buffer[self._end :])
        self._end += count
        return count > 0

    def _header(self) -> bool:
        while self._end - self._start < 8:
            if not self._fill():
                return False
        head = self._buffer[self._start : self._start + 8]
        self._start += 8
        self._stderr = head[0] == 2
        self._left = int.from_bytes(head[4:8], "big")
        return True

    def _skip(self) -> bool:
        while self._left:
            if self._start == self._end and not self._fill():
                return False
            count = min(self._end - self._start, self._left)
            piece = bytes(self._buffer[self._start : self._start + count])
            self.tail = (self.tail + piece)[-_TAIL:]
            self._start += count
            self._left -= count
        return True
