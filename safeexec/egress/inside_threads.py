"""Sockets for a guest that has an operating system: one end of a stream pair each, whose other end a thread carries over the frames.

The pair needs no network at all, not even a loopback interface. Where the sandbox has one, an HTTP proxy listens there too, for child processes and for
native code that knows nothing of ``socket.socket``.
"""

from __future__ import annotations

import _thread
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import safeexec_inside as inside  # type: ignore[import-not-found, unused-ignore]
import safeexec_inside_names as names  # type: ignore[import-not-found, unused-ignore]
import safeexec_inside_tls as tls  # type: ignore[import-not-found, unused-ignore]

_RealSocket = socket.socket
DONE = object()
"""Connected already."""


class Channel:
    """The guest's channel with a thread that reads it, so that a connection's frames arrive while a step is busy."""

    def __init__(self, inner: Any, feed: Callable[[Any, Any], None]) -> None:
        self._inner = inner
        self._feed = feed
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._watchers: dict[Any, Callable[[], None]] = {}
        self.send = inner.send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def start(self) -> None:
        """Begin to read."""
        _thread.start_new_thread(self._main, ())

    def _main(self) -> None:
        try:
            while True:
                header, blobs = self._inner.recv()
                if header.get("t") == "net":
                    self._feed(header, blobs)
                    continue
                self._queue.put((header, blobs))
                for loop, callback in list(self._watchers.items()):
                    try:
                        loop.call_soon_threadsafe(callback)
                    except RuntimeError:  # that loop was closed
                        self._watchers.pop(loop, None)
        except BaseException:  # the host is gone
            self._queue.put(None)

    def recv(self) -> Any:
        """The next frame that is not about a connection."""
        frame = self._queue.get()
        if frame is None:
            self._queue.put(None)
            raise EOFError
        return frame

    def buffered(self) -> bool:
        """Whether a frame waits."""
        return not self._queue.empty()

    def watch(self, loop: Any, callback: Callable[[], None]) -> None:
        """Call `callback` from the event loop whenever a frame waits."""

        def ready() -> None:
            if self.buffered():
                callback()

        self._watchers[loop] = ready
        loop.call_soon(ready)

    def unwatch(self, loop: Any) -> None:
        """Undo `watch`."""
        self._watchers.pop(loop, None)


class Far:
    """The carried end of one socket pair."""

    def __init__(self, connection: Any, sock: Any) -> None:
        self.connection = connection
        self.sock = sock
        self.reading = True
        self.stalled = False
        self.lock = threading.Lock()


