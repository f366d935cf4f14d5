"""Files by their numbers: the descriptors that a program opened itself, and no others.

A process has descriptors that are not its program's: the channel to the host, the database that SQLite reads. So a number counts only while the file
behind it is the one that was opened under it here; what closed it elsewhere, and what got the number then, is nothing that this knows.
"""

from __future__ import annotations

import builtins
import errno
import operator
import os
import stat
from io import DEFAULT_BUFFER_SIZE
from typing import Any

from .buffers import ours
from .paths import Checked

_FLAGS = ("RDONLY WRONLY RDWR CREAT EXCL TRUNC APPEND CLOEXEC NOFOLLOW NONBLOCK SYNC DSYNC NOCTTY LARGEFILE NOATIME DIRECTORY").split()  # fmt: skip
FLAGS: dict[str, int] = {f"O_{n}": getattr(os, f"O_{n}") for n in _FLAGS if hasattr(os, f"O_{n}")}
"""What a file may be opened with. O_PATH and O_TMPFILE are other things than files with names."""
_KNOWN = 0
for _flag in FLAGS.values():
    _KNOWN |= _flag

_opened: dict[int, tuple[int, int]] = {}
"""Descriptor to device and inode of what was opened under it."""


def keep(number: int) -> int:
    """A descriptor that was just opened for the program."""
    found = os.fstat(number)
    _opened[number] = found.st_dev, found.st_ino
    return number


def given(fd: Any) -> int:
    """The descriptor, if the program opened it here and has not closed it since.

    :raises OSError: (EBADF) for any other.
    """
    number = int(operator.index(fd))
    known = _opened.get(number)
    if known is not None:
        try:
            found = os.fstat(number)
        except OSError:
            found = None
        if found is not None and (found.st_dev, found.st_ino) == known:
            return number
        _opened.pop(number, None)
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: Any = None) -> int:
    """As `os.open`, in the places that the builtin opens."""
    if dir_fd is not None:
        raise TypeError("directory descriptors are not available in this sandbox")
    flags = int(operator.index(flags))
    if flags & ~_KNOWN:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    with Checked(path) as real:
        return keep(os.open(real, flags, int(operator.index(mode))))


def close(fd: Any) -> None:
    """As `os.close`."""
    number = given(fd)
    del _opened[number]
    os.close(number)


def read(fd: Any, length: int, /) -> bytes:
    """As `os.read`."""
    return os.read(given(fd), length)


def write(fd: Any, data: Any, /) -> int:
    """As `os.write`."""
    return os.write(given(fd), data)


def lseek(fd: Any, position: int, whence: int, /) -> int:
    """As `os.lseek`."""
    return os.lseek(given(fd), position, whence)


def ftruncate(fd: Any, length: int) -> None:
    """As `os.ftruncate`."""
    os.ftruncate(given(fd), length)


def dup(fd: Any, /) -> int:
    """As `os.dup`."""
    return keep(os.dup(given(fd)))


def pipe() -> tuple[int, int]:
    """As `os.pipe`."""
    reader, writer = os.pipe()
    return keep(reader), keep(writer)


def fstat(fd: Any) -> os.stat_result:
    """As `os.fstat`, of regular files whoever opened them: ``os.fstat(file.fileno())``."""
    number = int(operator.index(fd))
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        given(number)
    return found


def open_number(
    fd: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
    closefd: bool = True,
) -> Any:  # fmt: skip
    """``open`` of a number. Unless `closefd` is false the descriptor is the file's from then on.

    :raises OSError: (EBADF) for one that the program did not open.
    """
    number = given(fd)
    if stat.S_ISDIR(os.fstat(number).st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), number)
    found = builtins.open(number, mode, buffering, encoding, errors, newline, bool(closefd))
    if closefd:
        _opened.pop(number, None)
    return ours(found, newline, buffering if buffering > 1 else DEFAULT_BUFFER_SIZE)
