"""Removing what a hostile program left on a real file system."""

from __future__ import annotations

import os
import stat


def remove_tree(path: str) -> None:
    """Remove a folder whose maker is dead. No depth, mode, name or symbolic link in it can make this fail, recurse or leave it."""
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        prefix = os.urandom(16).hex()  # not to be guessed: a folder prepared under that name would stop a move
        count = 0
        pending = _empty(top, top, prefix)
        while pending:
            name = pending.pop()
            os.chmod(name, 0o700, dir_fd=top)
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            try:
                count += 1
                # What lies below is moved up first, so that no chain of folders is ever walked.
                pending += _empty(folder, top, f"{prefix}-{count}")
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(folder: int, top: int, prefix: str) -> list[str]:
    moved = []
    for number, name in enumerate(os.listdir(folder)):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            if folder == top:
                moved.append(name)
            else:
                new = f"{prefix}-{number}"
                os.chmod(name, 0o700, dir_fd=folder)  # a folder its owner may not write cannot be moved
                os.rename(name, new, src_dir_fd=folder, dst_dir_fd=top)
                moved.append(new)
        else:
            os.unlink(name, dir_fd=folder)
    return moved
