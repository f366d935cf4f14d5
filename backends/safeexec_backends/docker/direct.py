"""Frames over sockets of the host's own that a container is given by their path, past the daemon.

The daemon and its helper copy an attached stream twice each way, which costs 150 of the 200 µs of a round trip. Here one socket file is mounted,
read-only, into one container; the two connections that its program makes before any code of a session runs are taken, and then there is no file and no
listener any more: the container keeps two connected streams to this process, and nothing it could connect to.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import stat
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from safeexec.errors import BackendUnavailable
from safeexec_backends.docker import orders
from safeexec_backends.docker.reaper import start_time

INSIDE = "/run/safeexec"
_PREFIX = "s"
_MAX_PATH = 100
"""Of the 107 bytes that the address of a socket may have."""
_SO_PASSRIGHTS = 83  # include/uapi/asm-generic/socket.h, Linux 6.16


def take_no_descriptors(end: socket.socket) -> bool:
    """Have the kernel refuse whoever sends descriptors to `end`; whether it can.

    Descriptors that nobody takes are closed by who reads, or closes, the socket that they lie in, and to close may take as long as whoever made them
    wants. Where the kernel cannot, the filter sees to it that what a guest can make is closed at once (SO_LINGER in :mod:`seccomp`).
    """
    try:
        end.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def private_folder() -> Path:
    """A folder of this user's alone. Raises BackendUnavailable."""
    folder = Path(tempfile.gettempdir(), f"safeexec-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    # Files that another user could change, or sockets that he could connect to, would take walls away.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise BackendUnavailable(f"{folder} belongs to somebody else, or others may use it: remove it")
    return folder


def sweep() -> None:
    """Remove the socket files of processes that were killed while a container started."""
    for path in private_folder().glob(f"{_PREFIX}*"):
        pid, _, rest = path.name.removeprefix(_PREFIX).partition(".")
        if pid.isdigit() and start_time(int(pid)) != rest.partition(".")[0]:
            path.unlink(missing_ok=True)


class Listener:
    """The socket file of one container that is being started. Raises OSError where there is no room for one, BackendUnavailable."""

    def __init__(self) -> None:
        pid = os.getpid()
        self.path = str(private_folder() / f"{_PREFIX}{pid}.{start_time(pid)}.{secrets.token_hex(4)}")
        if len(os.fsencode(self.path)) > _MAX_PATH:
            raise OSError(f"the path {self.path} is too long for a socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(self.path)
            # The container's user must be able to connect. Other users of this machine cannot: the folder is closed to them.
            os.chmod(self.path, 0o666)
            self._socket.listen(2)
        except BaseException:
            self.close()
            raise

    def accept(self, attached: Any, seconds: float, hears: bool = False) -> Direct:
        """The two connections of the container whose output is `attached`; `hears` as :class:`Direct` takes it.

        Raises TimeoutError, and EOFError when the container ends before it has made them.
        """
        ends: list[socket.socket] = []
        deadline = monotonic() + seconds
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(attached, select.POLLIN)
        try:
            while len(ends) < 2:
                ready = [fd for fd, _ in poll.poll(max(0.0, deadline - monotonic()) * 1000)]
                if self._socket.fileno() in ready:
                    ends.append(self._socket.accept()[0])
                    take_no_descriptors(ends[-1])
                elif not ready:
                    raise TimeoutError
                elif not attached.recv_into(memoryview(bytearray(4096))):
                    raise EOFError  # what it said is in attached.tail
            return Direct(ends[0], ends[1], hears)
        except BaseException:
            for end in ends:
                end.close()
            raise

    def close(self) -> None:
        """Take the file away; nobody can connect any more. Idempotent."""
        self._socket.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return


class Direct:
    """What :class:`safeexec.backend.StreamGuest` needs of a socket: one for frames, and one for orders: steps to be interrupted, for a start.

    `hears`: something in the container answers orders.
    """

    tail = b""

    def __init__(self, frames: socket.socket, control: socket.socket, hears: bool = False) -> None:
        self._control = control
        control.setblocking(False)
        if not hears:
            control.shutdown(socket.SHUT_RD)  # nobody reads it: what a guest sends there must not lie in the kernel
        self.renew(frames)

    def renew(self, frames: socket.socket) -> None:
        """Take another socket for frames; the one before is the caller's to close."""
        self._frames = frames
        self.fileno = frames.fileno
        # Without a flag for ancillary data: descriptors that a guest sends along are closed by the kernel.
        self.recv_into = frames.recv_into
        self.sendall = frames.sendall
        self.settimeout = frames.settimeout
        self.setblocking = frames.setblocking

    def interrupt(self, number: int) -> None:
        """Name a step. Does not wait: a guest that does not read is killed anyway."""
        try:
            self.order(orders.INTERRUPT, number)
        except OSError:
            return  # gone, which the exchange says

    def order(self, kind: int, number: int, along: socket.socket | None = None) -> None:
        """Send one of :mod:`orders`, without waiting. Raises OSError."""
        data = number.to_bytes(7, "little") + bytes([kind])
        if along is None:
            sent = self._control.send(data)
        else:
            sent = socket.send_fds(self._control, [data], [along.fileno()])
        if sent != len(data):
            raise BlockingIOError("the container does not read its orders")

    def hear(self, deadline: float) -> tuple[int, int, int] | None:
        """The next thing that is said in answer; None when nothing is until then. Raises EOFError at the end of the connection."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
            return None
        try:
            said = self._control.recv(orders.SAID.size)
        except OSError as error:
            raise EOFError from error
        if len(said) != orders.SAID.size:
            raise EOFError
        times, what, number = orders.SAID.unpack(said)
        return times, what, number

    def cut(self) -> None:
        """End the connection for frames alone."""
        try:
            self._frames.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other end is gone already

    def shutdown(self, how: int) -> None:
        """As a socket's, for both."""
        for end in (self._frames, self._control):
            try:
                end.shutdown(how)
            except OSError:
                continue  # the other end is gone already

    def close(self) -> None:
        """Close both. Idempotent."""
        self._frames.close()
        self._control.close()
