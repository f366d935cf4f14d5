"""The pages of memory that steps write to, copied while nobody waits.

After a process was copied, each of its pages is copied at its first use: most of what a step then takes. Which pages those are is much the same from
step to step. Shipped as text next to inside.py; CPython 3.9 and later.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safeexec_backends.docker import copies
else:
    try:
        import safeexec_copies as copies
    except ImportError:
        from safeexec_backends.docker import copies

_POPULATE_WRITE = 23
"""Of madvise(2), since Linux 5.14: as if every page were written to, and nothing is."""
PAGE = os.sysconf("SC_PAGE_SIZE")
"""Not 4096 on every aarch64 kernel: 16 KiB and 64 KiB are in use."""
_EXCLUSIVE = 1 << 56 | 1 << 63
"""Of an entry of /proc/self/pagemap: nobody else has this page, which is there. Source: Documentation/admin-guide/mm/pagemap.rst."""
_LARGEST = 64 * 2**20
"""Bytes of a mapping that is looked through."""
_ROW = max(256 * 2**10, PAGE)
_MOST = 4 * 2**20 // PAGE
"""Pages that are copied ahead: each is memory that two processes might have shared."""


class Warmth:
    """Which pages were written to between two copies of this process."""

    def __init__(self) -> None:
        self._pages: list[int] = []
        self._size = b""
        self._ranges: list[tuple[int, int]] = []

    def learn(self) -> None:
        """Look which pages are this process's alone, since it was copied last. Raises OSError."""
        found: list[int] = []
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, end in _mappings():
                if end - start <= _LARGEST:
                    words = memoryview(os.pread(fd, (end - start) // PAGE * 8, start // PAGE * 8)).cast("Q")
                    found += [start + n * PAGE for n, word in enumerate(words) if word & _EXCLUSIVE == _EXCLUSIVE]
        finally:
            os.close(fd)
        # Long rows are the session's data, of which the next step may have no use.
        short = (run for run in _ranges(found, [(0, 1 << 64)]) if run[1] <= _ROW)
        self._pages = [page for start, length in short for page in range(start, start + length, PAGE)][:_MOST]
        self._size = b""

    def touch(self) -> bool:
        """Have those pages copied now; False where the kernel knows no such thing. Raises OSError."""
        size = copies.read("/proc/self/statm").split()[0]
        if size != self._size:  # something else may be mapped there now, such as a file whose stamps this would change
            self._size, self._ranges = size, _ranges(self._pages, _mappings())
        madvise, advice = copies.libc().madvise, ctypes.c_int(_POPULATE_WRITE)
        for start, length in self._ranges:
            if madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice):
                self._pages, self._ranges = [], []  # until it is looked again
                return ctypes.get_errno() != errno.EINVAL
        return True


def _mappings() -> list[tuple[int, int]]:
    """Memory that can be written to and belongs to no other process: first and last address of each piece."""
    found = []
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            place, rights = line.split(None, 2)[:2]
            if rights[:2] == b"rw" and rights[3:] == b"p":
                start, end = place.split(b"-")
                found.append((int(start, 16), int(end, 16)))
    return found


def _ranges(pages: list[int], mappings: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Start and length of what is in both; pages in order."""
    found: list[tuple[int, int]] = []
    rest = iter(mappings)
    start, end = next(rest, (0, 0))
    for page in pages:
        while page >= end:
            after = next(rest, None)
            if after is None:
                return found
            start, end = after
        if page < start:
            continue
        if found and sum(found[-1]) == page:
            found[-1] = (found[-1][0], found[-1][1] + PAGE)
        else:
            found.append((page, PAGE))
    return found
