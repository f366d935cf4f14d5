"""What a zygote does when nobody wants anything, so that its cells copy fewer of the pages that they share with it.

A page that either of them writes to is copied, for 2 to 3 µs and 4 KiB of memory. Most of those writes change nothing of use: the interpreter notes in code that is run
for the first times what it is run with, and it counts the references to whatever it looks at. Code that ran here before is noted already, and from Python 3.12 on an object
may be immortal (PEP 683): nobody counts its references any more.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

_REHEARSALS = 10
"""More note nothing more."""
_SLICE = 2000
"""Objects at a time: an order that comes meanwhile waits for them, about a millisecond."""
_LEAST = 3 << 30
"""No object that is counted has such a count in its lower 32 bits: from there on CPython takes an object for immortal (Include/refcount.h of 3.12 to 3.14)."""


class Settling:
    """Little by little: first as many rehearsals as it takes, then the objects."""

    def __init__(self, rehearse: Callable[[], None]) -> None:
        self._rehearse = rehearse
        self._work: Iterator[None] | None = None
        self._last = -1
        self.times = 0
        """How often it was done to the end."""

    def one(self, generation: int) -> bool:
        """Do a little for what was imported up to `generation`; whether there was something to do."""
        if generation != self._last:
            self._last, self._work = generation, self._all()
        if self._work is None:
            return False
        try:
            next(self._work)
        except StopIteration:
            self._work = None
            self.times += 1
        return True

    def _all(self) -> Iterator[None]:
        for _ in range(_REHEARSALS):
            self._rehearse()
            yield
        yield from immortalise()


def immortal_count() -> int:
    """The count by which this interpreter knows an immortal object; 0 where there are none."""
    if sys.implementation.name != "cpython" or sys.byteorder != "little" or sys.maxsize < 2**32:
        return 0
    count = ctypes.c_uint32.from_address(id(None)).value
    if count < _LEAST:  # before 3.12 None is counted; without the GIL another field is there, and counts are elsewhere
        return 0
    one = object()
    ctypes.c_uint32.from_address(id(one)).value = count
    others = [one] * 1000
    return count if ctypes.c_uint32.from_address(id(others[0])).value == count else 0


def immortalise() -> Iterator[None]:
    """Make immortal what there is, some of it with each turn of the iterator. For a process that lives as long as what it has imported."""
    value = immortal_count()
    if not value:
        return
    gc.unfreeze()  # it would not be listed
    at = ctypes.c_uint32.from_address
    pending: list[Any] = gc.get_objects()
    pending.append(sys.modules)
    done = 0
    while pending:
        item = pending.pop()
        count = at(id(item))
        # What is immortal from the start leads to nothing that the collector does not list.
        if count.value == value or item is pending:
            continue
        count.value = value
        if type(item) is types.CodeType:  # which the collector knows nothing of
            pending += (item.co_consts, item.co_names, item.co_name, item.co_qualname, item.co_filename)
            pending += (item.co_linetable, item.co_exceptiontable)
        else:
            pending += gc.get_referents(item)
        done += 1
        if done % _SLICE == 0:
            yield
