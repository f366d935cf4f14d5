from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from safeexec.cli.main import main
from tests.cli import launch

ROOT = Path(__file__).parents[2]


@dataclass
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def refuse(name: str) -> Any:
            raise AssertionError(f"{name} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


Command = Callable[..., Ran]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The tests' sandboxes, an empty current directory, none of the developer's own settings."""
    import os

    import safeexec.cli.doctor
    import safeexec.cli.orphans
    import safeexec.registry

    for name in [name for name in os.environ if name.startswith("SAFEEXEC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SAFEEXEC_SANDBOX", "plain")
    monkeypatch.setattr(safeexec.registry, "load_backend", launch.load)
    monkeypatch.setattr(safeexec.cli.orphans, "load_backend", launch.load)
    monkeypatch.setattr(safeexec.cli.doctor, "backend_names", lambda: ("plain", "broken"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    where = tmp_path / "here"
    where.mkdir()
    monkeypatch.chdir(where)
    yield


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in this process, with its output in a pipe."""

    def call(*args: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = main(args)
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode(), err.decode())

    return call


def process(*args: str, **settings: Any) -> subprocess.Popen[bytes]:
    """A command in a process of its own, in the current directory."""
    import os

    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **settings.pop("env", {})}
    return subprocess.Popen([sys.executable, "-m", "tests.cli.launch", *args], env=env, **settings)
