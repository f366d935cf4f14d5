from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import click
import pytest

import safeexec.cli.main
import safeexec.cli.setup
from tests.cli.conftest import Command


def modules_after(code: str) -> set[str]:
    """What is imported after `code` ran in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('\\n' + ' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_help_imports_no_command() -> None:
    seen = modules_after("from safeexec.cli.main import main\nmain(['--help'])")
    assert not seen & {f"safeexec.cli.{name}" for name in ("run", "repl", "doctor")}


def test_run_imports_only_what_it_needs() -> None:
    seen = modules_after("from safeexec.cli.main import main\nmain(['run', '--sandbox', 'nosuch_sandbox', '-c', '1'])")
    assert "safeexec.cli.run" in seen
    assert not seen & {
        "safeexec.cli.repl", "safeexec.cli.doctor", "safeexec.cli.document", "rich", "pydantic", "asyncio", "tomllib",
        "platformdirs", "wasmtime", "RestrictedPython", "numpy",
    }  # fmt: skip


def test_help_lists_the_commands_and_the_exit_codes(cli: Command) -> None:
    for args in (["--help"], ["-h"]):
        ran = cli(*args)
        assert ran.code == 0
        for word in ("run", "repl", "doctor", "Exit codes:", "130", "141"):
            assert word in ran.out
    assert cli("run", "--help").code == 0
    assert cli("--version").out == f"safeexec, version {safeexec.__version__}\n"


@pytest.mark.parametrize("command", ["mcp", "serve"])
def test_what_a_server_refuses_it_does_not_offer(cli: Command, command: str) -> None:
    assert "--save-files" in cli("run", "--help").out
    assert "--save-files" not in cli(command, "--help").out
    ran = cli(command, "--save-files", "out")
    assert ran.code == 2 and "clients read files" in ran.err


def test_no_command_shows_the_help_and_is_wrong_usage(cli: Command) -> None:
    ran = cli()
    assert (ran.code, ran.out) == (2, "")
    assert "Commands:" in ran.err


def test_every_command_that_comes_with_safeexec_says_what_it_does(cli: Command) -> None:
    assert "From package safeexec" not in cli("--help").out


def test_setup_without_a_sandbox_shows_what_there_is(cli: Command) -> None:
    ran = cli("setup")
    assert (ran.code, ran.out) == (2, "")
    assert "\nCommands:\n" in ran.err and "\n  wasm " in ran.err


def test_setup_shows_the_others_where_one_cannot_be_loaded(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> Any:
        raise ImportError("No module named 'docker'")

    monkeypatch.setitem(safeexec.cli.setup.entry_points("safeexec.setup"), "docker", point(explode))
    for args, code in ((["setup", "--help"], 0), (["setup"], 2)):
        ran = cli(*args)
        text = " ".join((ran.out + ran.err).split())
        assert ran.code == code and " wasm Fetch Pyodide" in text
        assert "docker Not here: " in text and "pip install 'safeexec[docker]'" in text
    assert cli("setup", "docker").code == 4


def point(load: Any) -> Any:
    return SimpleNamespace(
        load=load,
        value="other_package.cli:command",
        module="other_package.cli",
        dist=SimpleNamespace(name="other-package"),
    )


def test_other_packages_add_commands(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    @click.command("extra")
    @click.argument("word")
    def extra(word: str) -> int:
        click.echo(f"extra {word}")
        return 7

    def load() -> Any:
        loaded.append("extra")
        return extra

    def explode() -> Any:
        raise RuntimeError("broken \x1b[31m\npackage")

    points = {"extra": point(load), "bad": point(explode), "odd": point(lambda: 5), "run": point(explode)}
    monkeypatch.setattr(safeexec.cli.main, "entry_points", lambda group: points)
    listed = cli("--help")
    assert "extra" in listed.out and "other-package" in listed.out
    assert listed.out.count("\n  run ") == 1
    assert loaded == []
    ran = cli("extra", "word")
    assert (ran.code, ran.out, loaded) == (7, "extra word\n", ["extra"])
    bad = cli("bad")
    assert bad.code == 4 and bad.err.count("\n") == 1 and "broken \\x1b[31m package" in bad.err
    assert cli("odd").code == 4
    assert cli("run", "-c", "1").out == "1\n", "nobody replaces our own commands"


@pytest.mark.parametrize(("group", "begun"), [("", "r"), ("setup", "w")])
def test_what_cannot_be_loaded_is_no_completion_and_spoils_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], group: str, begun: str
) -> None:
    """The shell would show a traceback at every press of the key."""

    def explode() -> Any:
        raise ImportError("No module named 'other'")

    there = safeexec.cli.setup.entry_points("safeexec.setup")
    points = {**there, "rotten": point(explode), "wrong": point(lambda: 5)}
    for module in (safeexec.cli.main, safeexec.cli.setup):
        monkeypatch.setattr(module, "entry_points", lambda name: points)
    words = ["safeexec", *group.split(), begun]
    for name, value in (
        ("_SAFEEXEC_COMPLETE", "bash_complete"),
        ("COMP_WORDS", " ".join(words)),
        ("COMP_CWORD", str(len(words) - 1)),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        safeexec.cli.main.main([])
    shown = capsys.readouterr()
    assert ended.value.code == 0 and shown.err == ""
    assert shown.out.split() == (["plain,wasm"] if group else ["plain,run", "plain,repl"])
