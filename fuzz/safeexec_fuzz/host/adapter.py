"""What an adapter of a target is: sessions that run code, and what they can do besides."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any


class Outcome:
    """What the target handed to its host. `value` may be hostile."""

    def __init__(
        self, value: Any = None, stdout: Any = "", stderr: Any = "", error: Any = None, has_value: Any = True
    ) -> None:
        self.value = value
        self.stdout = stdout
        self.stderr = stderr
        self.error = error
        """None, or (kind, type, message)."""
        self.has_value = has_value


class Adapter:
    """One target. `batch`: several cases may share its host process, because code runs in another one."""

    batch = False
    capabilities: frozenset[str] = frozenset()
    """Of "tools", "sessions", "files", "variables", "value"."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def open(self, tools: Any, kind: Any) -> Any:
        """A session. `tools` is name to callable; `kind` is the case's."""
        raise NotImplementedError

    def close(self) -> None:
        """Free everything."""

    def version(self) -> Any:
        """What is tested, for the report."""
        return ""


class Session:
    """One session of a target."""

    def run(self, code: Any) -> Any:
        """Run a step and return an Outcome. What it raises counts as the target's own failure."""
        raise NotImplementedError

    def alive(self) -> Any:
        """Whether another step can be run."""
        return True

    def read(self, name: Any) -> Any:
        """Bytes of a file."""
        raise NotImplementedError

    def names(self) -> Any:
        """Names of the files."""
        return []

    def get(self, name: Any) -> Any:
        """A variable."""
        raise NotImplementedError

    def close(self) -> None:
        """End the session."""


_BUILT_IN = {
    "sandbox": "ours:SafeExec",
    "weak": "weak:Weak",
    "smolagents": "peers:Smolagents",
    "restrictedpython": "peers:Restricted",
    "monty": "peers:Monty",
    "eryx": "peers:Eryx",
    "subprocess": "programs:Subprocess",
    "cmd": "programs:Command",
}


def load(kind: Any, options: Any) -> Any:
    """The adapter of a kind, or what "factory" names. Raises whatever importing it raises."""
    if kind == "factory":
        module, _, name = options["factory"].partition(":")
        # Nothing there is to stand in for what an installed module may use.
        if find_spec(module.partition(".")[0]) is None:
            sys.path.append(options["cwd"])
        made = import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
        from .programs import Factory

        return Factory(made, options)
    module, _, name = _BUILT_IN[kind].partition(":")
    return getattr(import_module("." + module, __package__), name)(options)


def distribution(name: Any) -> Any:
    """``name version`` of an installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return name + " " + version(name)
    except PackageNotFoundError:
        return name
