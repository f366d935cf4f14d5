"""Links within the working directory and /tmp.

A link that a program makes has an absolute target without ``..`` that lies in one of these two folders, whatever the program wrote. So no link ever
leads out of them: not after it or a folder above it was moved, where a relative target would mean another place, and not in the moment between a
path's check and its use, which is where a thread could exchange one. What the program wrote is kept for `os.readlink`.
"""

from __future__ import annotations

import os
from typing import Any

from .paths import Checked, PathRefused, check, lies_inside, text_path

_written: dict[tuple[int, int] | str, tuple[str, str]] = {}
"""Device and inode of a link, and its place, to its target and what the program wrote for that. A link that was moved keeps the one, one that was put back
with a session's files the other."""


def symlink(src: Any, dst: Any, target_is_directory: bool = False, *, dir_fd: Any = None) -> None:
    """As `os.symlink`. Raises PathRefused for a target outside of the working directory and the temporary directory."""
    _no_descriptors(dir_fd)
    written = text_path(src)
    with Checked(dst, False) as place:
        target = os.path.normpath(os.path.join(os.path.dirname(place), written)) if written else written
        if written:
            check(target)  # where it leads now; the next line is what holds later
            if not lies_inside(target):
                raise PathRefused(f"a link leads to the working directory or /tmp in this sandbox: {written!r}")
        try:
            os.symlink(target, place)
        except OSError as error:
            error.filename, error.filename2 = written, text_path(dst)
            raise
        info = os.lstat(place)
        _written[info.st_dev, info.st_ino] = _written[place] = target, written


def readlink(path: Any, *, dir_fd: Any = None) -> Any:
    """As `os.readlink`."""
    _no_descriptors(dir_fd)
    with Checked(path, False) as place:
        target = os.readlink(place)
        info = os.lstat(place)
        found = target
        for key in (place, (info.st_dev, info.st_ino)):
            known = _written.get(key)
            if known is not None and known[0] == target:
                found = known[1]
        return os.fsencode(found) if isinstance(path, bytes) else found


def link(src: Any, dst: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None, follow_symlinks: bool = True) -> None:
    """As `os.link`."""
    _no_descriptors(src_dir_fd, dst_dir_fd)
    # A link at its end is linked itself, as Linux does it: following would be a second look at the path.
    with Checked(src, False) as source, Checked(dst, False) as place:
        if not (lies_inside(source) and lies_inside(place)):
            raise PathRefused("only files in the working directory and /tmp have other names in this sandbox")
        os.link(source, place, follow_symlinks=False)


def _no_descriptors(*given: Any) -> None:
    if any(fd is not None for fd in given):
        raise TypeError("directory descriptors are not available in this sandbox")
