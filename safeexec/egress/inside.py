"""What the guest has of a network: connections that the host makes, under the sandbox's own sockets.

Shipped into the sandbox as text when a policy permits a network, together with ``inside_names``, ``inside_tls`` and one of ``inside_threads`` and
``inside_wasm``, which supply the sockets. Standard library only, CPython 3.9 and later. It defends nothing: what may be reached is the host's decision, made anew for every connection and
request. Name lookups are not made here either: a host's name travels in place of its address.
"""

from __future__ import annotations

import collections
import errno
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

_LOOPBACK = ("localhost", "127.", "::1")


class Connection:
    """One connection, as the guest has it. `notify` is called, in whatever thread reads frames, when anything about it changes."""

    def __init__(self, number: int, address: tuple[Any, ...], credit: int) -> None:
        self.number = number
        self.address = address
        self.credit = credit
        self.settled = False
        self.error: OSError | None = None
        self.pieces: collections.deque[Any] = collections.deque()
        self.waiting = 0
        self.taken = 0
        self.ended = False
        self.closed = False
        self.dropped = False
        """Its step is over: what was not handed on by then is not wanted any more."""
        self.notify: Callable[[], None] | None = None


class Network:
    """All connections of this guest; frames in both directions."""

    def __init__(self, guest: Any, setup: dict[str, Any]) -> None:
        self.guest = guest
        self.window = setup["window"]
        self.piece = setup["piece"]
        self.live: dict[int, Connection] = {}
        self.lock = threading.RLock()
        self.numbers = 0
        self.waiters = 0
        self.main = threading.get_ident()

    # -- frames ----------------------------------------------------------------------------------------------------------

    def send(self, header: dict[str, Any], blobs: Sequence[Any] = ()) -> None:
        """Send one frame. In the main thread an interrupt waits until it is out whole; no other thread gets interrupts."""
        if threading.get_ident() == self.main:
            self.guest.send(header, blobs)
            return
        with self.guest._send_lock:
            self.guest._channel.send(header, blobs)

    def open(self, address: tuple[Any, ...], proxy: bool = False) -> Connection:
        """Ask the host for a connection; its answer settles it."""
        with self.lock:
            self.numbers += 1
            connection = Connection(self.numbers, address, self.window)
            self.live[connection.number] = connection
        header: dict[str, Any] = {"t": "net", "op": "open", "id": connection.number}
        if proxy:
            header["proxy"] = True
            connection.settled = True
        else:
            header["host"], header["port"] = address[0], address[1]
        self.send(header)
        return connection

    def begin(self, step: int) -> None:
        """A step begins. Its connections get numbers of its own: where a step was undone, frames for one of its connections may still come."""
        self.numbers = (step % 2**40) * 2**12

    def feed(self, header: dict[str, Any], blobs: Sequence[Any]) -> None:
        """Take a frame of the host about a connection."""
        connection = self.live.get(header["id"])
        if connection is None:
            return
        op = header["op"]
        if op == "data":
            connection.pieces.append(memoryview(bytes(blobs[0])))
            connection.waiting += len(blobs[0])
        elif op == "ack":
            connection.credit += header["size"]
        elif op == "opened":
            connection.settled = True
        elif op == "refused":
            connection.error = _error(header)
            connection.settled = connection.ended = True
            self.forget(connection)
        elif op == "close":
            connection.settled = connection.ended = True
            if connection.error is None and not connection.pieces:
                connection.error = ConnectionResetError(errno.ECONNRESET, "the connection was closed")
            self.forget(connection)
        if connection.notify is not None:
            connection.notify()

    def data(self, connection: Connection, piece: Any) -> None:
        """Send bytes, no more than the window has room for."""
        connection.credit -= len(piece)
        self.send({"t": "net", "op": "data", "id": connection.number}, [piece])

    def took(self, connection: Connection, size: int) -> None:
        """Bytes were handed on: the host may send as many more."""
        connection.waiting -= size
        connection.taken += size
        if 2 * connection.taken >= self.window and connection.number in self.live:
            size, connection.taken = connection.taken, 0
            self.send({"t": "net", "op": "ack", "id": connection.number, "size": size})

    def end(self, connection: Connection) -> None:
        """No more bytes come from here."""
        if connection.number in self.live:
            self.send({"t": "net", "op": "end", "id": connection.number})

    def close(self, connection: Connection) -> None:
        """Both directions are over."""
        connection.closed = connection.ended = True
        if connection.number in self.live:
            self.forget(connection)
            self.send({"t": "net", "op": "close", "id": connection.number})

    def forget(self, connection: Connection) -> None:
        self.live.pop(connection.number, None)

    def reset(self) -> None:
        """A step is over, and the host has closed its connections."""
        for connection in list(self.live.values()):
            self.forget(connection)
            connection.settled = connection.ended = connection.dropped = True
            connection.pieces.clear()
            if connection.notify is not None:
                connection.notify()

    def owns(self, sock: Any) -> bool:
        """Whether a socket is connected through the host."""
        return getattr(sock, "_connection", None) is not None


