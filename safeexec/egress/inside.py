"""What the guest has of a network: connections that the host makes, under the sandbox's own sockets.

Shipped into the sandbox as text when a policy permits a network, together with one of ``inside_threads`` and ``inside_wasm``, which supply the
sockets. Standard library only, CPython 3.9 and later. It defends nothing: what may be reached is the host's decision, made anew for every connection and
request. Name lookups are not made here either: a host's name travels in place of its address.
"""

from __future__ import annotations

import collections
import errno
import importlib.abc
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

PREFACE = b"\x16\x00safeexec-tls "
_LOOPBACK = ("localhost", "127.", "::1")
_SERVICES = {"http": 80, "https": 443}


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


# -- names ----------------------------------------------------------------------------------------------------------------


def install_names(real: Callable[..., Any]) -> None:
    """Make ``socket.getaddrinfo`` answer with the name itself: the host looks it up, where it connects."""

    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[Any]:
        if isinstance(host, (bytes, bytearray)):
            host = bytes(host).decode("idna")
        if not host or type not in (0, socket.SOCK_STREAM) or flags & socket.AI_PASSIVE:
            return list(real(host, port, family, type, proto, flags))
        if isinstance(port, (bytes, str)):
            text = port.decode() if isinstance(port, bytes) else port
            port = _SERVICES.get(text, int(text) if text.isdigit() else None)
            if port is None:
                raise socket.gaierror(socket.EAI_SERVICE, "unknown service")
        six = ":" in host
        if not six and flags & socket.AI_NUMERICHOST and not is_address(host):
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        if family not in (0, socket.AF_INET6 if six else socket.AF_INET):
            raise socket.gaierror(socket.EAI_NONAME, "no address of this family")
        canonical = host if flags & socket.AI_CANONNAME else ""
        if six:
            return [(socket.AF_INET6, socket.SOCK_STREAM, 6, canonical, (host, port or 0, 0, 0))]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, canonical, (host, port or 0))]

    socket.getaddrinfo = getaddrinfo


class _AfterImport(importlib.abc.MetaPathFinder):
    """Does something right after a module was imported."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name = name
        self._action = action

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        run = loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            self._action()

        loader.exec_module = exec_module
        return spec


def after_import(name: str, action: Callable[[], None]) -> None:
    """Do it now if the module is there, else once it is: importing it for nothing would cost a session tens of milliseconds."""
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _AfterImport(name, action))


def install_loop(network: Network, begin: Callable[[Any, Any], Any]) -> None:
    """Make asyncio's event loops look names up and connect without threads, and without blocking."""
    after_import("asyncio.selector_events", lambda: _install_loop(network, begin))


def _install_loop(network: Network, begin: Callable[[Any, Any], Any]) -> None:
    from asyncio import base_events, selector_events

    original = selector_events.BaseSelectorEventLoop.sock_connect

    async def getaddrinfo(
        self: Any, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        return socket.getaddrinfo(host, port, family, type, proto, flags)

    async def sock_connect(self: Any, sock: Any, address: Any) -> None:
        connection = begin(sock, address)
        if connection is None:
            await original(self, sock, address)
            return
        if not isinstance(connection, Connection):  # connected already
            return
        future = self.create_future()

        def set_result() -> None:
            if not future.done():
                future.set_result(None)

        def settled() -> None:
            if connection.settled:
                if sys.platform == "emscripten":  # the loop's own thread reads the frames
                    set_result()
                else:
                    try:
                        self.call_soon_threadsafe(set_result)
                    except RuntimeError:  # the loop was closed
                        pass

        with network.lock:
            before = connection.notify

            def both() -> None:
                if before is not None:
                    before()
                settled()

            connection.notify = both
            settled()
        network.waiters += 1
        try:
            await future
        finally:
            network.waiters -= 1
            connection.notify = before
        if connection.error is not None and not connection.pieces:
            raise connection.error

    base_events.BaseEventLoop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]
    selector_events.BaseSelectorEventLoop.sock_connect = sock_connect  # type: ignore[method-assign]


# -- TLS ------------------------------------------------------------------------------------------------------------------


def install_tls(network: Network) -> None:
    """Have the host do TLS: it verifies the server, and sees the requests that it must decide about and add credentials to.

    A client that brings TLS of its own (another program, a library that does not use ``ssl``) is passed through by the host as it is.
    """
    after_import("ssl", lambda: _install_tls(network, sys.modules["ssl"]))


