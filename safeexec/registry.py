"""Finding things by entry point: sandboxes in the group ``safeexec.backends``, commands in ``safeexec.commands``."""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from typing import Any

from safeexec.backend import Backend
from safeexec.errors import BackendUnavailable

BACKENDS = "safeexec.backends"
COMMANDS = "safeexec.commands"


@lru_cache(maxsize=4)
def entry_points(group: str) -> dict[str, Any]:
    """Name to entry point, nothing loaded. Reads the metadata of every installed distribution: tens of milliseconds."""
    from importlib.metadata import entry_points as installed

    return {point.name: point for point in installed(group=group)}


def backend_names() -> tuple[str, ...]:
    """The sandboxes that are installed, whether or not they can run here."""
    return tuple(sorted(entry_points(BACKENDS)))


def load_backend(name: str) -> type[Backend]:
    """The class behind a sandbox's name; only that one's package is imported. Raises BackendUnavailable."""
    if isinstance(name, type) and issubclass(name, Backend):
        raise BackendUnavailable(f"{name.__name__} is a Backend's class: pass a Backend, {name.__name__}(...)")
    if not isinstance(name, str) or not name.isidentifier():
        raise BackendUnavailable(f"{name!r} is not the name of a sandbox; installed: {', '.join(backend_names())}")
    found: Any = None
    try:
        # A package of that name among the sandboxes installed with us spares the search through all distributions.
        own = importlib.util.find_spec(f"safeexec_backends.{name}")
    except ModuleNotFoundError:
        own = None
    try:
        if own is not None:
            found = getattr(importlib.import_module(f"safeexec_backends.{name}"), "BACKEND", None)
        if found is None:
            point = entry_points(BACKENDS).get(name)
            if point is None:
                raise BackendUnavailable(f"there is no sandbox {name!r}; installed: {', '.join(backend_names())}")
            found = point.load()
    except ImportError as error:
        raise BackendUnavailable(
            f"sandbox {name!r} cannot be loaded: {error}; try: pip install 'safeexec[{name}]'"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise BackendUnavailable(f"sandbox {name!r} is not a safeexec.backend.Backend")
    return found
