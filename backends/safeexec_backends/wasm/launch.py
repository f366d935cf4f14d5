"""Starting the workers' zygote before anything else of this sandbox is imported, and telling it its image as soon as that is known."""

from __future__ import annotations

from safeexec_backends.local import control, launch, library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

MODULE = "safeexec_backends.wasm.zygote"
_DISK = 1 << 20  # of the worker itself, which keeps its sessions' files in memory
_THREADS = 4200
_DESCRIPTORS = 16_384
# Of the files in memory that branches share; what a worker keeps of its sessions is bounded by their limits.
_FILE_SIZE = 1 << 33

WORKER_ORDER: control.Message = {
    "op": "cell", "memory": 0, "disk": _DISK, "processes": _THREADS, "open_files": _DESCRIPTORS, "file_size": _FILE_SIZE, "imports": [], "preload": [],
}  # fmt: skip

discard = launch.discard


def setup(image: Path, deny: Mapping[str, str]) -> control.Message:
    """What a zygote on a cached image is told first."""
    return {
        "readable": library.readable(),
        "deny": dict(deny),
        "extra": [],
        "portable": False,
        "language": "full",
        "idle": [],
        "skip": [],
        "first": WORKER_ORDER,
        "image": str(image),
    }


def ahead(policy: Any, options: Mapping[str, Any]) -> None:
    """Start it where there will be workers, and tell it its image if that is known and there. Raises OSError."""
    if options.get("workers") == 0:
        return
    launch.ahead_of(MODULE)
    if not getattr(policy, "packages", ()):
        from . import image  # while it starts

        found = image.cached()
        if found is not None:
            tell_ahead(found.compiled.parent)


def tell_ahead(image: Path) -> None:
    """Tell the one that was started ahead its image, if it was not told."""
    launch.tell_ahead(MODULE, setup(image, {}))
