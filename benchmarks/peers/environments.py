"""The virtual environments of the subjects, made by pip and kept for the next run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

NEEDS = {"pyeryx": (3, 12), "pydantic-monty": (3, 10)}
"""The oldest Python that each installs on."""


class Unavailable(Exception):
    """A subject cannot be had here, and why."""


def _interpreter(oldest: tuple[int, int], preferred: str | None) -> str:
    if preferred is not None:
        return preferred
    if sys.version_info[:2] >= oldest:
        return sys.executable
    for minor in range(oldest[1], 16):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    raise Unavailable(f"it needs Python {oldest[0]}.{oldest[1]} or later, and none is on PATH (name one with --python)")


def python_of(package: str, folder: Path, preferred: str | None = None) -> str:
    """The interpreter of an environment with `package` in it, made with `preferred` or whatever is new enough. Raises Unavailable."""
    home = folder / package
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        commands = (
            [_interpreter(NEEDS[package], preferred), "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "-q", package],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise Unavailable((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
        (home / "complete").touch()
    return str(python)
