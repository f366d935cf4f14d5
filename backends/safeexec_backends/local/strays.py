"""Processes of a cell that should not be: counted by the kernel, since whoever is one says nothing. Runs in the process that watches over the cell."""

from __future__ import annotations

import os
import resource

from safeexec_backends._hardening import copies, seccomp
from safeexec_backends.local.keeping import CHILDREN
from safeexec_backends.local.states import end

_IDS = 2**18
"""More ids than there are on a machine whose ids begin anew within seconds, which a process that starts and ends threads can bring about."""


def any_beyond(known: int, tid: int) -> bool:
    """Whether there are more than `known` processes and threads in the cell, this process included, or it cannot be told."""
    soft, most = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (known + 1, most))
    try:
        os.waitpid(_passing(tid), 0)
        return False
    except OSError:  # most likely EAGAIN: the limit has no room for one more
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, most))
    try:
        os.waitpid(_passing(tid), 0)
    except OSError:
        # Nor has the machine, or the group that the host is in: no fault of this session's. Threads are not told then, but copies are what matters.
        return _children() != known - 1
    return True


def _children() -> int:
    """How many processes this one is the parent of; -1 where the kernel does not say, or says first this, then that, since one has ended meanwhile."""
    try:
        counts = {len(os.pread(CHILDREN, 1 << 16, 0).split()) for _ in range(2)}
    except OSError:
        return -1
    return counts.pop() if len(counts) == 1 else -1


def end_beyond(known: set[int], tid: int) -> None:
    """End every child of this process that is none of `known`. Raises OSError."""
    last = _passing(tid)
    os.waitpid(last, 0)
    for pid in range(2, max(last, _IDS)):  # ids are given in order
        if pid not in known:
            end(pid)


def _passing(tid: int) -> int:
    """A copy of this process that ends at once."""
    pid = copies.copy(seccomp.FORK, tid)
    if pid == 0:
        os._exit(0)
    return pid
