# mypy: ignore-errors
# It is written against the CPython inside the wasm image, whose private names a checker on the host does not know.
"""Sockets for a guest without an operating system: no descriptors, no threads, only the frames.

A read that has to wait takes the host's frames until there is something for it. An event loop's selector does the same.
"""

import errno
import importlib.abc
import importlib.machinery
import select
import socket
import sys
import time
import types

import safeexec_inside as inside
import safeexec_inside_names as names
import safeexec_inside_tls as tls

_RealSocket = socket.socket
_real_poll, _real_select = select.poll, select.select
_FIRST = 1 << 20
_network = None
_by_fd = {}


def wait(condition, timeout):
    """Take frames until `condition` holds; whether it came to hold in time."""
    guest = _network.guest
    channel = guest._channel
    deadline = None if timeout is None else time.monotonic() + timeout
    while not condition():
        left = -1 if deadline is None else deadline - time.monotonic()
        if deadline is not None and left <= 0:
            return False
        if channel.wait(left):
            take()
    return True


def take():
    """Take the frames that are there: those about connections, and answers of tools."""
    guest = _network.guest
    guest._shield += 1
    try:
        while guest._channel.buffered():
            guest._receive()
    finally:
        guest._open_shield()


class Socket(inside.SocketParts, _RealSocket):
    """``socket.socket`` whose connections are the host's."""

    def __new__(cls, *args, **kwargs):
        return _RealSocket.__new__(cls)

    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        family = socket.AF_INET if family == -1 else family
        type = socket.SOCK_STREAM if type == -1 else type
        if fileno is not None or family not in (socket.AF_INET, socket.AF_INET6) or type & 0xF != socket.SOCK_STREAM:
            raise OSError(errno.EAFNOSUPPORT, "this sandbox has connections to servers only")
        self._io_refs = 0
        self._closed = False
        self._family, self._proto = socket.AddressFamily(family), 0 if proto == -1 else proto
        self._timeout = socket.getdefaulttimeout()
        self._fd = -1
        while self._fd < 0 or self._fd in _by_fd:
            Socket._next = getattr(Socket, "_next", _FIRST) + 1
            self._fd = Socket._next
        self._options = {}

    family = property(lambda self: self._family)
    type = property(lambda self: socket.SOCK_STREAM)
    proto = property(lambda self: self._proto)
    timeout = property(lambda self: self._timeout)

    def __repr__(self):
        return f"<socket.socket fd={self.fileno()}, connected to {self._connection and self._connection.address}>"

    def fileno(self):
        return self._fd

    def detach(self):
        fd, self._fd, self._closed = self._fd, -1, True
        return fd

    def settimeout(self, value):
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = value

    def gettimeout(self):
        return self._timeout

    def setblocking(self, flag):
        self._timeout = None if flag else 0.0

    def getblocking(self):
        return self._timeout != 0.0

    def get_inheritable(self):
        return False

    def set_inheritable(self, inheritable):
        pass

    def setsockopt(self, level, name, value, *rest):
        self._options[level, name] = value

    def getsockopt(self, level, name, *rest):
        if (level, name) == (socket.SOL_SOCKET, socket.SO_ERROR):
            error = self._connection.error if self._connection is not None else None
            return error.errno or 1 if error is not None else 0
        value = self._options.get((level, name), socket.SOCK_STREAM if name == socket.SO_TYPE else 0)
        return bytes(rest[0]) if rest else value

    def getsockname(self):
        return ("127.0.0.1", 0) if self._connection is None else super().getsockname()

    def getpeername(self):
        if self._connection is None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return super().getpeername()

    def bind(self, address):
        if address[1] != 0:
            raise OSError(errno.EADDRNOTAVAIL, "this sandbox has connections to servers only")

    def listen(self, *args):
        raise OSError(errno.EOPNOTSUPP, "this sandbox has connections to servers only")

    accept = listen

    def connect(self, address):
        connection = begin(self, address)
        if self._timeout == 0:
            raise BlockingIOError(errno.EINPROGRESS, "Operation now in progress")
        if not wait(lambda: connection.settled, self._timeout):
            raise TimeoutError("timed out")
        if connection.error is not None and not connection.pieces:
            raise connection.error

    def connect_ex(self, address):
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or 1
        return 0

    def _live(self):
        connection = self._connection
        if connection is None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        if self._fd < 0 or (self._closed and connection.closed):
            raise OSError(errno.EBADF, "Bad file descriptor")
        return connection

    def recv_into(self, buffer, nbytes=0, flags=0):
        connection = self._live()
        view = memoryview(buffer).cast("B")
        if nbytes:
            view = view[:nbytes]
        if not connection.pieces and not connection.ended:
            if self._timeout == 0 or flags & socket.MSG_DONTWAIT:
                if _network.guest._channel.buffered():
                    take()
                if not connection.pieces and not connection.ended:
                    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            elif not wait(lambda: connection.pieces or connection.ended, self._timeout):
                raise TimeoutError("timed out")
        done = 0
        while connection.pieces and done < len(view):
            piece = connection.pieces[0]
            count = min(len(piece), len(view) - done)
            view[done : done + count] = piece[:count]
            done += count
            if flags & socket.MSG_PEEK:
                return done
            if count == len(piece):
                connection.pieces.popleft()
            else:
                connection.pieces[0] = piece[count:]
        if done:
            _network.took(connection, done)
        return done

    def recv(self, bufsize, flags=0):
        connection = self._connection
        size = min(bufsize, max(connection.waiting, 65536)) if connection is not None else 0
        data = bytearray(size)
        count = self.recv_into(data, size, flags) if size or bufsize else 0
        return bytes(data[:count])

    def recvfrom(self, bufsize, flags=0):
        return self.recv(bufsize, flags), None

    def send(self, data, flags=0):
        connection = self._live()
        view = memoryview(data).cast("B")
        if connection.ended and connection.number not in _network.live:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        if len(view) and not connection.credit:
            if self._timeout == 0:
                if _network.guest._channel.buffered():
                    take()
                if not connection.credit:
                    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            elif not wait(lambda: connection.credit or connection.ended, self._timeout):
                raise TimeoutError("timed out")
            if not connection.credit:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        count = min(len(view), connection.credit, _network.piece)
        if count:
            _network.data(connection, view[:count])
        return count

    def sendall(self, data, flags=0):
        view = memoryview(data).cast("B")
        while len(view):
            view = view[self.send(view, flags) :]

    def sendmsg(self, buffers, *rest):
        return self.send(b"".join(buffers))

    def shutdown(self, how):
        connection = self._live()
        if how != socket.SHUT_RD:
            _network.end(connection)

    def _real_close(self, *args):
        self._closed = True
        connection = self._connection
        _by_fd.pop(self._fd, None)
        self._fd = -1
        if connection is not None:
            _network.close(connection)

    def __del__(self):
        connection = self._connection
        if connection is not None and not connection.closed:
            _by_fd.pop(self._fd, None)
            try:
                _network.close(connection)
            except BaseException:
                pass


