"""A session that nobody sees, before the one that somebody waits for: the first use of a page that a cell shares with the zygote costs microseconds, and a
session's first step uses hundreds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from safeexec_backends._hardening import waiting


class _Nowhere:
    """A channel that leads nowhere."""

    def __init__(self, wire: Any) -> None:
        self._wire = wire

    def send(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        self._wire.unpack(b"".join(self._wire.pack(header, blobs))[4:])


class Rehearsals:
    """With the modules that the zygote has: `guest` and `wire`."""

    def __init__(self, guest: Any, wire: Any) -> None:
        self._guest = guest
        self._wire = wire

    def one(self, language: Any, files: bool = True) -> None:
        """In the process that will be the session's; without `files` it does not look at the working directory."""
        guest = self._guest.Guest(_Nowhere(self._wire), language)
        guest.handle({"t": "init", "id": 0, "env": {}, "tools": [], "files": files})
        guest.handle({"t": "run", "id": 0, "code": "1 + 1"})

    def one_unless_wanted(self, language: Any, channel: int) -> None:
        """The same while there is no request: whoever waits already would wait longer; where sessions follow each other at once, that is all of them."""
        if not waiting.ready(channel, 0):
            self.one(language)

    def here(self, languages: Iterable[Any]) -> None:
        """In the zygote, with each language that there is: no cell has to note again what its interpreter notes of code that it runs."""
        stdout, stderr, main = sys.stdout, sys.stderr, sys.modules["__main__"]
        for language in languages:
            self.one(language, files=False)
        sys.stdout, sys.stderr, sys.modules["__main__"] = stdout, stderr, main
