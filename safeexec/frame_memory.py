"""The host's memory for large frames, used for one after another.

Allocators give a block of megabytes back as soon as it is free, and every page of the next one is a page fault: 2,500 for ten megabytes, which take
as long as everything else that is done with them. So the last ones are kept for a second.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

from safeexec import watchdog, wire

_LARGE = 1 << 20
_MOST = 32 << 20
_BLOCKS = 2
_KEPT = 1.0
"""Seconds without use after which they are given back."""


class FrameMemory:
    """Writable memory of which a few blocks are kept."""

    def __init__(self) -> None:
        # Taken out and put back without a lock, which a fork could leave locked: each of both is one step of the interpreter.
        self._blocks: deque[bytearray] = deque(maxlen=_BLOCKS)
        self._used = 0.0

    def take(self, size: int) -> memoryview:
        """`size` bytes for one frame. What was in them before is left there: a frame is read whole, over it, before anything looks at it."""
        if not _LARGE <= size <= _MOST:
            return memoryview(bytearray(size))
        block = self._kept(size)
        if block is None:
            block = bytearray(size)
        view = memoryview(block)
        self._blocks.append(block)
        self._used = monotonic()
        watchdog.watch(id(self), self._look)
        return view[:size]

    def room(self, size: int) -> Any:
        """`size` bytes for a part of a frame, as `wire.room`."""
        return _Room(self.take(size)) if _LARGE <= size <= _MOST else wire.room(size)

    def _kept(self, size: int) -> bytearray | None:
        """One that is large enough and that nobody looks at."""
        for _ in range(_BLOCKS):
            try:
                block = self._blocks.popleft()
            except IndexError:
                return None
            if len(block) >= size and not _is_looked_at(block):
                return block
            self._blocks.append(block)
        return None

    def _look(self, now: float) -> None:
        if now - self._used > _KEPT:
            self._blocks.clear()
            watchdog.unwatch(id(self))


class _Room:
    def __init__(self, view: memoryview) -> None:
        self._view = view

    def getbuffer(self) -> memoryview:
        return self._view[:]

    def getvalue(self) -> memoryview:
        return self._view


def _is_looked_at(block: bytearray) -> bool:
    """Whether there is a view of it still: then, and only then, its size cannot be changed."""
    try:
        block.pop()
    except BufferError:
        return True
    block.append(0)
    return False


frame_memory = FrameMemory()
