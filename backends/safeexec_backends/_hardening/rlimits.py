"""Resource limits, per process (setrlimit(2))."""

from __future__ import annotations

import resource
from collections.abc import Mapping

_OPTIONAL = ("RLIMIT_MSGQUEUE", "RLIMIT_RTPRIO", "RLIMIT_NICE", "RLIMIT_SIGPENDING", "RLIMIT_MEMLOCK", "RLIMIT_NPROC")
_STACK = 8 * 2**20


def plan(
    *,
    address_space: int | None = None,
    file_size: int | None = None,
    processes: int | None = None,
    open_files: int = 256,
) -> dict[str, int]:
    """Limits by name, in bytes or counts; None leaves one as it is."""
    limits: dict[str, int | None] = {
        "RLIMIT_CORE": 0,  # a core file would carry the host library's memory to disk
        "RLIMIT_AS": address_space,
        "RLIMIT_FSIZE": file_size,
        "RLIMIT_NPROC": processes,
        "RLIMIT_NOFILE": open_files,
        "RLIMIT_STACK": _STACK,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_RTPRIO": 0,
        "RLIMIT_NICE": 0,
        "RLIMIT_SIGPENDING": 64,
    }
    return {name: value for name, value in limits.items() if value is not None}


def apply(limits: Mapping[str, int]) -> None:
    """Set soft and hard limits; none is raised above what the process may have. Raises OSError or ValueError."""
    for name, value in limits.items():
        which = getattr(resource, name, None)
        if which is None:
            if name in _OPTIONAL:
                continue  # this system has no such resource
            raise OSError(f"{name} does not exist here")
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def standing(limits: Mapping[str, int]) -> str:
    """Why not every limit holds; empty when all do."""
    for name, value in limits.items():
        which = getattr(resource, name, None)
        if which is not None and not 0 <= resource.getrlimit(which)[1] <= value:
            return f"{name} is {resource.getrlimit(which)[1]}, not {value}"
    return ""
