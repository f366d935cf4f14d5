"""Instances that are used again.

Making an instance is cheap; its first session is not: each page it touches costs a page fault, a few hundred in all, most of the time of a short
session. So when a session has ended in order, its instance is put back to what the image says and kept for the next one.

What is put back: linear memory, by copying the image's bytes over every page that was written to (pages.py finds them). What is compared, and the
instance thrown away if it differs: the size of the memory, every global that any instruction of the module sets, the size of every table that any
instruction may enlarge (image/state.py reads both off the code; elements of tables cannot change). Nothing else of an instance can hold
state between two calls. The host's side (files, descriptors, limits, frames) is made anew for each session. Thrown away as well: what trapped, was
killed while it ran, broke the protocol, ended with a frame half sent, or maps pages of another session's state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from . import abi
from .host import Host
from .pages import finder, total

MAX_KEPT: Final = 16
"""Instances a process keeps for later."""
MAX_WRITTEN: Final = 2 << 20
"""Bytes of written pages up to which an instance is kept: they stay in memory, and copying them must be cheaper than a fresh instance."""


class Spares:
    """The instances of one program that wait for a session."""

    def __init__(self, unused: Callable[[], Host]) -> None:
        """`unused` gives the host of an instance that never ran: what all others are compared with."""
        self._unused = unused
        self._kept: list[abi.Instance] = []
        self._state: list[int] = []
        self._usable = True

    def take(self, host: Host, memory_limit: int) -> bool:
        """Give `host` an instance that was used before; False if there is none."""
        try:
            instance = self._kept.pop()
        except IndexError:
            return False
        instance.belong(host, memory_limit)
        return True

    def give(self, host: Host) -> None:
        """The session of `host` ended in order, between two requests."""
        if host.parts or host.inbox or host.base is not None:
            host.close()
        else:
            host.retire(self._keep)

    def _keep(self, instance: abi.Instance) -> bool:
        if instance.stopped or not self._usable or len(self._kept) >= MAX_KEPT or not self._put_back(instance):
            return False
        self._kept.append(instance)
        return True

    def _put_back(self, instance: abi.Instance) -> bool:
        try:
            unused = self._unused()
        except abi.EngineError:
            return False  # there is no room for it now, and will be
        try:
            if not self._state:
                self._state = unused.instance.state()
            if not self._state or not finder.ready():
                self._usable = (
                    False  # the image does not say what code can change, or the kernel does not say what was written
                )
                return False
            memory, pristine = instance.look(), unused.memory.view
            if memory.size != len(pristine) or instance.state() != self._state:
                return False
            runs = instance.written.find(memory.address(), memory.size)
            if total(runs) > MAX_WRITTEN:
                return False
            for start, end in runs:
                memory.view[start:end] = pristine[start:end]
            return True
        except (OSError, abi.EngineError):
            self._usable = False
            return False

    def close(self) -> None:
        """Free those that wait."""
        while self._kept:
            self._kept.pop().close()