class Pump:
    """The thread that carries bytes between socket pairs and frames."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._poll = select.poll()
        self._far: dict[int, Far] = {}
        self._changes: deque[Far] = deque()
        self._wake_in, self._wake_out = os.pipe()
        for fd in (self._wake_in, self._wake_out):
            os.set_blocking(fd, False)
        self._poll.register(self._wake_in, select.POLLIN)
        self._listener: Any = None
        self.port = 0

    def listen(self) -> None:
        """Be an HTTP proxy on the loopback interface, where there is one."""
        try:
            listener = _RealSocket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            return
        try:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            listener.setblocking(False)
        except OSError:
            listener.close()
            return
        self._listener = listener
        self.port = listener.getsockname()[1]
        self._poll.register(listener, select.POLLIN)

    def start(self) -> None:
        """Begin to carry."""
        _thread.start_new_thread(self._main, ())

    def add(self, connection: Any, sock: Any) -> None:
        """Carry for one connection."""
        sock.setblocking(False)
        far = Far(connection, sock)
        connection.notify = lambda: self._notified(far)
        self._change(far)

    def _change(self, far: Far) -> None:
        self._changes.append(far)
        try:
            os.write(self._wake_out, b"x")
        except OSError:  # full: it is awake
            pass

    def _notified(self, far: Far) -> None:
        """In the thread that reads frames: what came goes into the pair at once."""
        if not self._write(far) or far.connection.ended or not far.reading or far.stalled:
            self._change(far)

    def _write(self, far: Far) -> bool:
        """Write what the pair takes; whether that was all."""
        connection = far.connection
        with far.lock:
            while True:
                # Taken out before anything is done with it: the end of a step empties the queue from another thread.
                try:
                    piece = connection.pieces.popleft()
                except IndexError:
                    return True
                if not piece:
                    continue
                try:
                    count = far.sock.send(piece)
                except BlockingIOError:
                    count = 0
                except OSError:  # the program closed its end
                    connection.pieces.clear()
                    return False
                if count < len(piece) and not connection.dropped:
                    connection.pieces.appendleft(piece[count:])
                if not count:
                    return False
                self._network.took(connection, count)

    def _main(self) -> None:
        while True:
            for fd, event in self._poll.poll():
                try:
                    if fd == self._wake_in:
                        os.read(fd, 65536)
                    elif self._listener is not None and fd == self._listener.fileno():
                        self._accept()
                    elif fd in self._far:
                        self._serve(self._far[fd], event)
                except OSError:
                    continue
                except BaseException:  # the channel is closed: nothing can be carried any more
                    return
            while self._changes:
                self._update(self._changes.popleft())

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        self.add(self._network.open(("", 0), True), sock)

    def _serve(self, far: Far, event: int) -> None:
        connection = far.connection
        if event & select.POLLOUT:
            self._write(far)
        if event & (select.POLLIN | select.POLLHUP | select.POLLERR) and far.reading and connection.credit > 0:
            try:
                data = far.sock.recv(min(self._network.piece, connection.credit))
            except BlockingIOError:
                data = None
            except OSError:
                data = b""
            if data:
                self._network.data(connection, data)
            elif data is not None:
                far.reading = False
                if event & (select.POLLHUP | select.POLLERR):
                    self._network.close(connection)
                else:
                    self._network.end(connection)
        elif event & (select.POLLHUP | select.POLLERR) and not far.reading:
            self._network.close(connection)
        self._update(far)

    def _update(self, far: Far) -> None:
        """Wait for what matters now; hang up when nothing does."""
        connection, fd = far.connection, far.sock.fileno()
        if fd < 0:
            return
        if connection.closed or (connection.ended and self._write(far)) or (connection.ended and not connection.pieces):
            self._unregister(fd)
            self._network.close(connection)
            with far.lock:  # a thread that still writes would do so to whatever gets the descriptor's number next
                far.sock.close()
            return
        events = select.POLLOUT if connection.pieces else 0
        # Before it looks at the credit: whoever grants some afterwards sees this, and has it looked at again.
        far.stalled = far.reading
        if far.reading and connection.credit > 0:
            far.stalled = False
            events |= select.POLLIN
        if far.stalled and not events:
            self._unregister(fd)  # its end would be reported over and over, and there is nothing to do about it yet
            return
        self._far[fd] = far
        self._poll.register(fd, events)

    def _unregister(self, fd: int) -> None:
        if self._far.pop(fd, None) is not None:
            self._poll.unregister(fd)


class Sockets:
    """Installs the socket class."""

    def __init__(self, network: Any, pump: Pump) -> None:
        self._network = network
        self._pump = pump
        self.child = False

    def begin(self, sock: Any, address: Any) -> Any:
        """Connect a socket through the host; None for one that is not for it."""
        if not isinstance(sock, Socket) or not sock._streams or type(address) is not tuple or len(address) < 2:
            return None
        host, port = address[0], address[1]
        if not isinstance(host, str) or not isinstance(port, int):
            return None
        if self.child:
            return None
        if inside.is_loopback(host) and sock._far is None and self._own(sock, host, port):
            return DONE
        far = sock._take_far()
        connection = self._network.open((host, port))
        sock._connection = connection
        self._pump.add(connection, far)
        return connection

    def _own(self, sock: Any, host: str, port: int) -> bool:
        """Connect to a server of this sandbox's own, if one listens there."""
        timeout = sock.gettimeout()
        sock.settimeout(1)
        try:
            _RealSocket.connect(sock, ("127.0.0.1" if host == "localhost" else host, port))
            return True
        except OSError:
            return False
        finally:
            sock.settimeout(timeout)

    def through_proxy(self, sock: Any, address: tuple[Any, ...]) -> None:
        """In a forked child, which has none of the threads: by way of the parent's proxy."""
        if not self._pump.port:
            raise PermissionError(1, "child processes have no network here")
        timeout = sock.gettimeout()
        sock.settimeout(timeout or None)
        try:
            _RealSocket.connect(sock, ("127.0.0.1", self._pump.port))
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            sock.sendall(
                "CONNECT {0}:{1} HTTP/1.1\r\nHost: {0}:{1}\r\n\r\n".format(host, address[1]).encode(
                    "idna" if not host.isascii() else "ascii"
                )
            )
            answer = bytearray()
            while not answer.endswith(b"\r\n\r\n"):
                byte = sock.recv(1)
                if not byte:
                    break
                answer += byte
            if not answer.startswith(b"HTTP/1.1 200"):
                size = 0
                for line in answer.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        size = int(line.split(b":")[1])
                reason = sock.recv(size) if size else b"the connection was refused"
                raise PermissionError(13, reason.decode("utf-8", "replace").strip())
        finally:
            sock.settimeout(timeout)