def begin(sock, address):
    """Connect a socket through the host."""
    if not isinstance(sock, Socket) or sock._connection is not None:
        raise OSError(errno.EISCONN, "Transport endpoint is already connected")
    sock._connection = _network.open((str(address[0]), int(address[1])))
    _by_fd[sock._fd] = sock
    return sock._connection


def readiness(sock):
    """What would not block: selectors' EVENT_READ (1) and EVENT_WRITE (2)."""
    connection = sock._connection
    if connection is None:
        return 0
    ready = 1 if connection.pieces or connection.ended else 0
    return ready | (2 if connection.settled and (connection.credit or connection.ended) else 0)


def ready_of(wanted):
    """Of fd to events, those that are ready now."""
    found = []
    for fd, events in wanted.items():
        sock = _by_fd.get(fd)
        now = 1 | 2 if sock is None else readiness(sock)
        if now & events:
            found.append((fd, now & events))
    return found


class Poll:
    """``select.poll`` for sockets of this kind."""

    def __init__(self):
        self._real = _real_poll()
        self._others = 0
        self._wanted = {}

    def register(self, file, events=select.POLLIN | select.POLLPRI | select.POLLOUT):
        fd = file if isinstance(file, int) else file.fileno()
        if fd >= _FIRST:
            self._wanted[fd] = events
        else:
            self._others += 1
            self._real.register(fd, events)

    modify = register

    def unregister(self, file):
        fd = file if isinstance(file, int) else file.fileno()
        if fd in self._wanted:
            del self._wanted[fd]
        else:
            self._others -= 1
            self._real.unregister(fd)

    def poll(self, timeout=None):
        if not self._wanted:
            return self._real.poll(timeout)
        masks = {
            fd: (1 if e & select.POLLIN else 0) | (2 if e & select.POLLOUT else 0) for fd, e in self._wanted.items()
        }
        take()
        wait(lambda: ready_of(masks), None if timeout is None or timeout < 0 else timeout / 1000)
        found = [(fd, (select.POLLIN if e & 1 else 0) | (select.POLLOUT if e & 2 else 0)) for fd, e in ready_of(masks)]
        return found + (self._real.poll(0) if self._others else [])


