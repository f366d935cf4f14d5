"""Starting the workers' zygote before anything else of this sandbox is imported: the command line does that."""

from __future__ import annotations

from safeexec_backends.local import launch

MODULE = "safeexec_backends.wasm.zygote"

discard = launch.discard


def ahead() -> None:
    """Start it; it loads what it can and waits to be told which image. Raises OSError."""
    launch.ahead_of(MODULE)
