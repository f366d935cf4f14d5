"""What a program uses, and may use, of its machine: the clock of the one thread, and the memory."""

from __future__ import annotations

import collections
import os
import time

import _safeexec_device  # type: ignore[import-not-found]

error = OSError
RLIM_INFINITY = -1
RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_THREAD = 0, -1, 1
(
    RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE, RLIMIT_RSS, RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_AS,
) = range(10)  # fmt: skip
_PAGE = 65536


struct_rusage = collections.namedtuple(
    "struct_rusage",
    "ru_utime ru_stime ru_maxrss ru_ixrss ru_idrss ru_isrss ru_minflt ru_majflt ru_nswap ru_inblock ru_oublock ru_msgsnd ru_msgrcv"
    " ru_nsignals ru_nvcsw ru_nivcsw",
)


def getrusage(who: int, /) -> struct_rusage:
    """Processor time in seconds, and the most memory so far in KiB; nothing else is counted. Raises ValueError."""
    if who not in (RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_THREAD):
        raise ValueError("invalid who parameter")
    if who == RUSAGE_CHILDREN:
        return struct_rusage(0.0, 0.0, *[0] * 14)
    return struct_rusage(time.process_time(), 0.0, _safeexec_device.memory() * _PAGE // 1024, *[0] * 13)


def getpagesize() -> int:
    """Bytes of a page."""
    return _PAGE


def getrlimit(resource: int, /) -> tuple[int, int]:
    """The soft and the hard limit, which are one. Raises ValueError."""
    limits = {RLIMIT_AS: os.sysconf("SC_PHYS_PAGES") * _PAGE, RLIMIT_NOFILE: 256, RLIMIT_NPROC: 1, RLIMIT_CORE: 0}
    limits |= dict.fromkeys((RLIMIT_DATA, RLIMIT_RSS), limits[RLIMIT_AS])
    if resource not in range(10):
        raise ValueError("invalid resource specified")
    limit = limits.get(resource, RLIM_INFINITY)
    return limit, limit


def setrlimit(resource: int, limits: tuple[int, int], /) -> None:
    """Limits are set from outside: whatever differs from what they are is refused. Raises ValueError, OSError."""
    soft, hard = limits
    if (soft, hard) != getrlimit(resource):
        raise PermissionError(63, os.strerror(63))  # EPERM
