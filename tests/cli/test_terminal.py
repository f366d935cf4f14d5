"""At a real terminal: a pseudo-terminal with the command as its session's leader."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safeexec.testing.base import eventually
from tests.cli.conftest import ROOT

pty = pytest.importorskip("pty", reason="n/a: the system has no pseudo-terminals")

_STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?2004[hl]")


_LEAD = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal the session's own, so that Ctrl-C typed there is a signal."""


class Terminal:
    """One command at a terminal."""

    def __init__(self, *args: str) -> None:
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
            "HOME": str(Path.cwd()),
            "LC_ALL": "C.UTF-8",
        }
        env.pop("NO_COLOR", None)
        env.pop("XDG_STATE_HOME", None)
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LEAD, sys.executable, "-m", "tests.cli.launch", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
            start_new_session=True,
        )
        os.close(theirs)
        self.pid = self._process.pid
        self._text = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._at = 0

    def _read(self, deadline: float) -> bool:
        """Some more text; False at the end."""
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._fd], [], [], left)[0]:
            raise AssertionError(f"nothing more came after {self._text[self._at :]!r}")
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self._text += self._decode(data)
        return bool(data)

    def until(self, pattern: str, timeout: float = 30) -> str:
        """What came up to `pattern`, and the match, since the last call."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self._text[self._at :])):
            if not self._read(deadline):
                raise AssertionError(f"{pattern!r} did not come, but {self._text[self._at :]!r}")
        start, self._at = self._at, self._at + match.end()
        return self._text[start : self._at]

    def end(self, timeout: float = 30) -> tuple[int, str]:
        """Exit code, and what came since the last call."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        return self._process.wait(timeout), self._text[self._at :]

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def enter(self, line: str) -> str:
        """Type a line at a prompt; what came before the next prompt, styles and the echo aside."""
        self.type(line + "\r")
        seen = _STYLE.sub("", self.until(r"(?:>>>|\.\.\.) (?:\x1b\[\?2004h)?$"))
        return (
            re.sub(r"(?:>>>|\.\.\.) $", "", seen)
            .replace("\r\n", "\n")
            .removeprefix(line)
            .lstrip("\r")
            .removeprefix("\n")
        )

    def interrupt_prompt(self) -> None:
        """Ctrl-C at the prompt. One that comes while Python's line editor handles another key waits for the next key: press it again."""
        for _ in range(10):
            self.type("\x03")
            try:
                self.until("KeyboardInterrupt", timeout=2)
            except AssertionError:
                continue
            self.until(">>> ")
            return
        raise AssertionError("Ctrl-C at the prompt does nothing")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)


Spawn = Callable[..., Terminal]


@pytest.fixture
def at_terminal() -> Iterator[Spawn]:
    opened: list[Terminal] = []

    def spawn(*args: str) -> Terminal:
        opened.append(Terminal(*args))
        return opened[-1]

    yield spawn
    for terminal in opened:
        terminal.close()


