"""Open files: only those meant for the process survive."""

from __future__ import annotations

import os
from collections.abc import Sequence

from safeexec_backends._hardening import libc


def keep(fds: Sequence[int], first: int = 3) -> None:
    """Move `fds` to `first`, `first` + 1, …, put /dev/null on 0, 1 and 2, and close every other descriptor. Raises OSError."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # Copied above all targets first, so that no dup2() overwrites a descriptor still to be moved.
    floor = max([null, *fds, first + len(fds)]) + 1
    copies = []
    for place, fd in enumerate(fds):
        os.dup2(fd, floor + place, inheritable=False)
        copies.append(floor + place)
    for target in (0, 1, 2):
        os.dup2(null, target, inheritable=False)
    for place, copy in enumerate(copies):
        os.dup2(copy, first + place, inheritable=False)
    close_from(first + len(fds))


def close_from(first: int) -> None:
    """Close every descriptor from `first` on. Raises OSError."""
    if libc.LINUX:
        try:
            libc.syscall("close_range", first, 0xFFFFFFFF, 0)
            return
        except OSError as error:
            if error.errno != 38:  # ENOSYS: before Linux 5.9
                raise
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
