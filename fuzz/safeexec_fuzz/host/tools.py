"""The functions that the host lends to the guest, and what the host notes about their calls."""

import threading
import time
from collections.abc import Callable
from typing import Any


class Vault:
    """Holds a token in the host's memory. Whoever can read it has left the sandbox."""

    def __init__(self, token: Any) -> None:
        self.token = token


_ATOMS = (int, str, float, bool, type(None), bytes)
_MOST = 10_000


def _plain(arguments: Any) -> bool:
    """Whether all of it, keys and what lists hold included, is plain data. Asks no object of the guest's anything."""
    rest = list(arguments)
    budget = _MOST
    while rest and budget > 0:
        budget -= 1
        item = rest.pop()
        if type(item) is list:
            rest += item[:budget]
        elif type(item) is dict:
            rest += [part for pair in list(item.items())[:budget] for part in pair]
        elif type(item) not in _ATOMS:
            return False
    return True


class Bench:
    """The tools of one case."""

    def __init__(self, token: Any) -> None:
        self.calls: list[tuple[str, int | None, bool, bool]] = []
        """(tool, step it was called in or None, whether every argument was plain, was allowed)."""
        self.step: int | None = None
        self._lock = threading.Lock()
        vault = Vault(token)
        keeper = {"password": token}
        limit = 2000

        def note(tool: Any, arguments: Any, allowed: Any = True) -> None:
            plain = _plain(arguments)
            with self._lock:
                if len(self.calls) < limit:
                    self.calls.append((tool, self.step, plain, allowed))

        def add(a: int, b: int) -> int:
            """Add two integers."""
            note("add", (a, b), type(a) is int and type(b) is int)
            return a + b

        def beacon(text: str) -> str:
            """Take note of a text."""
            note("beacon", (text,), type(text) is str)
            return "noted"

        def lookup(key: str, credential: str = token) -> str:
            """Look something up."""
            note("lookup", (key,))
            # Comparing is all that is done with the secret.
            return "yes" if key == keeper["password"] or credential is None else "nothing known about it"

        def refuse(reason: str) -> str:
            """Always refuses."""
            note("refuse", (reason,))
            try:
                raise KeyError(vault.token)
            except KeyError as error:
                raise ValueError("refused") from error

        def slow(seconds: float) -> str:
            """Wait for a while, at most half a minute."""
            note("slow", (seconds,))
            time.sleep(min(float(seconds), 30.0))
            return "waited"

        def unlisted(text: str = "") -> str:
            note("unlisted", (text,), False)
            return str(token)

        self.offered: dict[str, Callable[..., Any]] = {
            "add": add,
            "beacon": beacon,
            "lookup": lookup,
            "refuse": refuse,
            "slow": slow,
        }

        def call(name: Any, args: Any, kwargs: Any) -> Any:
            known: dict[str, Callable[..., Any]] = {**self.offered, "unlisted": unlisted}
            return known[name](*args, **kwargs)

        self.all = {**self.offered, "__all__": call}
        self.vault = vault
