"""Settings from files: ``[tool.safeexec]`` in ``pyproject.toml``, or ``safeexec.toml``.

A file that merely lies in the current directory came with whatever was unpacked or checked out there, so it is not trusted: it may name one of
the sandboxes that run on this machine, and set limits up to a ceiling. It may not name host files or host code, allow imports, add packages, drop
walls or send code to somebody else's machines; such a key is an error, never skipped. A file that the user names with ``--config`` may set
everything. Options win over the environment, the environment over files. ``safeexec.toml`` wins over ``pyproject.toml``; the two are not mixed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

import click

from safeexec.cli.exits import Failure
from safeexec.cli.units import MIN_MEMORY, human, seconds, size

NAMES = ("safeexec.toml", "pyproject.toml")
_MAX_FILE = 2**20
_MAX_DOTS = 500
"""In one line. The time that Python's parser takes for a key grows with the square of its parts: an hour for one that fills the file."""


def _name(value: object) -> object:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a name in quotes")
    return value


def _names(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of strings")
    return value


def _memory(value: object) -> object:
    return size(value, MIN_MEMORY)


def _flag(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


KEYS: dict[str, Callable[[Any], object]] = {
    "sandbox": _name,
    "timeout": seconds,
    "memory": _memory,
    "output-limit": size,
    "allow-import": _names,
    "package": _names,
    "allow-net": _names,
    "file": _names,
    "tool": _names,
    "allow-weak": _flag,
    "save-files": _name,
}
"""What a file may set, and how each value is read."""

FOUND_SANDBOXES = ("wasm", "local", "docker")
"""Sandboxes a file that was merely found may choose: each refuses to start below its own minimum, and none sends data away."""

FOUND_CEILINGS: dict[str, float] = {"timeout": 300, "memory": 2**30, "output-limit": 16 * 2**20}
"""The highest limits that a file that was merely found may set: seconds, bytes, bytes."""


def load(ctx: click.Context, param: click.Parameter, named: str | None) -> None:
    """An eager option's callback: gives the settings to click as the lowest of its sources. Raises Failure."""
    if ctx.resilient_parsing or named == "none":
        return
    if named is not None:
        settings = _read(named, trusted=True)
        if settings is None:
            raise Failure(f"--config: there is no file {named}")
        ctx.default_map = settings
        ctx.meta["safeexec.settings"] = named
        return
    for name in NAMES:
        settings = _read(name, trusted=False)
        if settings is not None:
            ctx.default_map = settings
            ctx.meta["safeexec.config"] = ctx.meta["safeexec.settings"] = name
            return


def _read(path: str, trusted: bool) -> dict[str, Any] | None:
    """Settings by parameter name; None when there is no file, or it says nothing about safeexec."""
    data = _bytes(path)
    if data is None:
        return None
    project = os.path.basename(path) == "pyproject.toml"
    if project and not trusted and b"safeexec" not in data:  # spares other projects the parser's 10 ms
        return None
    if any(line.count(b".") > _MAX_DOTS for line in data.split(b"\n")):
        raise Failure(
            f"{path} has a line with more than {_MAX_DOTS} dots; break it, or give --config none to ignore the file"
        )
    import tomllib

    try:
        table: Any = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path}: not valid TOML: {_line(str(error))}; repair it, or give --config none") from None
    if project:
        tool = table.get("tool", {})
        table = tool.get("safeexec") if isinstance(tool, dict) else None
        if table is None:
            return None
        if not isinstance(table, dict):
            raise Failure(f"{path}: tool.safeexec must be a table")
    return {key.replace("-", "_"): value for key, value in _checked(path, table, trusted).items()}


def _checked(path: str, table: dict[str, Any], trusted: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for raw, value in table.items():
        key, shown = raw.replace("_", "-"), _line(raw, 60)
        read = KEYS.get(key)
        if key == "tool" and isinstance(value, dict):
            raise Failure(f"{path}: settings stand at its top, and under [tool.safeexec] in pyproject.toml only")
        if read is None:
            raise Failure(f"{path}: there is no setting '{shown}'; there are: {', '.join(KEYS)}")
        if key in settings:
            raise Failure(f"{path}: '{shown}' is set twice")
        try:
            known = read(value)
        except ValueError as error:
            raise Failure(f"{path}: {shown} {_line(str(error))}") from None
        if not trusted:
            _found(path, key, known)
        settings[key] = value
    return settings


def _found(path: str, key: str, value: Any) -> None:
    """Refuse what a checkout of unknown origin must not decide."""
    word = f"give --{key} yourself, or trust the file with --config {path}; --config none ignores it"
    if key == "sandbox":
        if value not in FOUND_SANDBOXES:
            shown = _line(value, 60)
            raise Failure(
                f"{path}: a file that was merely found may choose sandbox {', '.join(FOUND_SANDBOXES)}, not '{shown}'; {word}"
            )
    elif key in FOUND_CEILINGS:
        if value > FOUND_CEILINGS[key]:
            raise Failure(
                f"{path}: a file that was merely found may set {key} up to {_amount(key, FOUND_CEILINGS[key])}, not {_amount(key, value)}; {word}"
            )
    else:
        raise Failure(f"{path}: a file that was merely found may not set {key!r}; {word}")


def _line(text: str, length: int = 500) -> str:
    from safeexec.text import neutralise_line

    return neutralise_line(text, length)


def _amount(key: str, value: float) -> str:
    return f"{value:g} s" if key == "timeout" else human(int(value))


def _bytes(path: str) -> bytes | None:
    try:
        # Non-blocking and checked on the open file: a FIFO or device planted under the name must not hang us.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}; repair it, or give --config none") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Failure(f"{path} is not a regular file; remove it, or give --config none")
    with os.fdopen(fd, "rb") as file:
        data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise Failure(f"{path} is larger than 1 MiB; give --config none to ignore it")
    return data
