"""wasmtime's signal handlers, kept in place.

A trap of a guest is a signal (SIGILL, SIGSEGV, SIGBUS, SIGFPE) that wasmtime's handlers turn into an error; they are installed with the first engine.
A host that turns `faulthandler` off and on later takes them out again, as pytest does when it runs a pytest of its own. From then on the first trap of a
guest would end the host's process. So they are looked at before a session begins, before each of its requests and after tools and callbacks, which run
the host's code meanwhile, and put back if they are not there.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from typing import Final

_SIGNALS: Final = (signal.SIGILL, signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS)
_SIZE: Final = 256
"""More than `struct sigaction` has on any platform of ours (152 bytes with glibc on x86-64 and arm64)."""
_HANDLER: Final = ctypes.sizeof(ctypes.c_void_p)
"""The handler's address, its first field. Behind it, the C library leaves what was on its stack in those bytes of the mask that no signal has."""


class Handlers:
    """What wasmtime installed."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, bytes]] = []
        self._buffer = ctypes.create_string_buffer(_SIZE)
        # Not macOS: there wasmtime takes Mach exceptions, which nobody takes away.
        self._sigaction = ctypes.PyDLL(None).sigaction if sys.platform == "linux" else None
        if self._sigaction is not None:
            self._sigaction.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)

    def remember(self) -> None:
        """Called when the first engine has been made."""
        if self._sigaction is not None and not self._kept:
            self._kept = [(number, self._now(number)) for number in _SIGNALS]

    def look(self) -> None:
        """As `hold`, where there is no time for all of them: who takes one away takes that of SIGSEGV."""
        for number, handler in self._kept:
            if number == signal.SIGSEGV and self._now(number)[:_HANDLER] != handler[:_HANDLER]:
                self.hold()

    def hold(self) -> None:
        """Put back what is not there any more."""
        for number, handler in self._kept:
            if self._now(number)[:_HANDLER] != handler[:_HANDLER]:
                self._set(number, handler)

    def _now(self, number: int) -> bytes:
        assert self._sigaction is not None
        if self._sigaction(number, None, self._buffer):
            raise OSError("the signal handlers cannot be read")
        return self._buffer.raw

    def _set(self, number: int, handler: bytes) -> None:
        assert self._sigaction is not None
        if self._sigaction(number, ctypes.create_string_buffer(handler, _SIZE), None):
            raise OSError("the signal handlers cannot be set")


handlers: Final = Handlers()
