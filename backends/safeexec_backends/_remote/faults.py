"""What can go wrong on the way to a vendor, in three words; and trying again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 5
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 3.0


class Fault(Exception):
    """A call to the vendor failed, and would again: a wrong key, a sandbox that does not exist."""


class Passing(Fault):
    """It failed for now: the connection, a rate limit, a server's error. A call that may be repeated can be tried again."""


class Gone(Fault):
    """The sandbox does not exist any more."""


class Secret:
    """A key. Only :meth:`reveal` gives it away; printing, logging or inspecting what holds it does not."""

    __slots__ = ("_reveal",)

    def __init__(self, value: str) -> None:
        def reveal() -> str:
            return value

        self._reveal: Callable[[], str] = reveal

    def reveal(self) -> str:
        """The key itself."""
        return self._reveal()

    def hide(self, text: str) -> str:
        """`text` without the key: vendors' messages may quote what was sent."""
        return text.replace(self.reveal(), "***")

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not copied or pickled")


def raising(translate: Callable[[Exception, Secret], Fault]) -> Callable[[Secret], AbstractContextManager[None]]:
    """A context manager that raises an SDK's exceptions as the faults that `translate` makes of them. ``from None``: they may hold request headers."""

    @contextmanager
    def translated(key: Secret) -> Iterator[None]:
        try:
            yield
        except Fault:
            raise
        except Exception as error:
            raise translate(error, key) from None

    return translated


def retry(call: Callable[[], T], stop: threading.Event | None = None, attempts: int = ATTEMPTS) -> T:
    """The result of a call that may be repeated without harm, tried again with growing pauses while its fault is a passing one.

    `stop` ends the trying early. Raises the last Fault.
    """
    pause = FIRST_PAUSE
    wait = stop if stop is not None else threading.Event()
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except Passing:
            # Half of the pause is chance, so that many sessions do not come back at once.
            if attempt == attempts or wait.wait(pause * (0.5 + random.random() / 2)):
                raise
            pause = min(2 * pause, LONGEST_PAUSE)
    raise AssertionError("unreachable")
