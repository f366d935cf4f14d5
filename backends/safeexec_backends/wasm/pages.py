"""The pages of linear memory that differ from the image, and the two ways to keep them: a copy, or a file that many memories map.

A fresh instance maps the image's data privately, so a page that was written to is anonymous memory of this process, and a page that was not is
still a page of a file. /proc/self/pagemap tells the two apart (bit 61 of each entry, Linux 3.5 and later, needs no privilege), so a step pays
nothing for being watched. Where there is no pagemap the memory is compared with an instance that never ran.

Mapping a file over an instance's memory is sound because the engine gives every memory its addresses for good (`memory_may_move` off), grows it
by changing protections only, and unmaps the whole reservation when the store goes, whatever is mapped there by then. It would not be with
wasmtime's pooling allocator, which hands a slot to the next instance: what is mapped there would be shown to it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

from .own_file import OwnFile
from .room import room

if sys.platform == "linux":
    import fcntl

PAGE: Final = mmap.PAGESIZE
Run = tuple[int, int]
"""A range of addresses in linear memory: first byte, end. Multiples of PAGE."""

# pagemap's highest byte of each entry: bit 7 present, bit 6 swapped, bit 5 page of a file or shared memory (kernel: admin-guide/mm/pagemap).
_PRIVATE: Final = bytes(1 if (top & 0xC0) and not top & 0x20 else 0 for top in range(256))
# include/uapi/linux/fs.h
_PAGEMAP_SCAN, _IS_FILE, _IS_PRESENT, _IS_SWAPPED = 0xC0606610, 4, 8, 16
_MAX_FOUND: Final = 1024
_PROT_RW, _MAP_PRIVATE, _MAP_FIXED = 3, 2, 16
_NO_HUGE_PAGES: Final = 15  # MADV_NOHUGEPAGE
_MAX_PIECES: Final = 48
_FEW_PIECES: Final = 4
_POPULAR: Final = 16
_BLOCK: Final = 1 << 16  # memories are multiples of it
_GAP: Final = 2 * PAGE  # copied faster than skipped
_MAX_SHADOW: Final = 4 << 20
_MAX_SHADOWS: Final = 8
_SAMPLES: Final = 32


class Finder(OwnFile):
    """Finds the written pages of memories of this process, by its pagemap."""

    def __init__(self) -> None:
        super().__init__("pagemap")
        self._scans = True

    def written(self, base: int, size: int) -> list[Run]:
        """The runs of the memory at address `base` that were written to. Raises OSError."""
        if self._scans:
            try:
                return self._scanned(base, size)
            except OSError:
                self._scans = False  # an older kernel, or a seccomp filter that knows nothing of it
        length = size // PAGE * 8
        entries = os.pread(self.descriptor, length, base // PAGE * 8)
        if len(entries) != length:
            raise OSError("the pagemap ends before the memory")
        flags = entries[7::8].translate(_PRIVATE)
        runs: list[Run] = []
        start = flags.find(1)
        while start >= 0:
            end = flags.find(0, start)
            if end < 0:
                end = len(flags)
            runs.append((start * PAGE, end * PAGE))
            start = flags.find(1, end)
        return runs

    def _scanned(self, base: int, size: int) -> list[Run]:
        """The same from PAGEMAP_SCAN (Linux 6.7), which looks at whole page tables and answers in runs."""
        found = (ctypes.c_uint64 * (3 * _MAX_FOUND))()  # struct page_region: start, end, categories
        # struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages, then the masks of categories
        request = bytearray(
            struct.pack(
                "<12Q", 96, 0, base, base + size, 0, ctypes.addressof(found), _MAX_FOUND, 0,
                _IS_FILE, _IS_FILE, _IS_PRESENT | _IS_SWAPPED, 0,
            )
        )  # fmt: skip
        count = fcntl.ioctl(self.descriptor, _PAGEMAP_SCAN, request)
        if count >= _MAX_FOUND or struct.unpack_from("<Q", request, 32)[0] != base + size:
            raise OSError("more runs than were asked for")
        values = found[: 3 * count]
        return [(start - base, end - base) for start, end in zip(values[::3], values[1::3], strict=True)]


finder: Final = Finder()


def keep_small(base: int, size: int) -> None:
    """Have the kernel make no huge pages of the memory of `size` bytes at address `base`. Raises OSError.

    Where it makes them by itself (`transparent_hugepage/enabled` is `always`) it gathers scattered pages into one some seconds later, and pages that were
    never touched are there then: a guest writes to them without a fault of its own, so nothing would know that they were written to (faults.py). Besides,
    a byte would make two megabytes of pages that are kept with every checkpoint.
    """
    if sys.platform == "linux" and _madvise(base, size, _NO_HUGE_PAGES):
        number = ctypes.get_errno()
        if number != errno.EINVAL:  # which says that this kernel makes none
            raise OSError(number, os.strerror(number))


class Written:
    """The written pages of one instance's memory, looked for only when there may be more than were found last."""

    def __init__(self) -> None:
        self.faults = 0
        """Page faults of the threads that wrote to the memory, since the last look. Whoever writes adds theirs; interrupts, which come from any
        thread, write to the first page only, which is always taken for written."""
        self._runs: list[Run] | None = None
        self._size = 0

    @property
    def looked(self) -> bool:
        """Whether the next look may find that nothing was written: else nobody needs to count, and counting takes as long as other things of a step."""
        return self._runs is not None

    def forget(self) -> None:
        """Its pages were replaced."""
        self._runs = None

    def find(self, base: int, size: int) -> list[Run]:
        """The runs of the memory, of `size` bytes at address `base`, that may have been written to. Raises OSError."""
        # A page once written to stays that way as long as the instance lives: without a fault nothing was added.
        if self._runs is None or self.faults or size != self._size:
            self._runs = None
            self.faults, self._size = 0, size
            self._runs = united(finder.written(base, size), ((0, PAGE),), _GAP)
        return self._runs


