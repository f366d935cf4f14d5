"""The password database of a sandbox: one user."""

from __future__ import annotations

import collections

struct_passwd = collections.namedtuple(
    "struct_passwd", ("pw_name", "pw_passwd", "pw_uid", "pw_gid", "pw_gecos", "pw_dir", "pw_shell")
)
_ONLY = struct_passwd("sandbox", "x", 0, 0, "", "/sandbox", "")


def getpwuid(uid: int, /) -> struct_passwd:
    """The entry of a user id. Raises KeyError."""
    if uid != _ONLY.pw_uid:
        raise KeyError(f"getpwuid(): uid not found: {uid}")
    return _ONLY


def getpwnam(name: str, /) -> struct_passwd:
    """The entry of a user name. Raises KeyError."""
    if name != _ONLY.pw_name:
        raise KeyError(f"getpwnam(): name not found: {name!r}")
    return _ONLY


def getpwall() -> list[struct_passwd]:
    """All entries."""
    return [_ONLY]
