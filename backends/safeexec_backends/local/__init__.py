"""The ``local`` sandbox: the host's own Python in hardened processes."""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; importing `typing` for it costs a start-up 3 ms
if TYPE_CHECKING:
    from typing import Any

    from safeexec_backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]


def __getattr__(name: str) -> Any:
    # On demand: the zygote imports this package too and must not load the host's half.
    if name in ("LocalBackend", "BACKEND"):
        from safeexec_backends.local.backend import LocalBackend

        return LocalBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
