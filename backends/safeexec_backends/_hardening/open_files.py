"""What a process shares with its copies although it should not: the places in its open files, and its event loop's epoll.

Shipped into containers as text: CPython 3.9 and later.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from collections.abc import Iterable
from typing import Any, NamedTuple

_FIRST = 4
"""Lower ones lead to the host and nowhere."""
_LAST = 256
_UNNAMED = 8 * 2**20
"""Bytes that files without a name may have in all."""


class _Open(NamedTuple):
    fd: int
    inode: int
    """In the lower 64 bits; above them its file system."""
    place: int
    flags: int
    contents: bytes | None
    """Of a file that has no name any more: nobody else could bring it back."""


class NotKept(Exception):
    """A file is open that could not be brought back."""


_all = select.poll()
for _fd in range(_FIRST, _LAST):
    _all.register(_fd, 0)


def _descriptors() -> list[int]:
    # Which descriptors are open: one call for all of them.
    closed = {fd for fd, event in _all.poll(0) if event & select.POLLNVAL}
    return [fd for fd in range(_FIRST, _LAST) if fd not in closed]


class OpenFiles:
    """The regular files that this process has open, as they are now."""

    def __init__(self, descriptors: Iterable[int] | None = None) -> None:
        """`descriptors` are those that are open, where the caller knows them. Raises NotKept, OSError."""
        self._files: list[_Open] = []
        try:
            self._folder = os.getcwd()
        except FileNotFoundError:
            self._folder = ""  # it was removed under its feet, and stays so
        left = _UNNAMED
        for fd in _descriptors() if descriptors is None else descriptors:
            try:
                info = os.fstat(fd)
            except OSError:  # it is the one by which the list was made
                continue
            if not stat.S_ISREG(info.st_mode):
                continue
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            if flags & os.O_PATH:
                continue
            contents = None
            if not info.st_nlink:
                left -= info.st_size
                if left < 0 or flags & os.O_ACCMODE == os.O_WRONLY:
                    raise NotKept
                contents = os.pread(fd, info.st_size, 0)
                if len(contents) != info.st_size:
                    raise NotKept
            self._files.append(
                _Open(fd, info.st_dev << 64 | info.st_ino, os.lseek(fd, 0, os.SEEK_CUR), flags, contents)
            )

    def restore(self, replaced: dict[int, str]) -> None:
        """Be where they were again; `replaced` are files whose path leads to another one now. Raises OSError."""
        if self._folder:
            os.chdir(self._folder)
        for file in self._files:
            if file.inode in replaced and file.contents is None:
                # From now on a description of its own.
                fd = os.open(
                    replaced[file.inode], file.flags & (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK) | os.O_CLOEXEC
                )
                os.dup2(fd, file.fd, inheritable=False)
                os.close(fd)
            if file.contents is not None and file.flags & os.O_ACCMODE == os.O_RDWR:
                os.ftruncate(file.fd, 0)  # where it is open for appending, every write goes to its end
                os.pwrite(file.fd, file.contents, 0)
            elif file.contents is not None and os.pread(file.fd, len(file.contents) + 1, 0) != file.contents:
                # A branch of the session changed it, for which it has a name or another descriptor.
                _replace(file.fd, file.contents)
            fcntl.fcntl(file.fd, fcntl.F_SETFL, file.flags)
            os.lseek(file.fd, file.place, os.SEEK_SET)


def _replace(fd: int, contents: bytes) -> None:
    """Have `fd`, which can only be read, lead to a file without a name that has these contents."""
    import tempfile  # a start of a container need not wait for what it brings along

    writer, path = tempfile.mkstemp()
    with open(writer, "wb") as file:
        reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.unlink(path)
        file.write(contents)
    os.dup2(reader, fd, inheritable=False)
    os.close(reader)


def renew_loop(loop: Any) -> None:
    """Give an event loop an epoll of its own with what it had registered: the kernel's object was changed by whoever came after."""
    selector = getattr(loop, "_selector", None)
    if loop is None or loop.is_closed() or selector is None or not hasattr(selector, "_selector"):
        return
    old = selector._selector
    if not isinstance(old, select.epoll):
        return
    with select.epoll() as fresh:
        for key in selector.get_map().values():
            events = (select.EPOLLIN if key.events & 1 else 0) | (select.EPOLLOUT if key.events & 2 else 0)
            fresh.register(key.fd, events)
        os.dup2(fresh.fileno(), old.fileno(), inheritable=False)
