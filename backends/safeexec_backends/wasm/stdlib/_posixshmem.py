"""There is one process, and so no memory that several share."""

from __future__ import annotations

import errno
from typing import NoReturn


def shm_open(path: str, flags: int, mode: int = 0o777) -> NoReturn:
    """Raises OSError."""
    raise OSError(errno.ENOTSUP, "this sandbox is one process with one thread; use a bytearray or an array")


def shm_unlink(path: str) -> NoReturn:
    """Raises FileNotFoundError: none was made."""
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
