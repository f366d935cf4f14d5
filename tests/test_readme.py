"""README.md says nothing that does not hold: its snippets run, its tables are the code's."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from safeexec import DEFAULT_IMPORTS, Executor, Limits, Policy
from safeexec.registry import BACKENDS, entry_points
from tests.support.markdown import ROOT, Block, blocks, commands, table

pytestmark = pytest.mark.timeout(300)  # the first to need the wasm sandbox's image builds it

README = ROOT / "README.md"
PYTHON = blocks(README, "python")
CONSOLE = [(command, output) for block in blocks(README, "console") for command, output in commands(block.text)]


def with_checks(source: str) -> str:
    """The snippet with each ``expression  # -> text`` turned into an assertion that the expression's repr is the text."""
    checked, count = re.subn(
        r"^(\s*)(.+?)  # -> (.+)$", lambda m: f"{m[1]}_check({m[2]}, {m[3]!r})", source, flags=re.MULTILINE
    )
    assert count == source.count("# -> ")
    return checked


def check(value: object, text: str) -> None:
    assert repr(value) == text


def shell(command: str, folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the README as its reader would, with the commands of this environment first on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, **extra, "PATH": path}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"line {block.line}")
def test_snippet(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "# -> " in block.text, "a snippet that claims nothing tests nothing"
    exec(compile(with_checks(block.text), f"README.md, block at line {block.line}", "exec"), {"_check": check})


def test_a_snippet_that_claims_something_false_would_fail() -> None:
    with pytest.raises(AssertionError):
        exec(with_checks("1 + 1  # -> 3\n"), {"_check": check})


@pytest.mark.parametrize(("command", "output"), CONSOLE)
def test_console_line(command: str, output: str, tmp_path: Path) -> None:
    done = shell(command, tmp_path)
    assert done.stdout == output, done.stderr


def test_the_main_command_does_the_main_job(tmp_path: Path) -> None:
    (block,) = (b for b in blocks(README, "sh") if b.section == "Try it")
    *setup, run = block.text.strip().split(" && ")
    assert setup == ["python3 -m venv .venv", ".venv/bin/pip install -q ."]  # a fresh clone runs these
    done = shell(run.replace(".venv/bin/safeexec", "safeexec"), ROOT)
    assert done.returncode == 0, done.stderr
    assert "orders kept" in done.stdout and "best month" in done.stdout


@pytest.mark.slow
def test_the_main_command_sets_everything_up_in_a_fresh_clone(tmp_path: Path) -> None:
    (block,) = (b for b in blocks(README, "sh") if b.section == "Try it")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=60)
    path = os.pathsep.join([str(Path(sys.base_prefix) / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", block.text],
        cwd=clone,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "orders kept" in done.stdout


def test_ci_finds_one_test_command() -> None:
    (block,) = (b for b in blocks(README, "sh") if b.section == "Tests")
    assert block.text.count("\n") == 1
    script = (ROOT / ".ci" / "run").read_text()
    function = re.search(r"^readme_test_command\(\) \{\n.*?^\}\n", script, re.MULTILINE | re.DOTALL)
    assert function is not None
    done = shell(function[0] + "readme_test_command", ROOT)
    assert done.stdout == block.text


def test_the_table_of_limits_is_that_of_the_code() -> None:
    documented = {row[0].strip("`"): float(row[1]) for row in table(README, "`Limits`")}
    assert documented == dataclasses.asdict(Limits())


def test_the_table_of_sandboxes_marks_those_that_are_installed() -> None:
    marked = {row[0].split()[0].strip("`") for row in table(README, "sandbox") if row[-1].startswith("yes")}
    own = {name for name, point in entry_points(BACKENDS).items() if point.value.startswith("safeexec_backends.")}
    assert marked == own


def test_the_walls_in_security_md_are_those_that_are_reported() -> None:
    documented = [row[0].strip("`") for row in table(ROOT / "SECURITY.md", "wall")]
    with Executor("local", policy=Policy(require=())) as executor:
        assert documented == list(executor.isolation)
    with Executor("local", policy=Policy(require=(), imports=(*DEFAULT_IMPORTS, "numpy.*"))) as executor:
        assert not executor.isolation["language"].active, "SECURITY.md says that it is not a wall then"


CODES = {
    0: "safeexec run -c 1 --sandbox local",
    1: "safeexec run -c 1/0 --sandbox local",
    2: "safeexec run -c 1 --sandbox local --memory much",
    3: "safeexec run -c 'while True: pass' --sandbox local --timeout 0.3",
    4: "safeexec run -c 1 --sandbox nowhere",
    141: "safeexec run -c 'print(900_000 * chr(120))' --sandbox local | true; exit ${PIPESTATUS[0]}",
}
ELSEWHERE = {130, 143}
"""Held by the tests of the command line, which press Ctrl-C on a terminal and send signals."""


@pytest.mark.parametrize("code", CODES)
def test_exit_code(code: int, tmp_path: Path) -> None:
    assert {int(row[0]) for row in table(README, "exit code")} == CODES.keys() | ELSEWHERE
    done = shell(CODES[code], tmp_path)
    assert done.returncode == code, done.stderr


def test_an_unavailable_sandbox_is_an_error_that_says_so(tmp_path: Path) -> None:
    done = shell(CODES[4], tmp_path)
    assert "nowhere" in done.stderr and "local" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


MAP = {
    "How a step travels": "safeexec",
    "The `local` sandbox, in": "backends/safeexec_backends",
    "The `wasm` sandbox, in": "backends/safeexec_backends/wasm",
    "The `docker` sandbox, in": "backends/safeexec_backends/docker",
    "The sandboxes at a vendor, in": "backends/safeexec_backends/_remote",
    "The agent, in": "agent/safeexec_agent",
    "The harness, in": "fuzz/safeexec_fuzz",
}


@pytest.mark.parametrize("start", MAP)
def test_the_map_of_the_house_names_what_is_there_and_all_of_it(start: str) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().partition(start)[2]
    folder = ROOT / MAP[start]
    rows = text.partition("| file |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([\w/*]+(?:\.py|/))`(?=[^|\n]*\|[^|\n]*\|)", rows))
    assert len(named) > 5
    for name in named:
        assert (folder / name).exists(), name
    room = folder / "local" if "`local`" in start else folder
    for path in room.iterdir():
        if path.is_dir() and not (path / "__init__.py").exists():
            continue  # data, caches
        if path.name == "__init__.py" or path.suffix not in ("", ".py"):
            continue
        name = path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "")
        assert name in named, f"{name} is not on the map in CONTRIBUTING.md"


@pytest.mark.parametrize(
    "document",
    ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/decisions.md", "examples/README.md"],
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