def select_(reading, writing, exceptional, timeout=None):
    """``select.select`` for sockets of this kind."""
    number = lambda file: file if isinstance(file, int) else file.fileno()  # noqa: E731
    if not any(number(file) >= _FIRST for file in [*reading, *writing]):
        return _real_select(reading, writing, exceptional, *([] if timeout is None else [timeout]))
    masks = {}
    for files, bit in ((reading, 1), (writing, 2)):
        for file in files:
            masks[number(file)] = masks.get(number(file), 0) | bit
    take()
    wait(lambda: ready_of(masks), timeout)
    found = dict(ready_of(masks))
    return [f for f in reading if found.get(number(f), 0) & 1], [f for f in writing if found.get(number(f), 0) & 2], []


def install_selector(kind):
    """Teach the event loop's selector these sockets."""
    original = kind.select

    def select(self, timeout=None):
        keys = {fd: key for fd, key in self._fd_to_key.items() if fd >= _FIRST}
        if not keys and not _network.waiters:
            return original(self, timeout)
        wanted = {fd: key.events for fd, key in keys.items()}
        if _network.guest._channel.buffered():
            take()
        found = ready_of(wanted)
        if not found and not self.loop._ready:
            if _network.guest._channel.wait(-1 if timeout is None else max(0, timeout)):
                take()
            found = ready_of(wanted)
        return [(keys[fd], events) for fd, events in found]

    kind.select = select


def complete_tls():
    """The image's `ssl` does nothing; urllib3 sets what it lacks."""
    sys.modules["ssl"].SSLContext.hostname_checks_common_name = True


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands for the part of urllib3 that replaces its sockets by the JavaScript of a browser, of which there is none."""

    def find_spec(self, name, path=None, target=None):
        if name in ("urllib3.contrib.emscripten",):
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        return types.ModuleType(spec.name)

    def exec_module(self, module):
        module.inject_into_urllib3 = lambda: None


def start(guest, setup):
    """Give `guest` a network."""
    global _network
    _network = network = inside.Network(guest, setup)
    socket.socket = socket.SocketType = Socket
    select.poll, select.select = Poll, select_
    names.install_names(socket.getaddrinfo)
    import asyncio

    names.install_loop(network, begin)
    names.after_import("ssl", complete_tls)
    tls.install_tls(network)
    install_selector(type(asyncio.EventLoop()._selector))
    sys.meta_path.insert(0, Finder())
    return network
