"""What can be attacked: names on the command line to adapters and their options."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import Any

BUILT_IN = ("weak", "smolagents", "restrictedpython", "monty", "eryx", "subprocess")
SAFEEXEC_SANDBOXES = ("local", "wasm", "docker", "e2b", "modal", "blaxel")


class TargetError(ValueError):
    """A target that cannot be understood; the message says what can."""


@dataclass(frozen=True)
class Target:
    """One executor to attack. `python` is the interpreter of the environment it is installed in; "" is this one's."""

    name: str
    adapter: str
    options: dict[str, Any]
    python: str = ""

    def data(self) -> dict[str, Any]:
        """As plain data, for the supervisor."""
        return {"name": self.name, "adapter": self.adapter, "options": self.options, "python": self.python}


def sandbox(text: str) -> Target:
    """A sandbox of safeexec's: ``wasm``, or with settings of its own, ``wasm:workers=0,isolation=session``. Raises TargetError."""
    name, _, rest = text.partition(":")
    if not name.isidentifier():
        raise TargetError(f"--sandbox: {text!r} is not of the form name or name:setting=value,setting=value")
    settings: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, mark, value = part.partition("=")
        if not mark or not key.isidentifier():
            raise TargetError(f"--sandbox: {part!r} is not of the form setting=value")
        settings[key] = int(value) if value.isdigit() else {"true": True, "false": False}.get(value.lower(), value)
    return Target(text, "sandbox", {"sandbox": name, "settings": settings})


def target(text: str, python: str = "") -> Target:
    """Another executor: a built-in name, ``cmd:COMMAND``, or ``module:factory``. Raises TargetError."""
    if text in BUILT_IN:
        return Target(text, text, {}, python)
    kind, mark, rest = text.partition(":")
    if kind == "cmd" and rest.strip():
        try:
            command = shlex.split(rest)
        except ValueError as error:
            raise TargetError(f"--target: {text!r}: {error}") from error
        return Target(text, "cmd", {"command": command}, python)
    if mark and all(part.isidentifier() for part in (*kind.split("."), *rest.split("."))):
        return Target(text, "factory", {"factory": text, "cwd": os.getcwd()}, python)
    raise TargetError(f"--target: {text!r} is none of {', '.join(BUILT_IN)}, cmd:COMMAND or module:factory")