def children_of(pid: int) -> list[int]:
    """Process ids of the living children of a process."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except FileNotFoundError:
        return []


def test_output_and_values_cannot_act(at_terminal: Spawn) -> None:
    code, seen = at_terminal(
        "run", "-c", "print('\\x1b]52;c;aGk=\\x07[red]x[/red]\\u202e\\x9b2J'); print('a\\r'); 'v\\x1b[31m'"
    ).end()
    assert code == 0
    assert seen == "\\x1b]52;c;aGk=\\x07[red]x[/red]\\u202e\\x9b2J\r\na\r\n'v\\x1b[31m'\r\n"


def test_errors_are_coloured_and_cannot_act(at_terminal: Spawn) -> None:
    program = (
        "E = type('[b]\\x1b]0;t\\x07', (Exception,), {})\nraise E('\\x1b]8;;http://evil\\x07[link=http://x]y[/link]')"
    )
    code, seen = at_terminal("run", "-c", program).end()
    assert code == 1
    assert "\x1b[1;31m[b]\\x1b]0;t\\x07" in seen
    assert "\\x1b]8;;http://evil\\x07[link=http://x]y[/link]\r\n" in seen
    assert not {"\x1b", "\x07"} & set(_STYLE.sub("", seen))


def test_ctrl_c_interrupts_keeps_the_output_and_leaves_nothing(at_terminal: Spawn) -> None:
    program = "import time\ntry:\n    print('begin')\n    time.sleep(60)\nfinally:\n    print('cleaned up')"
    terminal = at_terminal("run", "-c", program)
    terminal.until("begin")
    guests = children_of(terminal.pid)
    assert len(guests) == 1
    terminal.type("\x03")
    code, seen = terminal.end()
    assert code == 130
    assert "cleaned up\r\n" in seen and "KeyboardInterrupt" in seen
    assert not Path(f"/proc/{guests[0]}").exists()


def test_ctrl_c_ends_a_program_that_does_not_obey(at_terminal: Spawn) -> None:
    program = "import time\nwhile True:\n    try:\n        print('begin')\n        time.sleep(60)\n    except BaseException: pass"
    terminal = at_terminal("run", "--timeout", "100", "-c", program)
    terminal.until("begin")
    terminal.type("\x03")
    code, seen = terminal.end()
    assert code == 130 and "did not stop by itself" in seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_leaves_nothing(at_terminal: Spawn, number: signal.Signals) -> None:
    terminal = at_terminal("run", "--timeout", "100", "-c", "print('begin')\nimport time\ntime.sleep(60)")
    terminal.until("begin")
    guests = children_of(terminal.pid)
    assert len(guests) == 1
    os.kill(terminal.pid, number)
    code, _ = terminal.end()
    assert code == 128 + number
    assert not Path(f"/proc/{guests[0]}").exists()


def test_ctrl_c_with_json_is_a_document(at_terminal: Spawn) -> None:
    terminal = at_terminal("run", "--json", "--save-files", "out", "-c", "open('f', 'w').write('x')\nwhile True: pass")
    assert eventually(lambda: bool(children_of(terminal.pid)))
    with pytest.raises(AssertionError, match="nothing more came"):
        terminal.until("never", timeout=1.0)  # nothing is shown while it runs
    terminal.type("\x03")
    code, seen = terminal.end()
    assert code == 130
    assert '"exit_code": 130' in seen and '"interrupted": true' in seen and "KeyboardInterrupt" in seen


def test_a_session(at_terminal: Spawn) -> None:
    repl = at_terminal("repl", "--timeout", "5")
    assert "sandbox plain" in repl.until(">>> ")
    assert repl.enter("1 + 1") == "2\n"
    assert repl.enter("x = 'é'") == ""
    assert repl.enter("x") == "'é'\n"
    assert repl.enter("for i in range(2):") == ""
    assert repl.enter("    print(i)") == ""
    assert repl.enter("") == "0\n1\n"
    assert repl.enter("import asyncio; await asyncio.sleep(0, 'awaited')") == "'awaited'\n"
    assert repl.enter("print('no end', end='')") == "no end\n"
    assert "ZeroDivisionError: division by zero\n" in repl.enter("1 / 0")
    assert repl.enter("print('\\x1b[2J')") == "\\x1b[2J\n"
    repl.type("half a line")
    repl.until("half a line")
    repl.interrupt_prompt()
    assert repl.enter("x") == "'é'\n"
    repl.type("print('begin'); import time; time.sleep(4)\r")
    repl.until("begin\r\n")
    repl.type("\x03")
    assert "KeyboardInterrupt" in repl.until(">>> ")
    assert repl.enter("x") == "'é'\n", "an interrupted step leaves the session as it is"
    seen = repl.enter("import os; os._exit(3)")
    assert "the session was lost with that step" in seen
    assert "NameError" in repl.enter("x")
    repl.type("\x04")
    assert repl.end()[0] == 0


def test_the_history_is_kept_for_the_user_alone(at_terminal: Spawn) -> None:
    pytest.importorskip("readline", reason="n/a: a Python without readline")
    repl = at_terminal("repl")
    repl.until(">>> ")
    repl.enter("remembered = 1")
    repl.type("\x04")
    assert repl.end()[0] == 0
    history = Path(".local/state/safeexec/history")
    assert "remembered = 1\n" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
    again = at_terminal("repl")
    again.until(">>> ")
    again.type("\x1b[A")
    again.until("remembered = 1")
    again.type("\r")
    again.until(">>> ")
    again.type("exit(3)\r")
    assert again.end()[0] == 1


def test_nothing_to_run_at_a_terminal_is_wrong_usage(at_terminal: Spawn) -> None:
    code, seen = at_terminal("run").end()
    assert code == 2 and "safeexec repl" in seen
