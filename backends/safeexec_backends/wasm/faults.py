"""How many page faults a thread has had: the proof that nothing new was written to.

A page of an instance that was never written to is the image file's, mapped privately. The first write to it is a page fault of the thread that writes,
also when the kernel writes on its behalf, and the kernel counts it there (mm_account_fault in mm/memory.c; getrusage(2), RUSAGE_THREAD). So a thread whose count did
not move has made no page its own, and the pages found by the last look are all there are.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable

if sys.platform == "linux":
    from resource import RUSAGE_THREAD, getrusage

    def _count() -> int:
        used = getrusage(RUSAGE_THREAD)
        return used.ru_minflt + used.ru_majflt
else:

    def _count() -> int:
        return 0


class Faults:
    """The counter, where it can be believed."""

    def __init__(self, count: Callable[[], int] = _count) -> None:
        self._count = count
        self._counts: bool | None = None
        self._turn = 0

    def count(self) -> int:
        """Faults of the calling thread so far; a number never seen before where the system does not count them."""
        if self._counts is None:
            self._counts = self._believable()
        if self._counts:
            return self._count()
        self._turn += 1
        return self._turn

    def _believable(self) -> bool:
        # Other kernels answer the call and count nothing (gVisor): there every step has to be taken for one that wrote.
        with mmap.mmap(-1, mmap.PAGESIZE) as memory:
            before = self._count()
            memory[0] = 1
            return self._count() > before


faults = Faults()
