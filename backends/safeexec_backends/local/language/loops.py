"""Event loops in the tables of asyncio.

It keeps what runs in which loop by the loop, and a task may be given any object for one: what had the hash of a real loop and said that it equals it would
be shown that one.
"""

from __future__ import annotations

import functools
import os
from typing import Any


@functools.cache
def hide() -> None:
    """Give loops hashes that nobody can know, once; before there is a loop, since what is in a table already stays where it is."""
    from asyncio import base_events

    def __hash__(self: Any) -> int:
        known: int | None = vars(self).get("_safeexec_hash")
        if known is None:
            known = self._safeexec_hash = int.from_bytes(os.urandom(7), "little")
        return known

    setattr(base_events.BaseEventLoop, "__hash__", __hash__)  # noqa: B010
