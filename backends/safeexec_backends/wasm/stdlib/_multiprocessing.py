"""There is one process: whatever is shared between several can be asked for and not be made."""

from __future__ import annotations

import errno
from typing import NoReturn

_ALONE = "this sandbox is one process with one thread; call the function itself, or use asyncio"
flags: dict[str, int] = {}


class SemLock:
    """A semaphore between processes. Raises OSError."""

    SEM_VALUE_MAX = 0x7FFFFFFF

    def __init__(self, *args: object, **options: object) -> None:
        raise OSError(errno.ENOTSUP, _ALONE)


def sem_unlink(name: str) -> NoReturn:
    """Raises FileNotFoundError: none was made."""
    raise FileNotFoundError(errno.ENOENT, "No such file or directory")
