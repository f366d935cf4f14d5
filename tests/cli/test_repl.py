from __future__ import annotations

from pathlib import Path

import pytest

from safeexec.cli.repl import complete
from tests.cli.conftest import Command


@pytest.mark.parametrize(
    "source",
    [
        "x = 1", "f(1)", "await f()", "for i in x:\n  i\n", "def f():\n  return 1\nf()", "x =", "else:", "f(]", "'abc",
        "# comment", "  x", "x = 1;", "'''a\n\nb'''", "\0", "if x: y\n", "a = [\n1,\n]", "(" * 5000 + "]", "-" * 10**6 + "1", "\udcff", "async def f(): pass\n",
    ],
)  # fmt: skip
def test_complete(source: str) -> None:
    assert complete(source)


@pytest.mark.parametrize(
    "source",
    [
        "if x:", "if x:\n  y", "if x: y", "for i in x: i", "def f(", "'''abc", "f'''abc", "x = 1 + \\", "try:\n  x", "@d",
        "class A:", "(1,\n", "async def f():", "match x:", "with a as b:\n  pass\n  pass", "if x:\n  y\nelse:", "[\n\n",
    ],
)  # fmt: skip
def test_incomplete(source: str) -> None:
    assert not complete(source)


def test_plain_lines_in_and_out(cli: Command) -> None:
    script = b"""x = 2
x
def f(n):
    return n + x

f(40)
import asyncio; await asyncio.sleep(0, 'slept')
print('no end', end='')
None
'''two
lines'''
"""
    ran = cli("repl", stdin=script)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "2\n42\n'slept'\nno end\n'two\\nlines'\n"


def test_errors_do_not_end_it(cli: Command) -> None:
    ran = cli("repl", stdin=b"x = 1\n1/0\nx =\nx\n")
    assert (ran.code, ran.out) == (0, "1\n")
    assert "ZeroDivisionError" in ran.err and "SyntaxError" in ran.err


def test_an_unfinished_block_at_the_end_is_run(cli: Command) -> None:
    assert cli("repl", stdin=b"for i in range(2):\n    print(i)").out == "0\n1\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [(b"exit()", 0), (b"exit", 0), (b"quit\n1/0", 0), (b"exit(0)", 0), (b"raise SystemExit(3)", 1), (b"quit('x')", 1)],
)
def test_exit_ends_it(cli: Command, code: bytes, expected: int) -> None:
    ran = cli("repl", stdin=code + b"\nprint('not reached')\n")
    assert (ran.code, ran.out) == (expected, "")


def test_a_lost_session_is_replaced_and_said(cli: Command) -> None:
    Path("data").write_text("1")
    ran = cli(
        "repl", "--timeout", "0.5", "--file", "data", stdin=b"x = 1\nwhile True: pass\n\nopen('data').read()\nx\n"
    )
    assert ran.code == 0
    assert "the session was lost with that step" in ran.err
    assert ran.out == "'1'\n"
    assert "NameError" in ran.err


def test_files_are_saved_step_by_step(cli: Command) -> None:
    code = b"class P: _repr_png_ = lambda self: b'PNG'\n\ndisplay(P())\nopen('a', 'w').write('1')\ndisplay(P())\n"
    ran = cli("repl", "--save-files", "out", stdin=code)
    assert ran.code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a", "display-1.png", "display-2.png"]


def test_bytes_that_are_no_text_do_not_end_it(cli: Command) -> None:
    ran = cli("repl", stdin=b"print('\xff')\nprint(1)\n")
    assert (ran.code, ran.out) == (0, "1\n")
    assert "not valid Unicode" in ran.err
