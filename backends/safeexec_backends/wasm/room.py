"""Whether this process has room for another instance.

The kernel gives a process a limited number of memory maps (vm.max_map_count, 65,530 unless it was changed: some 13,000 instances), and its engine aborts
the whole process when there are none left to take an instance down with. So nobody gets to that point: whoever needs maps asks here first.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final

from .native import EngineError
from .own_file import OwnFile

INSTANCE: Final = 8
"""Maps that an instance takes at most by itself: five, and what growing and interrupts may part."""
MARGIN: Final = 4096
"""Maps left to everything else in the process: threads, the C library's memory, other libraries."""
_USUAL: Final = 65_530  # DEFAULT_MAX_MAP_COUNT, include/linux/mm.h


class Room(OwnFile):
    """Counts what is taken, and looks at the truth only when it may be too much: that takes some 50 ms for 60,000 maps."""

    def __init__(self) -> None:
        super().__init__("maps")
        self._lock = threading.Lock()
        self._limit: int | None = None
        self._taken = self._allowed = 0

    def learn(self) -> None:
        """Read how many maps a process may have, where that can be read; children of a fork know it, too."""
        if self._limit is None and sys.platform == "linux":
            try:
                with open("/proc/sys/vm/max_map_count", "rb") as file:
                    self._limit = int(file.read())
            except (OSError, ValueError):
                self._limit = _USUAL
            # The first look comes when half of all are taken: what a process has besides is a few hundred, or thousands with large libraries.
            self._allowed = self._limit // 2

    def take(self, maps: int) -> None:
        """Say that up to so many maps will be made. Raises EngineError where there is no room for them."""
        if self._limit is None:
            return
        with self._lock:
            self._taken += maps
            if self._taken <= self._allowed:
                return
            there = self._count()
            if there is None:
                return
            # Those that were given back since are not in the way any more.
            self._taken, self._allowed = maps, self._limit - MARGIN - there
            if self._taken > self._allowed:
                raise EngineError(
                    f"this process has {there:,} of the {self._limit:,} memory maps that it may have (sysctl vm.max_map_count), "
                    "and each session takes 5 or more: close some, or spread them over more workers or processes"
                )

    def _count(self) -> int | None:
        """The maps of this process; None where it cannot look."""
        if not self.ready():
            return None
        try:
            os.lseek(self.descriptor, 0, os.SEEK_SET)
            lines = 0
            while data := os.read(self.descriptor, 1 << 20):
                lines += data.count(b"\n")
            return lines
        except OSError:
            return None


room: Final = Room()


def why_none(error: BaseException) -> str:
    """What an EngineError says of room, and what may be behind it."""
    said = str(error).partition("\n")[0]
    if sys.platform == "linux":
        import resource

        addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
        if addresses != resource.RLIM_INFINITY:
            said += (
                f"; each reserves 4.4 GB of addresses, and this process may have {addresses / 1e9:.1f} GB (ulimit -v)"
            )
    return said
