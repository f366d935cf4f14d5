"""``safeexec serve``, used by E2B's own client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from safeexec.cli.main import main
from tests.remote.conftest import KEY

COMMAND = [sys.executable, "-m", "tests.cli.launch", "serve", "--sandbox", "plain", "--port", "0"]


@contextmanager
def serving(*arguments: str, lines: int = 3, **env: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The command, and the variables that it printed."""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, **env})
    try:
        assert process.stdout is not None
        printed = [process.stdout.readline().strip().partition("=") for _ in range(lines)]
        yield process, {name: value for name, _, value in printed}
    finally:
        process.terminate()
        rest, _ = process.communicate(timeout=20)
        assert rest == ""


def test_e2bs_client_works_with_what_was_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    from e2b_code_interpreter import Sandbox

    with serving("--tool", "textwrap:dedent") as (process, printed):
        for name, value in printed.items():
            monkeypatch.setenv(name, value)
        with Sandbox.create(envs={"PLACE": "here"}) as sandbox:
            assert sandbox.run_code("x = 6 * 7\nx").text == "42"
            assert sandbox.run_code("dedent('  x')").text == "'x'"
            assert sandbox.run_code("import os\nos.environ['PLACE']").text == "'here'"
            sandbox.files.write("data.txt", "kept")
            assert sandbox.run_code("open('data.txt').read()").text == "'kept'"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143


def test_a_key_of_ones_own_is_asked_for_and_not_printed() -> None:
    with serving(lines=2, SAFEEXEC_KEY=KEY) as (process, printed):
        assert set(printed) == {"E2B_API_URL", "E2B_SANDBOX_URL"}
        for key, status in ((KEY, 200), (KEY[:-1], 401), ("", 401)):
            request = urllib.request.Request(printed["E2B_API_URL"] + "/sandboxes", headers={"X-API-Key": key})
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    got = answer.status
            except urllib.error.HTTPError as error:
                got = error.code
            assert got == status
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_keys_that_are_made_up_differ() -> None:
    with serving() as (_, one), serving() as (_, other):
        assert one["E2B_API_KEY"] != other["E2B_API_KEY"] and len(one["E2B_API_KEY"]) == 44


def test_there_are_no_more_sandboxes_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from e2b import RateLimitException
    from e2b_code_interpreter import Sandbox

    with serving("--most", "1") as (_, printed):
        for name, value in printed.items():
            monkeypatch.setenv(name, value)
        with Sandbox.create():
            with pytest.raises(RateLimitException):
                Sandbox.create()


def test_what_cannot_be_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as (_, printed):
        port = printed["E2B_API_URL"].rpartition(":")[2]
        assert main(["serve", "--sandbox", "local", "--port", port]) == 2
        assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    assert main(["serve", "--save-files", "x"]) == 2
    assert "files API" in capsys.readouterr().err
    assert main(["serve", "--key", "schlüssel"]) == 2
    assert "ASCII" in capsys.readouterr().err
    assert main(["serve", "--host", "no such host", "--sandbox", "local"]) == 2
    assert "cannot listen on no such host" in capsys.readouterr().err
    assert main(["serve", "--most", "0"]) == 2
    assert main(["serve", "--sandbox", "nowhere"]) == 4
    assert main(["serve", "--sandbox", "local", "--tool", "math:hypot"]) == 2
    assert "wrap it in a function" in capsys.readouterr().err
