"""How a guest that runs is stopped at once, from another thread.

Every function and every loop of compiled code begins by reading a byte of one page, the poll page (image/polls.py puts the reads there, for whatever
module is compiled). It lies at the end of the 4 GiB of addresses that each memory has to itself, where no memory grows to, and can be read, not
written; nothing uses what is read. To stop an instance its poll page is made unreadable: the next read is a trap, wherever in the interpreter or
in a package's native code the guest is. The engine's own means, counting epochs, compares numbers at the same places: that made all computing
slower by a seventh.

Why the page is out of every guest's reach: a host function, and the engine's own copying and filling of memory, check ranges against the memory's
size, which never gets there, so only compiled code can touch it, where a fault is a trap and nothing worse.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

from .native import EngineError
from .signals import handlers

ADDRESSES: Final = 1 << 32
"""Bytes of addresses that are reserved for each memory."""
POLL: Final = ADDRESSES - (1 << 16)
"""Where the poll page is: the last WebAssembly page, which no memory may have (abi.MAX_PAGES)."""
_PROT_NONE, _PROT_READ = 0, 1


def arm(memory: int) -> None:
    """Make the poll page of the memory at address `memory` readable. Raises EngineError when this process has no room for more mappings."""
    _protect(memory + POLL, _PROT_READ)


def stop(memory: int) -> None:
    """Trap whoever runs in the instance with the memory at this address. From any thread, while the memory is not being freed."""
    handlers.hold()  # the trap is a signal, and somebody may have taken its handler away since the session began
    _protect(memory + POLL, _PROT_NONE)


def _protect(address: int, protection: int) -> None:
    if _mprotect(address, mmap.PAGESIZE, protection):
        raise EngineError(f"the poll page could not be protected (errno {ctypes.get_errno()})")


_mprotect = ctypes.PyDLL(None, use_errno=True).mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mprotect.restype = ctypes.c_int