def _install_tls(network: Network, ssl: Any) -> None:
    wrap_socket, wrap_bio = ssl.SSLContext.wrap_socket, ssl.SSLContext.wrap_bio

    def secure_socket(self: Any, sock: Any, server_side: bool = False, *args: Any, **more: Any) -> Any:
        if server_side or not network.owns(sock):
            return wrap_socket(self, sock, server_side, *args, **more)
        name = more.get("server_hostname") or (args[2] if len(args) > 2 else None)
        timeout = sock.gettimeout()
        if timeout == 0:
            sock.settimeout(None)
        try:
            sock.sendall(_preface(name))
            line = bytearray()
            while not line.endswith(b"\n"):
                byte = sock.recv(1)
                if not byte:
                    raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection was closed before TLS was there")
                line += byte
        finally:
            sock.settimeout(timeout)
        _verdict(ssl, bytes(line))
        sock._secured = True
        return sock

    def secure_bio(
        self: Any,
        incoming: Any,
        outgoing: Any,
        server_side: bool = False,
        server_hostname: Any = None,
        session: Any = None,
    ) -> Any:
        if server_side or (sys.platform != "emscripten" and is_loopback(server_hostname)):
            return wrap_bio(self, incoming, outgoing, server_side, server_hostname, session)
        return Plain(self, ssl, incoming, outgoing, server_hostname)

    ssl.SSLContext.wrap_socket, ssl.SSLContext.wrap_bio = secure_socket, secure_bio


def _preface(name: Any) -> bytes:
    if isinstance(name, (bytes, bytearray)):
        return PREFACE + bytes(name) + b"\n"
    text = name or ""
    return PREFACE + (text if text.isascii() else text.encode("idna").decode()).encode() + b"\n"


def _verdict(ssl: Any, line: bytes) -> None:
    kind, _, message = line[2:].decode("ascii", "replace").strip().partition(" ")
    if kind == "ok":
        return
    if kind == "certificate":
        error = ssl.SSLCertVerificationError(1, message)
        error.verify_code, error.verify_message, error.reason = 1, message, "CERTIFICATE_VERIFY_FAILED"
        raise error
    if kind == "policy":
        raise PermissionError(errno.EACCES, message)
    raise ssl.SSLError(1, message)


def verified(name: Any) -> dict[str, Any]:
    """What clients that look at a certificate themselves are shown: the name for which the host has verified the server's, and no more."""
    if not name:
        return {}
    kind = "IP Address" if is_address(name) else "DNS"
    return {"subject": ((("commonName", name),),), "subjectAltName": ((kind, name),)}


class Plain:
    """Stands for an ``ssl.SSLObject`` where the host does the TLS: bytes pass as they are, behind the line that asks for it."""

    server_side = False
    session = None
    session_reused = False

    def __init__(self, context: Any, ssl: Any, incoming: Any, outgoing: Any, name: Any) -> None:
        self.context = context
        self.server_hostname = name
        self._ssl = ssl
        self._incoming, self._outgoing = incoming, outgoing
        self._state = 0
        self._line = bytearray()

    def do_handshake(self) -> None:
        if self._state == 0:
            self._outgoing.write(_preface(self.server_hostname))
            self._state = 1
        while self._state == 1:
            byte = self._incoming.read(1)
            if not byte:
                if self._incoming.eof:
                    raise self._ssl.SSLEOFError(8, "the connection was closed before TLS was there")
                raise self._ssl.SSLWantReadError(2, "the host has not answered yet")
            self._line += byte
            if byte == b"\n":
                self._state = 2
                _verdict(self._ssl, bytes(self._line))

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        self.do_handshake()
        data = self._incoming.read(size if buffer is None else min(size or len(buffer), len(buffer)))
        if not data and not self._incoming.eof:
            raise self._ssl.SSLWantReadError(2, "nothing there yet")
        if buffer is None:
            return data
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        self.do_handshake()
        return int(self._outgoing.write(data))

    def unwrap(self) -> None:
        return None

    def pending(self) -> int:
        return int(self._incoming.pending)

    def getpeercert(self, binary_form: bool = False) -> Any:
        return None if binary_form else verified(self.server_hostname)

    def get_channel_binding(self, cb_type: str = "tls-unique") -> None:
        return None

    def selected_alpn_protocol(self) -> None:
        return None

    selected_npn_protocol = compression = shared_ciphers = selected_alpn_protocol

    def cipher(self) -> tuple[str, str, int]:
        return ("(of the host)", self.version(), 0)

    def version(self) -> str:
        return "TLSv1.3"

    def verify_client_post_handshake(self) -> None:
        raise self._ssl.SSLError("not available: the host does TLS")


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
