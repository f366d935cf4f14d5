"""Blaxel's exceptions in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from safeexec_backends._remote.faults import Fault, Gone, Passing, Secret


def translate(error: Exception, key: Secret) -> Fault:
    """The fault that an exception of the SDK stands for. Its exceptions have no common base, but say the HTTP status in one of two ways."""
    text = key.hide(str(error))[:500] or type(error).__name__
    status = _status(error)
    if not status:
        if isinstance(error, httpx.TransportError | OSError):
            return Passing(f"{type(error).__name__}: {text}")
        return Fault(f"{type(error).__name__}: {text}")
    if status in (401, 403):
        return Fault(f"Blaxel refused the key; check BL_API_KEY and BL_WORKSPACE ({text})")
    # 409: the process has no open standard input any more.
    if status in (404, 409, 410):
        return Gone(f"it expired or was ended ({text})")
    if status in (408, 429) or status >= 500:
        return Passing(f"HTTP {status}: {text}")
    return Fault(f"HTTP {status}: {text}")


def _status(error: Exception) -> int:
    """The HTTP status an exception speaks of, 0 if it has none. Some of the SDK's are strings."""
    status = getattr(error, "status_code", None)
    if status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
    try:
        return int(status)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0


@contextmanager
def translated(key: Secret, repeatable: bool = False) -> Iterator[None]:
    """Raise the SDK's exceptions as faults. ``from None``: they may hold request headers.

    `repeatable`: take what nobody can tell, such as the SDK failing to parse a gateway's error page, for a passing fault.
    """
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        fault = translate(error, key)
        raise (Passing(str(fault)) if repeatable and type(fault) is Fault and not _status(error) else fault) from None
