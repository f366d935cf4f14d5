"""Files that are there whole or not at all."""

from __future__ import annotations

import os

_NAME = 50
"""Characters of the name that the file has while it is written: each may be four bytes, and 255 are all there may be."""


def write(
    path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644, sync: bool = False, at: int | None = None
) -> None:
    """Write `data` to `path`, below the directory descriptor `at` if given. What exists is replaced; a symbolic link is replaced, not followed.

    `sync`: it is on the disk when this returns. Raises OSError.
    """
    folder, name = os.path.split(os.fspath(path))
    # Not by the process's id: one that was killed amid this leaves the file, and its successor in a container, which has the same id, could never write again. Nor
    # can two threads write the same file then.
    partial = os.path.join(folder, f".{name[:_NAME]}.{os.urandom(8).hex()}.part")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode, dir_fd=at)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        os.unlink(partial, dir_fd=at)
        raise
