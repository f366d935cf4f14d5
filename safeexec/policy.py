"""What a sandbox may do, and how much of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from safeexec.errors import PolicyError
from safeexec.names import check_name

DEFAULT_IMPORTS: tuple[str, ...] = (
    "__future__", "abc", "argparse", "array", "ast", "asyncio", "atexit", "base64", "binascii", "bisect", "builtins", "bz2", "calendar", "cmath",
    "cmd", "codecs", "collections", "colorsys", "concurrent.futures", "configparser", "contextlib", "contextvars", "copy", "csv",
    "dataclasses", "datetime", "decimal", "difflib", "doctest", "email", "enum", "errno", "filecmp", "fileinput", "fnmatch", "fractions", "functools", "gc",
    "getopt", "getpass", "gettext", "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html", "http", "importlib", "inspect", "io", "ipaddress",
    "itertools", "json", "keyword", "linecache", "locale", "logging", "lzma", "math", "mimetypes", "numbers", "operator", "optparse", "os", "pathlib", "platform",
    "plistlib", "pprint", "queue", "quopri", "random", "re", "reprlib", "sched", "secrets", "shlex", "shutil", "sqlite3", "stat", "statistics",
    "string", "struct", "sys", "tarfile", "tempfile", "textwrap", "threading", "time", "timeit", "token", "tokenize", "tomllib", "traceback", "tracemalloc", "types",
    "typing", "unicodedata", "unittest", "urllib.parse", "uuid", "warnings", "wave", "weakref", "xml.dom", "xml.etree.ElementTree",
    "xml.parsers.expat", "xml.sax", "zipfile", "zlib", "zoneinfo",
)  # fmt: skip
"""Modules a program may import where the language is the wall; each is a reviewed, frozen selection of names there."""

_NUMBERS = (
    "time", "wall", "tool_time", "memory", "output", "value", "disk", "processes", "tool_calls", "requests", "connections",
    "transfer",
)  # fmt: skip
_MAY_BE_NONE = ("time", "wall", "tool_time", "tool_calls", "requests", "transfer")


@dataclass(frozen=True)
class Limits:
    """Bounds on one step, or, for `memory`, `disk` and `processes`, on the session.

    ``None`` means no bound, where the sandbox can do without one.
    """

    time: float | None = 5.0
    """Seconds of the guest's running and sleeping; stands still while a host tool runs, or the host waits for a server."""
    wall: float | None = 300.0
    """Seconds for the whole step, tools included."""
    tool_time: float | None = 30.0
    """Seconds for one tool call, and for one request that the host makes for the guest."""
    memory: int = 256 * 2**20
    """Bytes beyond what a fresh session has."""
    output: int = 1_000_000
    """Bytes of standard output, and of standard error, kept of one step."""
    value: int = 16 * 2**20
    """Bytes of one value that crosses, either way, and of the displays of one step."""
    disk: int = 64 * 2**20
    """Bytes of all files."""
    processes: int = 32
    """Processes and threads."""
    tool_calls: int | None = 1_000
    """Calls of host tools in one step."""
    requests: int | None = 10_000
    """Requests to the network in one step, refused ones included."""
    connections: int = 64
    """Connections to the network at once."""
    transfer: int | None = 64 * 2**20
    """Bytes to the network in one step, and as many from it."""

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is None:
                if name in _MAY_BE_NONE:
                    continue
                raise PolicyError(f"Limits.{name} must be a number")
            whole = name not in ("time", "wall", "tool_time")
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise PolicyError(f"Limits.{name} must be {'a whole number' if whole else 'a number'}, not {value!r}")
            if not value >= (0 if name == "tool_calls" else 1e-3) or value == float("inf"):
                raise PolicyError(
                    f"Limits.{name} must be positive and finite, not {value!r}; None where no bound is meant"
                )

    def changed(self) -> frozenset[str]:
        """The names of the limits that differ from the defaults."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) != f.default)


@dataclass(frozen=True)
class Policy:
    """What code in a sandbox may use. Immutable; `replace` makes variants."""

    limits: Limits = field(default_factory=Limits)
    imports: Sequence[str] | None = None
    """Modules code may import: names, ``"name.*"`` for a package and all below it, ``"*"`` for all. None: DEFAULT_IMPORTS, or all that is there
    where the sandbox runs the whole language and this would be no wall (``wasm``, ``docker``). A program's own files, in its working directory, can always
    be imported, and are asked like its steps. A standard module brings what is below it (``os.path``)."""
    packages: Sequence[str] = ()
    """Distributions to be present in the sandbox."""
    network: Sequence[str] = ()
    """Hosts that may be reached, by HTTP, with the host of the sandbox as the one who connects: ``"api.example.com"``, ``"*.example.com:443"`` for all below,
    ``"https://example.com"``, ``"127.0.0.1:8080"``, ``"*"`` for every public one. An address that is not public is reached only if it is named itself.
    """
    credentials: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """Host to header fields that are added to the requests there, outside the sandbox: ``{"api.example.com": {"Authorization": "Bearer …"}}``. Over https
    only, unless the key says ``http://``.
    """
    env: Mapping[str, str] = field(default_factory=dict)
    """The guest's environment; the host's never leaks."""
    files: Mapping[str, bytes | str | os.PathLike[str]] = field(default_factory=dict)
    """Relative name to bytes, or to a host path that is read when the session starts; placed in the working directory."""
    require: Sequence[str] | None = None
    """Walls that must stand, by their names in ``Executor.isolation``; None: the sandbox's own minimum; (): none."""
    rollback: str | None = None
    """When a failed step is undone: "limits", "errors", "never"; None: "limits" where the sandbox can."""

    def __post_init__(self) -> None:
        if not isinstance(self.limits, Limits):
            raise PolicyError(f"Policy.limits must be a Limits, not {type(self.limits).__name__}")
        for name in ("imports", "packages", "network", "require"):
            value = getattr(self, name)
            if value is None and name in ("imports", "require"):
                continue
            if isinstance(value, str):
                value = (value,) if name == "imports" and value == "*" else value
            if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
                raise PolicyError(f"Policy.{name} must be a sequence of strings, not {value!r}")
            object.__setattr__(self, name, tuple(value))
        for pattern in self.imports or ():
            if not _is_import_pattern(pattern):
                raise PolicyError(f"Policy.imports: {pattern!r} is not a module name, 'package.*' or '*'")
        if self.rollback not in (None, "limits", "errors", "never"):
            raise PolicyError(f"Policy.rollback must be 'limits', 'errors', 'never' or None, not {self.rollback!r}")
        if not isinstance(self.env, Mapping) or not isinstance(self.files, Mapping):
            raise PolicyError("Policy.env and Policy.files must be mappings")
        for key, text in self.env.items():
            if not isinstance(key, str) or not isinstance(text, str) or not key or "=" in key or "\0" in key + text:
                raise PolicyError(
                    f"Policy.env[{key!r}]: names and values are strings, without NUL, the name without '='"
                )
        for name, content in self.files.items():
            check_name(name)
            if not isinstance(content, bytes | str | os.PathLike):
                raise PolicyError(f"Policy.files[{name!r}] must be bytes or a path")
        if self.network or self.credentials:
            from safeexec.egress.rules import Rules, frozen_credentials  # only who permits a network waits for it

            object.__setattr__(self, "credentials", frozen_credentials(self.credentials))
            Rules(self.network, self.credentials)
        object.__setattr__(self, "env", dict(self.env))
        object.__setattr__(self, "files", dict(self.files))

    def replace(self, **changes: Any) -> Policy:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def allowed_imports(self) -> tuple[str, ...]:
        """The patterns in force."""
        return DEFAULT_IMPORTS if self.imports is None else tuple(self.imports)

    def file_bytes(self, name: str) -> bytes:
        """The content of one of `files`. Raises PolicyError when its path cannot be read or it exceeds ``limits.disk``."""
        content = self.files[name]
        if isinstance(content, bytes):
            data = content
        else:
            from pathlib import Path  # 5 ms that few policies need

            path = Path(content)
            try:
                if not path.is_file():
                    raise PolicyError(f"Policy.files[{name!r}]: {path} is not a file")
                if path.stat().st_size > self.limits.disk:
                    raise PolicyError(
                        f"Policy.files[{name!r}]: {path} is larger than Limits.disk ({self.limits.disk} bytes)"
                    )
                data = path.read_bytes()
            except OSError as error:
                raise PolicyError(f"Policy.files[{name!r}]: {error}") from error
        if len(data) > self.limits.disk:
            raise PolicyError(f"Policy.files[{name!r}] is larger than Limits.disk ({self.limits.disk} bytes)")
        return data


def checked(policy: object) -> Policy:
    """`policy`, where it is one. Raises PolicyError."""
    if not isinstance(policy, Policy):
        raise PolicyError(f"policy must be a safeexec.Policy, not {type(policy).__name__}")
    return policy


def _is_import_pattern(pattern: str) -> bool:
    if pattern == "*":
        return True
    body = pattern[:-2] if pattern.endswith(".*") else pattern
    return bool(body) and all(part.isidentifier() for part in body.split("."))
