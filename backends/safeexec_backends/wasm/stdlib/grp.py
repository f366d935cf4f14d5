"""The group database of a sandbox: one group."""

from __future__ import annotations

import collections

struct_group = collections.namedtuple("struct_group", ("gr_name", "gr_passwd", "gr_gid", "gr_mem"))
_ONLY = struct_group("sandbox", "x", 0, [])


def getgrgid(id: int) -> struct_group:
    """The entry of a group id. Raises KeyError."""
    if id != _ONLY.gr_gid:
        raise KeyError(f"getgrgid(): gid not found: {id}")
    return _ONLY


def getgrnam(name: str) -> struct_group:
    """The entry of a group name. Raises KeyError."""
    if name != _ONLY.gr_name:
        raise KeyError(f"getgrnam(): name not found: {name!r}")
    return _ONLY


def getgrall() -> list[struct_group]:
    """All entries."""
    return [_ONLY]
