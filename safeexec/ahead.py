"""Starting a sandbox's processes before the host has imported what it needs itself: they get ready meanwhile.

A guess from what is known by then. Whatever it misses costs time and nothing else: what was started for nothing is ended, and trouble comes up
again where it is reported, when the sandbox is asked for in earnest.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

DEFAULT_SANDBOX = "wasm"

_starting: list[str] = []
"""The sandboxes that were started and may not have been asked for yet."""


def start(name: str, policy: object, options: Mapping[str, Any]) -> Callable[[], None] | None:
    """Let the sandbox of that name get ready, if it can, for an executor with this policy (None: an ordinary one) and these options of its
    backend; what ends it when nobody wanted it."""
    if not name.isidentifier():
        return None
    from importlib import import_module

    try:
        module = import_module(f"safeexec_backends.{name}.launch")
        module.ahead(policy, options)
    except Exception:
        return None
    _starting.append(name)

    def discard() -> None:
        _starting.remove(name)
        module.discard()

    return discard


@contextmanager
def getting_ready(sandbox: object, policy: object, options: Mapping[str, Any]) -> Iterator[None]:
    """Where this is a sandbox's first use in this process, have it get ready while the rest is imported that the first use needs.

    The arguments are a caller's, and as yet unchecked.
    """
    first = isinstance(sandbox, str) and f"safeexec_backends.{sandbox}.backend" not in sys.modules
    discard = start(sandbox, policy, options) if isinstance(sandbox, str) and first and not _starting else None
    try:
        yield
    finally:
        if discard is not None:
            discard()
