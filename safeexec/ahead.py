"""Starting a sandbox's processes before the host has imported what it needs itself: they get ready meanwhile.

A guess from what is known by then. Whatever it misses costs time and nothing else: what was started for nothing is ended, and trouble comes up
again where it is reported, when the sandbox is asked for in earnest.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

DEFAULT_SANDBOX = "wasm"

_one = threading.Lock()
"""Held from a sandbox's start until its executor is made: threads that come together start one."""


def start(name: str, policy: object, options: Mapping[str, Any]) -> Callable[[], None] | None:
    """Let the sandbox of that name get ready for an executor with this policy (None: an ordinary one) and these options of its backend, if it
    can, and was not used yet. Returns what ends it when nobody wanted it, to be called in any case."""
    if not name.isidentifier() or not _one.acquire(blocking=False):
        return None
    with ExitStack() as undone:
        undone.callback(_one.release)
        if f"safeexec_backends.{name}.backend" in sys.modules:
            return None  # there is nothing left to import meanwhile
        from importlib import import_module

        try:
            module = import_module(f"safeexec_backends.{name}.launch")
            undone.callback(module.discard)
            module.ahead(policy, options)
        except Exception:
            return None
        return undone.pop_all().close
    return None


@contextmanager
def getting_ready(sandbox: object, policy: object, options: Mapping[str, Any]) -> Iterator[None]:
    """Where this is a sandbox's first use in this process, have it get ready while the rest is imported that the first use needs.

    The arguments are a caller's, and as yet unchecked.
    """
    discard = start(sandbox, policy, options) if isinstance(sandbox, str) else None
    try:
        yield
    finally:
        if discard is not None:
            discard()