def _error(header: dict[str, Any]) -> OSError:
    kind, message = header.get("kind"), str(header.get("message"))
    if kind == "policy":
        return PermissionError(errno.EACCES, message)
    if kind == "name":
        return socket.gaierror(socket.EAI_NONAME, message)
    if kind == "timeout":
        return TimeoutError(errno.ETIMEDOUT, message)
    return OSError(header.get("errno") or errno.EHOSTUNREACH, message)  # gives ConnectionRefusedError and its kind


def is_loopback(host: Any) -> bool:
    """Whether a host is this sandbox itself, as far as its spelling tells."""
    return isinstance(host, str) and host.lower().startswith(_LOOPBACK)


def is_address(host: Any) -> bool:
    """Whether a host is written in numbers."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
            return True
        except (OSError, ValueError, TypeError):
            continue
    return False


def verified(name: Any) -> dict[str, Any]:
    """What clients that look at a certificate themselves are shown: the name for which the host has verified the server's, and no more."""
    if not name:
        return {}
    kind = "IP Address" if is_address(name) else "DNS"
    return {"subject": ((("commonName", name),),), "subjectAltName": ((kind, name),)}


class SocketParts:
    """What both kinds of sockets have in place of a real one's. Mixed into a subclass of ``socket.socket``."""

    _connection: Connection | None = None
    _secured = False

    def getpeername(self) -> Any:
        connection = self._connection
        if connection is None:
            return super().getpeername()  # type: ignore[misc]
        return connection.address

    def getsockname(self) -> Any:
        if self._connection is None:
            return super().getsockname()  # type: ignore[misc]
        return ("127.0.0.1", 1024 + self._connection.number % 60000)

    def setsockopt(self, level: int, *rest: Any) -> None:
        if self._connection is not None and level in (
            socket.IPPROTO_TCP,
            socket.IPPROTO_IP,
            getattr(socket, "IPPROTO_IPV6", 41),
        ):
            return  # of the connection that the host makes; it is made without delays
        try:
            super().setsockopt(level, *rest)  # type: ignore[misc]
        except OSError as error:
            if level != socket.IPPROTO_TCP or error.errno not in (errno.EOPNOTSUPP, errno.ENOPROTOOPT, errno.EPERM):
                raise

    # Of an SSLSocket, for those who ask after the host did TLS.
    def version(self) -> str | None:
        return "TLSv1.3" if self._secured else None

    def cipher(self) -> Any:
        return ("(of the host)", "TLSv1.3", 0) if self._secured else None

    def getpeercert(self, binary_form: bool = False) -> Any:
        return None if binary_form or not self._secured else verified(self._connection and self._connection.address[0])

    def selected_alpn_protocol(self) -> None:
        return None

    def pending(self) -> int:
        return 0

    def unwrap(self) -> Any:
        return self


def environment(port: int) -> dict[str, str]:
    """The variables by which other programs find an HTTP proxy on this port."""
    url = f"http://127.0.0.1:{port}"
    return {"http_proxy": url, "https_proxy": url, "HTTPS_PROXY": url, "no_proxy": "", "NO_PROXY": ""}


def tell_children(port: int) -> None:
    """Child processes get the proxy's address; this one does not use it, so ``os.environ`` is left as it is."""
    for name, value in environment(port).items():
        if name not in os.environ:
            os.putenv(name, value)
