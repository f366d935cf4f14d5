"""A session that is kept, in use for as long as a block lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

from safeexec.aio import _in_thread
from safeexec.integrations._kept import Kept
from safeexec.session import Session


@contextmanager
def use(kept: Kept, key: Hashable, make: Callable[[], Session]) -> Iterator[Session]:
    """As :meth:`Kept.of`."""
    session = kept.of(key, make)
    try:
        yield session
    finally:
        kept.rest(key, session)


@asynccontextmanager
async def used(kept: Kept, key: Hashable, make: Callable[[], Session]) -> AsyncIterator[Session]:
    """As :func:`use`, awaited."""
    made: list[Session] = []  # filled also where nobody waits for it any more
    try:
        await _in_thread(lambda: made.append(kept.of(key, make)))
        yield made[0]
    finally:
        for session in made:
            kept.rest(key, session)
