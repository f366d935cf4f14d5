from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Command

SLOW = "import time; time.sleep(0.6); 'done'"


def test_options_win_over_environment_over_files(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("safeexec.toml").write_text("timeout = 0.2\n")
    assert cli("run", "-c", SLOW).code == 3
    monkeypatch.setenv("SAFEEXEC_TIMEOUT", "5")
    assert cli("run", "-c", SLOW).out == "done\n"
    assert cli("run", "--timeout", "0.2", "-c", SLOW).code == 3


def test_pyproject_is_read_and_safeexec_toml_comes_first(cli: Command) -> None:
    Path("pyproject.toml").write_text("[tool.safeexec]\ntimeout = 0.2\n")
    assert cli("run", "-c", SLOW).code == 3
    Path("safeexec.toml").write_text("output-limit = '10K'\n")
    assert cli("run", "-c", SLOW).code == 0


@pytest.mark.parametrize(
    "text", ["[project]\nname = 'x'\n", "[tool.other]\nsafeexec = 1\n", "tool = 3\nx = 'safeexec'\n"]
)
def test_other_peoples_pyproject_does_not_matter(cli: Command, text: str) -> None:
    Path("pyproject.toml").write_text(text)
    assert cli("run", "-c", "1").out == "1\n"


def test_a_found_file_may_choose_a_sandbox_of_this_machine(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFEEXEC_SANDBOX")
    monkeypatch.setattr("safeexec.cli.config.FOUND_SANDBOXES", ("plain",))
    Path("pyproject.toml").write_text("[tool.safeexec]\nsandbox = 'plain'\n")
    assert cli("run", "--json", "-c", "1").json["sandbox"] == "plain"


def test_who_chose_a_sandbox_that_is_not_there_is_said(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*arguments: str) -> str:
        ran = cli("run", *arguments, "-c", "1")
        assert ran.code == 4 and "there is no sandbox 'papyrus'" in ran.err
        return ran.err

    monkeypatch.setenv("SAFEEXEC_SANDBOX", "papyrus")
    assert "(sandbox 'papyrus' is chosen by the environment variable SAFEEXEC_SANDBOX)" in said()
    assert "chosen by" not in said("--sandbox", "papyrus")
    monkeypatch.delenv("SAFEEXEC_SANDBOX")
    Path("mine.toml").write_text("sandbox = 'papyrus'\n")
    assert "(sandbox 'papyrus' is chosen by mine.toml)" in said("--config", "mine.toml")
    monkeypatch.setattr("safeexec.cli.config.FOUND_SANDBOXES", ("papyrus",))
    Path("mine.toml").rename("safeexec.toml")
    assert "chosen by safeexec.toml" in said()
    Path("safeexec.toml").write_text("sandbox = 'wasm\\u001b]0;x\\u0007'\n")
    ran = cli("run", "--config", "safeexec.toml", "-c", "1")
    assert ran.code == 4 and "chosen by safeexec.toml" in ran.err and "\x1b" not in ran.err


REFUSED = {
    "code of the host": "tool = ['my_evil:f']",
    "no walls": "allow-weak = true",
    "no walls, spelt otherwise": "allow_weak = true",
    "host files": "file = ['/etc/passwd']",
    "imports": "allow-import = ['os']",
    "packages": "package = ['evil']",
    "the network": "allow-net = ['evil.test']",
    "the network, spelt otherwise": "allow_net = ['*']",
    "where to write": "save-files = '/'",
    "someone else's machine": "sandbox = 'e2b'",
    "any installed package": "sandbox = 'thirdparty'",
    "host memory": "memory = '1T'",
    "host time": "timeout = 100000",
    "host disk": "output-limit = '10G'",
}


@pytest.mark.parametrize("name", ["safeexec.toml", "pyproject.toml"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_checkout_cannot_weaken_the_sandbox(cli: Command, case: str, name: str) -> None:
    Path("my_evil.py").write_text("open('PWNED', 'w')\ndef f(): pass\n")
    Path(name).write_text(("[tool.safeexec]\n" if name == "pyproject.toml" else "") + REFUSED[case] + "\n")
    for command in (["run", "-c", "1"], ["repl"]):
        ran = cli(*command)
        assert ran.code == 2
        assert ran.out == ""
        assert ran.err.startswith(f"safeexec: error: {name}: a file that was merely found may ")
        assert ran.err.count("\n") == 1 and "--config" in ran.err
    assert not Path("PWNED").exists()


def test_no_config_is_read_at_the_users_word(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("safeexec.toml").write_text("tool = ['my_evil:f']\n")
    assert cli("run", "--config", "none", "-c", "1").code == 0
    monkeypatch.setenv("SAFEEXEC_CONFIG", "none")
    assert cli("run", "-c", "1").code == 0


def test_a_file_that_the_user_names_may_set_everything(cli: Command) -> None:
    Path("helpers_of_mine.py").write_text("def answer(): return 42\n")
    Path("data.txt").write_text("text")
    Path("mine.toml").write_text(
        "tool = ['helpers_of_mine:answer']\nfile = ['data.txt']\ntimeout = 1000\nallow-weak = true\nsave-files = 'kept'\n"
    )
    ran = cli("run", "--config", "mine.toml", "-c", "open('made', 'w').write('x'); answer(), open('data.txt').read()")
    assert (ran.code, ran.out) == (0, "(42, 'text')\n")
    assert Path("kept/made").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("timeout = 'x'", "timeout 'x' is not a number of seconds"),
        ("timeout = true", "not a number of seconds"),
        ("timeout = nan", "not a number of seconds"),
        ("memory = 1.5", "is not a size"),
        ("sandbox = 1", "must be a name"),
        ("tiemout = 1", "there is no setting 'tiemout'; there are: sandbox, timeout"),
        ("output-limit = 1\noutput_limit = 2", "is set twice"),
        ("memory = 5", "safeexec.toml: memory 5 is 5 bytes, less than 1.0 MiB"),
        ("[tool.safeexec]\ntimeout = 2", "settings stand at its top"),
        ("tool = 'x'", "tool must be a list"),
        ("a =", "not valid TOML"),
        ('"\\u001b]0;x\\u0007" = 1', "there is no setting '\\x1b]0;x\\x07'"),
        ("x = " + "[" * 5000, "not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_harmless_line(cli: Command, text: str, words: str) -> None:
    Path("safeexec.toml").write_text(text)
    ran = cli("run", "-c", "1")
    assert ran.code == 2 and ran.out == ""
    assert ran.err.count("\n") == 1 and words in ran.err
    assert "\x1b" not in ran.err and "\x07" not in ran.err


def test_odd_files_under_the_name_do_not_hang(cli: Command) -> None:
    os.mkfifo("safeexec.toml")
    assert "not a regular file" in cli("run", "-c", "1").err
    os.unlink("safeexec.toml")
    os.mkdir("safeexec.toml")
    assert "not a regular file" in cli("run", "-c", "1").err
    os.rmdir("safeexec.toml")
    Path("safeexec.toml").write_bytes(b"#" * (2**20 + 1))
    assert "larger than 1 MiB" in cli("run", "-c", "1").err
    Path("safeexec.toml").write_bytes(b"\xff\xfe")
    assert "not valid TOML" in cli("run", "-c", "1").err


@pytest.mark.parametrize(
    ("name", "value", "code", "words"),
    [
        ("SAFEEXEC_TIMEOUT", "soon", 2, "SAFEEXEC_TIMEOUT"),
        ("SAFEEXEC_MEMORY", "12", 2, "SAFEEXEC_MEMORY"),
        ("SAFEEXEC_SANDBOX", "nosuch", 4, "nosuch"),
        ("SAFEEXEC_TOOL", "json:loads x", 2, "'x' is not of the form"),
        ("SAFEEXEC_FILE", "/etc/hostname:/nope", 2, "/nope does not exist"),
    ],
)
def test_a_wrong_environment_is_one_line(
    cli: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: int, words: str
) -> None:
    monkeypatch.setenv(name, value)
    ran = cli("run", "-c", "1")
    assert ran.code == code and words in ran.err and ran.err.count("\n") == 1


def test_weak_walls_by_the_environment(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("run", "--sandbox", "broken", "-c", "1").code == 4
    assert cli("run", "--sandbox", "broken", "--allow-weak", "-c", "1").out == "1\n"
    monkeypatch.setenv("SAFEEXEC_ALLOW_WEAK", "1")
    assert cli("run", "--sandbox", "broken", "-c", "1").out == "1\n"


@pytest.mark.parametrize(
    "text", ["[tool.safeexec]\n%s = 1\n", "safeexec.%s = 1\n", "x = {safeexec = 1, %s = 1}\n", "[safeexec.%s]\n"]
)
def test_a_key_that_would_take_the_parser_for_ever_is_refused(cli: Command, text: str) -> None:
    Path("pyproject.toml").write_text(text % ".".join(["a"] * 3000))
    ran = cli("run", "-c", "1")
    assert ran.code == 2 and "more than 500 dots" in ran.err and "--config none" in ran.err
    assert cli("run", "--config", "none", "-c", "1").out == "1\n"