def compared(memory: memoryview, pristine: memoryview) -> list[Run]:
    """The runs of `memory` that differ from a memory that was never written to, found by looking: a few milliseconds."""
    runs: list[Run] = []
    zeros = bytes(_BLOCK)
    for start in range(0, len(memory), _BLOCK):
        expected = bytes(pristine[start : start + _BLOCK]) or zeros
        if bytes(memory[start : start + _BLOCK]) != expected:
            runs.append((start, start + _BLOCK))
    return united(runs, ())


def joined(runs: Sequence[Run], pieces: int) -> list[Run]:
    """The same ranges in at most `pieces` runs, the smallest gaps filled."""
    if len(runs) <= pieces:
        return list(runs)
    gaps = sorted(range(1, len(runs)), key=lambda n: runs[n][0] - runs[n - 1][1])
    keep = set(gaps[len(runs) - pieces :])
    result = [runs[0]]
    for number in range(1, len(runs)):
        if number in keep:
            result.append(runs[number])
        else:
            result[-1] = (result[-1][0], runs[number][1])
    return result


def united(first: Sequence[Run], second: Sequence[Run], gap: int = 0) -> list[Run]:
    """The ranges that are in either, with what lies between two of them where that is no more than `gap` bytes."""
    result: list[Run] = []
    for start, end in sorted((*first, *second)):
        if result and start <= result[-1][1] + gap:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def total(runs: Sequence[Run]) -> int:
    """Bytes in some runs."""
    return sum(end - start for start, end in runs)


