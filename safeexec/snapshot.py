"""A session's state as a file.

What a sandbox wrote down is wrapped with what must be known before any of it is touched: magic, version, which sandbox and engine can read it,
under which policy it was made, and a digest of everything; with a key, a MAC. The digest tells damage; only the MAC tells forgery. A snapshot
without one is guest data: whoever made it may put anything into the guest, and nothing anywhere else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from safeexec import whole
from safeexec.errors import SnapshotError
from safeexec.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"SAFEEXEC"
VERSION = 1
_MAX_HEADER = 1 << 20
_DIGEST = 32
_FIXED = len(MAGIC) + 8  # then u32 version, u32 length of the header


class Contents(NamedTuple):
    """A snapshot taken apart. Everything in it is what its maker says."""

    sandbox: str
    engine: str
    policy: Mapping[str, str]
    abandoned: tuple[int, ...]
    """Tool calls that ended before the snapshot and that the guest may still wait for."""
    state: bytes


class Snapshot:
    """A session's state, to be kept or sent anywhere, and made into a session again by :meth:`Executor.restore`. Immutable."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)

    def __bytes__(self) -> bytes:
        return self._data

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<safeexec.Snapshot of {len(self._data)} bytes>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file, which is there whole or not at all, and which only its owner may read; or to a device or a pipe. Raises OSError."""
        from pathlib import Path

        whole.save(path, self._data, private=True)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Read one from a file. Raises OSError; what is in it is looked at by `restore`."""
        with open(path, "rb") as file:
            return cls(file.read())


def identity(policy: Policy) -> dict[str, str]:
    """What of a policy is built into a session's state, by field: a digest of each. Limits are not: they are the restoring host's."""

    def digest(value: Any) -> str:
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]

    return {
        "imports": digest(sorted(set(policy.allowed_imports()))),
        "packages": digest(sorted(policy.packages)),
        "network": digest(sorted(policy.network)),
    }


def pack(contents: Contents, key: bytes | None) -> Snapshot:
    """Wrap a state. `key` signs it."""
    header = json.dumps(
        {
            "sandbox": contents.sandbox,
            "engine": contents.engine,
            "policy": dict(contents.policy),
            "abandoned": list(contents.abandoned),
            "size": len(contents.state),
            "signed": key is not None,
        }
    ).encode()
    head = MAGIC + VERSION.to_bytes(4, "little") + len(header).to_bytes(4, "little") + header
    return Snapshot(b"".join((head, _seal(head, contents.state, key), contents.state)))


def _seal(head: bytes, state: bytes | memoryview, key: bytes | None) -> bytes:
    if key is None:
        digest = hashlib.sha256(head)
        digest.update(state)
        return digest.digest()
    if not isinstance(key, bytes) or len(key) < 16:
        raise SnapshotError("a key is at least 16 bytes: secrets.token_bytes(32) makes one")
    mac = hmac.new(key, head, "sha256")
    mac.update(state)
    return mac.digest()


def unpack(data: bytes, key: bytes | None) -> Contents:
    """Take a snapshot apart, whoever made it. Raises SnapshotError."""
    if data[: len(MAGIC)] != MAGIC:
        raise SnapshotError("this is not a snapshot")
    if len(data) < _FIXED:
        raise SnapshotError("the snapshot is truncated")
    version, length = (int.from_bytes(data[at : at + 4], "little") for at in (len(MAGIC), len(MAGIC) + 4))
    if version != VERSION:
        raise SnapshotError(f"the snapshot has format {version}; this safeexec reads {VERSION}")
    end = _FIXED + length
    if length > _MAX_HEADER or end + _DIGEST > len(data):
        raise SnapshotError("the snapshot is truncated")
    state = memoryview(data)[end + _DIGEST :]
    try:
        header = json.loads(data[_FIXED:end])
    except (ValueError, RecursionError):
        raise SnapshotError("the snapshot is damaged") from None
    fields = _checked(header)
    if header["size"] != len(state):
        raise SnapshotError("the snapshot is truncated" if header["size"] > len(state) else "the snapshot is damaged")
    if header["signed"] and key is None:
        raise SnapshotError("the snapshot is signed: restore it with the key it was made with (key=…)")
    if not header["signed"] and key is not None:
        # Else whoever can write the file could take the signature off.
        raise SnapshotError("a key was given, and the snapshot is not signed")
    if not hmac.compare_digest(_seal(data[:end], state, key), data[end : end + _DIGEST]):
        raise SnapshotError("the snapshot is damaged" if key is None else "the snapshot was not signed with this key")
    return Contents(*fields, bytes(state))


def _checked(header: Any) -> tuple[str, str, Mapping[str, str], tuple[int, ...]]:
    wrong = SnapshotError("the snapshot is damaged")
    if type(header) is not dict or type(header.get("size")) is not int or type(header.get("signed")) is not bool:
        raise wrong
    sandbox, engine, policy = header.get("sandbox"), header.get("engine"), header.get("policy")
    if (
        type(sandbox) is not str
        or type(engine) is not str
        or len(sandbox) + len(engine) > 2000
        or type(policy) is not dict
    ):
        raise wrong
    if len(policy) > 100 or not all(type(value) is str for value in policy.values()):
        raise wrong
    calls = header.get("abandoned")
    if type(calls) is not list or len(calls) > 10_000 or not all(type(n) is int and 0 <= n < 2**53 for n in calls):
        raise wrong
    return sandbox, engine, policy, tuple(calls)


def check_fits(contents: Contents, sandbox: str, policy: Policy) -> None:
    """Refuse a snapshot of another sandbox, or made under another policy. Raises SnapshotError."""
    if contents.sandbox != sandbox:
        raise SnapshotError(f"the snapshot is of the {contents.sandbox[:50]!r} sandbox, and this is {sandbox!r}")
    mine = identity(policy)
    other = [name for name in mine if contents.policy.get(name) != mine[name]]
    if other:
        fields = ", ".join(f"Policy.{name}" for name in other)
        raise SnapshotError(f"the snapshot was made under another policy: {fields} must be as it was then")