_sockets: Any = None


class Socket(inside.SocketParts, _RealSocket):  # type: ignore[misc]
    """``socket.socket`` whose connections to other hosts are made by the host of the sandbox."""

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        self._far: Any = None
        streams = type == -1 or type & 0xF == socket.SOCK_STREAM
        self._streams = streams and family in (-1, socket.AF_INET, socket.AF_INET6)
        if fileno is not None or not self._streams:
            super().__init__(family, type, proto, fileno)
            return
        try:
            super().__init__(family, type, proto)
        except PermissionError:  # the sandbox has no sockets of this kind, and needs none
            near, self._far = _pair()
            super().__init__(
                socket.AF_INET if family == -1 else family,
                socket.SOCK_STREAM,
                0 if proto == -1 else proto,
                near.detach(),
            )

    def _take_far(self) -> Any:
        far, self._far = self._far, None
        if far is None:
            near, far = _pair()
            os.dup2(near.fileno(), self.fileno(), inheritable=False)
            near.close()
            os.set_blocking(self.fileno(), self.gettimeout() is None)
        return far

    def connect(self, address: Any) -> None:
        connection = _sockets.begin(self, address)
        if connection is DONE:
            return
        if connection is None:
            if _sockets.child and self._streams and type(address) is tuple and not inside.is_loopback(address[0]):
                _sockets.through_proxy(self, address)
                return
            super().connect(
                ("127.0.0.1", *address[1:]) if type(address) is tuple and address[0] == "localhost" else address
            )
            return
        timeout = self.gettimeout()
        if timeout == 0:
            raise BlockingIOError(115, "Operation now in progress")
        settled = threading.Event()
        before = connection.notify

        def both() -> None:
            before()
            if connection.settled:
                settled.set()

        connection.notify = both
        if not connection.settled and not settled.wait(timeout):
            raise TimeoutError("timed out")
        connection.notify = before
        if connection.error is not None and not connection.pieces:
            raise connection.error

    def connect_ex(self, address: Any) -> int:
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or 1
        return 0


def _pair() -> tuple[Any, Any]:
    import _socket

    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return near, far


def start(guest: Any, setup: dict[str, Any]) -> Any:
    """Give `guest` a network."""
    global _sockets
    network = inside.Network(guest, setup)
    pump = Pump(network)
    pump.listen()
    _sockets = Sockets(network, pump)
    channel = Channel(guest._channel, network.feed)
    guest._channel = channel
    setattr(socket, "socket", Socket)
    names.install_names(socket.getaddrinfo)
    names.install_loop(network, _sockets.begin)
    tls.install_tls(network)
    if pump.port:
        inside.tell_children(pump.port)

    def after_fork() -> None:
        _sockets.child = True
        os.environ.update(inside.environment(pump.port))

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=after_fork)
    channel.start()
    pump.start()
    return network
