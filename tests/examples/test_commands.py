"""The commands of ``examples/README.md``, typed as they stand there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.programs import EXAMPLES, PROGRAMS
from tests.support.markdown import blocks, commands

COMMANDS = [command for block in blocks(EXAMPLES / "README.md", "console") for command, _ in commands(block.text)]
RUNS = {
    command.split()[2].removeprefix("examples/").removesuffix(".py"): command
    for command in COMMANDS
    if "run" in command
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the examples in it, to run commands in."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=90,
    )


def test_every_program_has_a_command() -> None:
    assert RUNS.keys() == PROGRAMS.keys()
    others = {path.stem for path in EXAMPLES.glob("*.py")} - PROGRAMS.keys()
    assert others == {
        "generate",
        *(command.split("/")[1].split(".")[0] for command in COMMANDS if "run" not in command),
    }


@pytest.mark.parametrize("name", PROGRAMS)
def test_run(name: str, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    done = shell(RUNS[name], clone)
    assert done.returncode == 0, done.stderr
    # On the command line the value of the last expression follows what was printed.
    assert done.stdout.startswith(PROGRAMS[name].run_plain(tmp_path_factory.mktemp("plain")))
    if name == "orders":
        assert json.loads((clone / "out" / "summary.json").read_text())["orders"] > 2000
        assert (clone / "out" / "orders_clean.csv").read_text().count("\n") > 2000
    if name == "chart":
        assert (clone / "out" / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_with_tools(clone: Path) -> None:
    done = shell(next(c for c in COMMANDS if "with_tools" in c), clone)
    assert done.returncode == 0, done.stderr
    for line in (
        "total in EUR: 158.0",
        "value: 132.72",
        "receipt: 132.72 GBP",
        "called convert {'amount': 158.0, 'currency': 'GBP'}",
    ):
        assert line in done.stdout
    assert "no price: 'sofa'\n" in done.stdout
    assert "refused: price(): argument 'item': Input should be a valid string; got 12" in done.stdout


def test_async_sessions(clone: Path) -> None:
    done = shell(next(c for c in COMMANDS if "async_sessions" in c), clone)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5 and lines[3] == "seed 3: TimeoutError: the step ran longer than 1 s (Limits.time)"
    for seed in (0, 1, 2, 4):
        numbers = [(seed * 7919 + n * n) % 1000 for n in range(100)]
        assert lines[seed] == f"seed {seed}: {round(sum(numbers) / 100, 2)}"
