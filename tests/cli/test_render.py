from __future__ import annotations

import io
import re
from typing import Any

import pytest

from safeexec import Array, Display, FileInfo, GuestError, Opaque, Output, Result, Table
from safeexec.cli import values
from safeexec.cli.render import Screen

HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;aGk=\x1b\\",
    "link": "\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\",
    "8-bit": "\x9b31m\x9d0;t\x9c",
    "cursor": "ok\rFAKE\x08\x08\x0b\x0c",
    "device": "\x1bP$q\x1b\\\x05\x0e\x0f\x00\x7f",
    "bidi": "\u202eevil\u2066\u200f\u061c",
    "separators": "a\u2028b\u2029c\x85d",
    "tags": "\U000e0041\ufeff\u00ad",
    "surrogate": "\ud800",
}
_ACTS = re.compile("[^\\n\\t -~\xa1-\xac\xae-\u0600…]")
_OURS = re.compile(r"\x1b\[(?:1|2|31|33|36|1;31)m|\x1b\[0m")


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        raw = self.detach()
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode()


def shown(result: Result, pieces: tuple[Output, ...] = (), **settings: Any) -> str:
    out, err = Terminal(), Terminal()
    screen = Screen(out, err)
    for piece in pieces:
        screen.output(piece)
    screen.step(result, **{"saves": False, **settings})
    return out.text() + err.text()


