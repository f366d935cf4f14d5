"""Memory for what is large in a process that is copied again and again: a block of its own, in huge pages where there are any."""

from __future__ import annotations

import ctypes
from typing import Any

from safeexec import wire
from safeexec_backends._hardening import libc

THRESHOLD = 2**25
"""From how many bytes on every block is a mapping of its own, as ``local/launch.py`` sets it: the highest value there is."""

_LARGE = 4 * 2**20
_MMAP_THRESHOLD, _HUGE = ctypes.c_int(-3), ctypes.c_int(14)  # malloc.h: M_MMAP_THRESHOLD; MADV_HUGEPAGE
_ANY, _USUAL = ctypes.c_int(2**20), ctypes.c_int(THRESHOLD)
_PAGE = 4096

_set = libc.function("mallopt")
_trim = libc.function("malloc_trim")
_advise = libc.function("madvise")


def room(size: int) -> Any:
    """`size` bytes to be written, as ``wire.room``.

    What lies in the heap is used again, and shared with the last copy of the process: ten megabytes over it are 2,500 pages that are copied, 6 to 10
    ms. In new memory they are as many faults, 5 ms, and five if the pages are huge. In a process that nobody copies the heap is best.
    """
    if size < _LARGE or None in (_set, _trim, _advise):  # another C library than GNU's has not all of them
        return wire.room(size)
    _trim(ctypes.c_size_t(0))  # or the block would be taken from what is free at the heap's end
    _set(_MMAP_THRESHOLD, _ANY)
    try:
        made = wire.room(size)
    finally:
        _set(_MMAP_THRESHOLD, _USUAL)
    with made.getbuffer() as view:
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    within = -address % _PAGE
    _advise(ctypes.c_void_p(address + within), ctypes.c_size_t((size - within) // _PAGE * _PAGE), _HUGE)
    return made
