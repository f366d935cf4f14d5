"""Which sandbox is started before the command line knows what it was asked: a guess from the bare arguments. See `safeexec.ahead`."""

from __future__ import annotations

import os

from safeexec import ahead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_COMMANDS = ("run", "repl")


def start(args: Sequence[str]) -> Callable[[], None] | None:
    """Let the sandbox that `args` name get ready, if it can; what ends it when nobody wanted it."""
    name = _sandbox(args)
    return None if name is None else ahead.start(name, None, {})


def _sandbox(args: Sequence[str]) -> str | None:
    if not args or args[0] not in _COMMANDS or not {"-h", "--help"}.isdisjoint(args):
        return None
    name = os.environ.get("SAFEEXEC_SANDBOX", ahead.DEFAULT_SANDBOX)
    for position, arg in enumerate(args):
        if arg == "--sandbox" and position + 1 < len(args):
            name = args[position + 1]
        elif arg.startswith("--sandbox="):
            name = arg.partition("=")[2]
    return name if name.isidentifier() else None