def everywhere(text: str) -> tuple[Result, tuple[Output, ...]]:
    trace = f'Traceback (most recent call last):\n  File "<step 1>", line 1, in {text}\n    {text}\n    ^^^\n{text}: {text}\n'
    result = Result(
        value=[Opaque(text, text), Opaque(text, text)],
        error=GuestError("exception", text, text, trace, 1),
        displays=(
            Display({"text/plain": text}),
            Display({"text/html": text, "image/png": text.encode("utf-8", "replace")}),
        ),
        files=(FileInfo(text, 1),),
        truncated=True,
    )
    return result, (Output(text, "stdout"), Output(text, "stderr"))


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_a_sandbox_says_acts_on_a_terminal(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = HOSTILE[case]
    result, pieces = everywhere(text)
    assert _ACTS.search(shown(result, pieces, name="x.py")) is None
    for kind in ("time", "exit", "policy", "crash"):
        assert _ACTS.search(shown(Result(error=GuestError(kind, text, text)))) is None
    for value in (Opaque(text, text), Table({text: [text]}, [text]), {"k": Opaque(text, text)}, text):
        assert _ACTS.search(shown(Result(value=value), as_repr=True)) is None


@pytest.mark.parametrize("case", HOSTILE)
def test_colours_are_ours_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def escapes(text: str) -> int:
        seen = shown(*everywhere(text))
        assert _ACTS.search(_OURS.sub("", seen)) is None
        return seen.count("\x1b")

    assert escapes(HOSTILE[case]) == escapes("harmless")


def test_markup_is_text() -> None:
    text = "[red]x[/red] [link=http://evil]y[/link] :smile: [/]"
    benign = "x" * len(text)
    result, pieces = everywhere(text)
    seen = _OURS.sub("", shown(result, pieces))
    assert seen.replace(text, benign) == _OURS.sub("", shown(*everywhere(benign)))


def test_a_line_end_in_two_pieces_stays_one_and_a_lone_return_is_shown() -> None:
    out = Terminal()
    screen = Screen(out, Terminal())
    for piece in ("a\r", "\nb\r", "c\r"):
        screen.output(Output(piece, "stdout"))
    screen.out.fresh()
    assert out.text() == "a\nb\\x0dc\\x0d\n"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", ""), ("TERM", "dumb")])
def test_colours_can_be_refused(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in shown(Result(error=GuestError("time", "T", "m")))
    monkeypatch.setenv(variable, value)
    assert "\x1b" not in shown(Result(error=GuestError("time", "T", "m")))


def test_a_terminal_that_cannot_show_a_character_gets_an_escape() -> None:
    out = Terminal()
    out.reconfigure(encoding="ascii")
    Screen(out, None).value("é")
    assert out.text() == "'\\xe9'\n"


def test_hints_quote_nothing_of_the_program() -> None:
    error = GuestError("policy", "ImportError", "Import of 'evil' is not allowed")
    seen = shown(Result(error=error))
    assert "--allow-import M " in seen and "--allow-import evil" not in seen


@pytest.mark.parametrize(
    ("kind", "said"),
    [("FileNotFoundError", "--file PATH"), ("URLError", "--allow-net HOST"), ("gaierror", "--allow-net HOST")],
)
def test_what_is_missing_in_a_sandbox_is_said_to_be_given_to_it(kind: str, said: str) -> None:
    assert f"{said} " in shown(Result(error=GuestError("exception", kind, "evil")))
    assert "hint" not in shown(Result(error=GuestError("exception", "Evil" + kind, "evil")))


def test_a_module_that_is_missing_but_allowed_is_not_to_be_allowed() -> None:
    seen = shown(Result(error=GuestError("exception", "ModuleNotFoundError", "No module named 'numpy'")))
    assert "--package P " in seen and "--allow-import" not in seen


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            GuestError("exception", "JSONDecodeError", "bad", "Traceback (m\njson.decoder.JSONDecodeError: bad\n"),
            "Traceback (m\njson.decoder.JSONDecodeError: bad\n",
        ),
        (
            GuestError("policy", "ImportError", "no:\nthat", "Traceback (m\n  x\nours.Refused: no:\nthat\n"),
            "Traceback (m\n  x\nImportError: no:\nthat\n",
        ),
        (
            GuestError("time", "TimeoutError", "late", "T\nKeyboardInterrupt\n"),
            "T\nKeyboardInterrupt\nTimeoutError: late\n",
        ),
        (GuestError("crash", "Crash", ""), "Crash\n"),
        (
            GuestError(
                "exception", "ExceptionGroup", "g (1 sub-exception)", "  + Exception Group\n  | ExceptionGroup: g\n"
            ),
            "  + Exception Group\n  | ExceptionGroup: g\n",
        ),
    ],
)
def test_an_error_is_named_once(error: GuestError, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(Result(error=error)).startswith(expected)
    assert shown(Result(error=error)).count(error.type) == expected.count(error.type)


def test_a_huge_error_is_cut() -> None:
    assert len(shown(Result(error=GuestError("exception", "E", "x" * 400_000, "y" * 400_000)))) < 200_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\n", r"'a\n'"),
        ([10**5000], f"[{hex(10**5000)}]"),
        ({(1, 10**5000)}, f"{{(1, {hex(10**5000)})}}"),
        (Opaque("T", "<T object>"), "<T object>"),
        (
            Array("<i8", (2, 2), b"".join(n.to_bytes(8, "little") for n in (1, 2, 3, 4))),
            "array([[1, 2], [3, 4]], dtype='<i8')",
        ),
        (Array(">u2", (), b"\1\0"), "array(256, dtype='>u2')"),
        (Array("|b1", (2,), b"\1\0"), "array([True, False], dtype='|b1')"),
        (Array("<f8", (2**47, 2**47, 0), b""), "array([], shape=(140737488355328, 140737488355328, 0), dtype='<f8')"),
        (Array("|u1", (10**6,), bytes(10**6)), "array of shape (1000000,), dtype '|u1' (1000000 bytes)"),
        (Array("<U1", (1,), b"a\0\0\0"), "array of shape (1,), dtype '<U1' (4 bytes)"),
        (
            Table({"n": Array("<i8", (2,), bytes(16)), "s": ["a", "b\n"]}, ["x", "y"]),
            "   n    s\nx  0    a\ny  0  b\\n\n[2 rows x 2 columns]",
        ),
        (Table({}), "\n[0 rows x 0 columns]"),
    ],
)
def test_values_read_as_at_pythons_prompt(value: Any, expected: str) -> None:
    assert values.text(value) == expected


def test_a_long_or_ragged_table_is_shown_in_part() -> None:
    table = Table({"a": list(range(10_000)), "b": [1], "c": Array("<i8", (10_000,), bytes(80_000)), "d": 5})
    text = values.text(table)
    assert text.endswith("[10000 rows x 4 columns, not all shown]") and text.count("\n") == 21
