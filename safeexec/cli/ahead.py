"""Starting a sandbox's processes before the command line knows what it was asked: they get ready while it imports the rest of itself.

A guess from the bare arguments. Whatever it misses costs time and nothing else: what was started for nothing is ended, and trouble comes up
again where it is reported, when the sandbox is asked for in earnest.
"""

from __future__ import annotations

import importlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_COMMANDS = ("run", "repl")
_DEFAULT = "wasm"  # safeexec.executor.DEFAULT_SANDBOX, which takes longer to import than to say


def start(args: Sequence[str]) -> Callable[[], None] | None:
    """Let the sandbox that `args` name get ready, if it can; what ends it when nobody wanted it."""
    name = _sandbox(args)
    if name is None:
        return None
    try:
        module = importlib.import_module(f"safeexec_backends.{name}.launch")
        module.ahead()
    except Exception:
        return None
    discard: Callable[[], None] = module.discard
    return discard


def _sandbox(args: Sequence[str]) -> str | None:
    if not args or args[0] not in _COMMANDS or not {"-h", "--help"}.isdisjoint(args):
        return None
    name = os.environ.get("SAFEEXEC_SANDBOX", _DEFAULT)
    for position, arg in enumerate(args):
        if arg == "--sandbox" and position + 1 < len(args):
            name = args[position + 1]
        elif arg.startswith("--sandbox="):
            name = arg.partition("=")[2]
    return name if name.isidentifier() else None