class Shadow:
    """A copy of some pages of one memory, one behind the other. Used for one session after another: its own pages are then already there."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._view = memoryview(b"")
        self._runs: Sequence[Run] = ()
        self._size = 0

    def keep(self, memory: memoryview, runs: Sequence[Run]) -> None:
        """Copy runs of `memory` here, in place of what was kept. Raises OSError."""
        if runs is not self._runs:  # the same list as last time is the rule
            self._runs, self._size = runs, total(runs)
        size = self._size
        if size > len(self._view):
            self.close()
            # Room for a session that grows a little with every step.
            self._map = mmap.mmap(-1, _rounded(size + size // 4), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._view = memoryview(self._map)
        view, place = self._view, 0
        for start, end in runs:
            following = place + end - start
            view[place:following] = memory[start:end]
            place = following

    def alike(self, memory: memoryview) -> float:
        """How much of `memory` is as it was kept, from 0 to 1: of some pages, evenly spread."""
        step = max(self._size // _SAMPLES // PAGE, 1) * PAGE
        looked = same = place = 0
        wanted = 0
        for start, end in self._runs:
            while wanted < place + end - start:
                address = start + wanted - place
                looked += 1
                same += bytes(self._view[wanted : wanted + PAGE]) == bytes(memory[address : address + PAGE])
                wanted += step
            place += end - start
        return same / looked if looked else 0.0

    def put(self, memory: memoryview, runs: Sequence[Run]) -> None:
        """Copy the same runs back."""
        view, place = self._view, 0
        for start, end in runs:
            following = place + end - start
            memory[start:end] = view[place:following]
            place = following

    def size(self) -> int:
        """Bytes it takes."""
        return len(self._view)

    def close(self) -> None:
        """Free it."""
        self._view.release()
        self._view = memoryview(b"")
        if self._map is not None:
            self._map.close()
            self._map = None


def _rounded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


class Shadows:
    """Shadows that wait for their next session."""

    def __init__(self) -> None:
        self._waiting: list[Shadow] = []

    def take(self) -> Shadow:
        """One that was used before, if there is one."""
        try:
            return self._waiting.pop()
        except IndexError:
            return Shadow()

    def give(self, shadow: Shadow) -> None:
        """Have it back."""
        if shadow.size() > _MAX_SHADOW or len(self._waiting) >= _MAX_SHADOWS:
            shadow.close()
        else:
            self._waiting.append(shadow)


shadows: Final = Shadows()


class Frozen:
    """Pages in a file in memory, mapped privately by every branch of one state: they share what none of them has written to."""

    def __init__(self, memory: memoryview, runs: Sequence[Run], pieces: int = _MAX_PIECES) -> None:
        """Keep `runs` of `memory`. Raises OSError where files in memory, or descriptors, are not to be had."""
        self.runs = joined(runs, pieces)
        self.uses = 0
        self._fd = -1
        self._fd = os.memfd_create("safeexec-branch", os.MFD_CLOEXEC)
        _write(self._fd, [memory[start:end] for start, end in self.runs])

    def popular(self) -> bool:
        """Whether it has so many users that it should be made of fewer pieces: the kernel allows a process 65,530 mappings."""
        return self.uses >= _POPULAR and len(self.runs) > _FEW_PIECES

    def compact(self, memory: memoryview) -> Frozen:
        """The same with few pieces, copied from a memory that is in the same state."""
        return Frozen(memory, self.runs, _FEW_PIECES)

    def map_over(self, base: int, size: int) -> None:
        """Map the pages over the memory of `size` bytes at address `base`. Raises OSError, EngineError."""
        place = 0
        room.take(2 * len(self.runs))
        for start, end in self.runs:
            if not 0 <= start < end <= size:  # never over anything but this memory
                raise ValueError("pages beyond the memory")
            _map_fixed(base + start, end - start, self._fd, place)
            place += end - start
        self.uses += 1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _write(fd: int, parts: list[memoryview]) -> None:
    left = parts
    while left:
        count = os.writev(fd, left[:512])
        rest = []
        for part in left[:512]:
            if count >= len(part):
                count -= len(part)
            else:
                rest.append(part[count:])
                count = 0
        left = rest + left[512:]


def _map_fixed(address: int, length: int, fd: int, offset: int) -> None:
    function = _mmap_function()
    got = function(address, length, _PROT_RW, _MAP_PRIVATE | _MAP_FIXED, fd, offset)
    if got != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mmap_function() -> Any:
    global _mmap
    if _mmap is None:
        _mmap = ctypes.CDLL(None, use_errno=True).mmap
        _mmap.restype = ctypes.c_size_t
        _mmap.argtypes = (
            ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
        )  # fmt: skip
    return _mmap


_mmap: Any = None
_madvise = ctypes.PyDLL(
    None, use_errno=True
).madvise  # as the other calls that make an instance: too short to let go of the interpreter
_madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
