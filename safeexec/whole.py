"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat

_NAME = 50
"""Characters of the name that the file has while it is written: each may be four bytes, and 255 are all there may be."""


def write(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    mode: int = 0o644,
    sync: bool = False,
    at: int | None = None,
    keep: os.stat_result | None = None,
) -> None:
    """Write `data` to `path`, below the directory descriptor `at` if given. What exists is replaced; a symbolic link is replaced, not followed.

    `sync`: it is on the disk when this returns. `keep`: whose permissions it gets, and whose owner where that is ours to give. Raises OSError.
    """
    folder, name = os.path.split(os.fspath(path))
    # Not by the process's id: one that was killed amid this leaves the file, and its successor in a container, which has the same id, could never write again. Nor
    # can two threads write the same file then.
    partial = os.path.join(folder, f".{name[:_NAME]}.{os.urandom(8).hex()}.part")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode, dir_fd=at)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                if keep is not None:
                    _same(file.fileno(), keep)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(partial, path, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            os.unlink(partial, dir_fd=at)
            raise
    except OSError as error:
        _of(error, path)
        raise


def _of(error: OSError, path: str | os.PathLike[str]) -> None:
    # A write does not say which file it was, and nobody knows the one that stood in its place.
    error.filename = os.fspath(path)
    if error.filename2 is not None:
        del error.filename2


def _same(fd: int, as_of: os.stat_result) -> None:
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != (as_of.st_uid, as_of.st_gid):
        os.fchown(fd, as_of.st_uid, as_of.st_gid)  # refused to all but root: then the file is written in place
    os.fchmod(fd, stat.S_IMODE(as_of.st_mode))


_NOT_BESIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)
"""How a file that may be written answers where none can be put in its place: its folder is somebody else's, or the file is a mount of its own."""


def save(path: str | os.PathLike[str], data: bytes, *, private: bool = False) -> None:
    """Write `data` to a file whose name a person gave: whole or not at all, as :func:`write` does.

    A device or a pipe is written to, and not replaced. A file keeps its permissions, and a symbolic link leads to it; `private`: only its owner may read it,
    a link is replaced, and it is on the disk when this returns. Raises OSError.
    """
    name = os.fspath(path)
    try:
        there = os.stat(name)
    except FileNotFoundError:
        there = None
    # /dev/stdout may well be a file: one that others write to, through a descriptor that a new one in its place would not have.
    if there is not None and (
        not stat.S_ISREG(there.st_mode) or os.path.abspath(name).startswith(("/dev/fd/", "/dev/std", "/proc/"))
    ):
        _over(name, data)
        return
    if private:
        write(name, data, mode=0o600, sync=True)
        return
    place = os.path.realpath(name)
    try:
        write(place, data, mode=0o666 if there is None else 0o600, keep=there)
    except OSError as error:
        if there is None or error.errno not in _NOT_BESIDE or not os.access(place, os.W_OK):
            raise
        _over(place, data)


def _over(name: str, data: bytes) -> None:
    try:
        with open(name, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:  # a pipe takes what it has room for
                rest = rest[file.write(rest) or 0 :]
    except OSError as error:
        _of(error, name)
        raise
