"""The command line with sandboxes of the tests added: ``python -m tests.cli.launch run --sandbox plain …``."""

from __future__ import annotations

import sys
from typing import Any

import safeexec.cli.doctor
import safeexec.registry
from safeexec.backend import Wall
from safeexec.errors import BackendUnavailable
from safeexec.registry import load_backend
from tests.support.plain import PlainBackend


class Broken(PlainBackend):
    """Cannot start, and its message is hostile."""

    name = "broken"

    def __init__(self, policy: Any, **options: Any) -> None:
        super().__init__(policy)
        if policy.require is None:
            raise BackendUnavailable("start the \x1b]0;owned\x07 daemon\nwith [red]care[/red]")

    @property
    def isolation(self) -> Any:
        return {"seccomp": Wall(True), "landlock": Wall(False, "the kernel is too \x1b[31mold")}


def load(name: str) -> Any:
    return {"plain": PlainBackend, "broken": Broken}.get(name) or load_backend(name)


def install(names: tuple[str, ...] = ("plain",)) -> None:
    """Put the tests' sandboxes among those that are found by name."""
    safeexec.registry.load_backend = load  # type: ignore[attr-defined]
    safeexec.cli.doctor.backend_names = lambda: names  # type: ignore[attr-defined]


if __name__ == "__main__":
    from safeexec.__main__ import main

    install()
    sys.exit(main())
