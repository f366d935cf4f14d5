"""What a failure looks like: the user's own lines with the right numbers, none of ours, and never more than a bounded amount."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import safeexec
from safeexec import Executor, GuestError, Session
from tests.support.plain import PlainBackend

OURS = str(Path(safeexec.__file__).parent)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(PlainBackend()) as made:
        yield made


@pytest.fixture
def session(executor: Executor) -> Iterator[Session]:
    with executor.session() as made:
        yield made


def fail(session: Session, code: str) -> GuestError:
    error = session.run(code).error
    assert error is not None
    assert OURS not in error.traceback and "guest.py" not in error.traceback and "safeexec" not in error.traceback
    return error


def frames(error: GuestError) -> list[str]:
    return [line.strip() for line in error.traceback.splitlines() if line.strip().startswith("File ")]


def test_lines_are_right_over_several_steps(session: Session) -> None:
    session.run("def first():\n    # comment\n    raise KeyError('deep')")
    session.run("\n\n\ndef second():\n    return first()")
    error = fail(session, "x = 1\n\ny = [second() for _ in range(3)]")
    assert frames(error)[0] == 'File "<step 3>", line 3, in <module>'
    assert frames(error)[-2:] == ['File "<step 2>", line 5, in second', 'File "<step 1>", line 3, in first']
    assert "raise KeyError('deep')" in error.traceback and "return first()" in error.traceback
    assert error.line == 3


def test_long_sessions_still_show_their_lines(session: Session) -> None:
    for _ in range(50):
        session.run("pass")
    error = fail(session, "def f():\n    1 / 0\nf()")
    assert (
        frames(error) == ['File "<step 51>", line 3, in <module>', 'File "<step 51>", line 2, in f'] and error.line == 2
    )


def test_library_frames_stay_ours_do_not(session: Session) -> None:
    error = fail(session, "import json\njson.loads('{')")
    assert error.type == "JSONDecodeError" and error.line == 2
    assert frames(error)[0] == 'File "<step 1>", line 2, in <module>'
    assert any("json" in frame for frame in frames(error)[1:])


def test_top_level_await_shows_no_event_loop(session: Session) -> None:
    error = fail(session, "async def f():\n    raise ValueError('x')\nawait f()")
    assert frames(error) == ['File "<step 1>", line 3, in <module>', 'File "<step 1>", line 2, in f']


def test_tool_failure_shows_the_call_only(executor: Executor) -> None:
    def tool() -> None:
        raise ValueError("from the host")

    with executor.session([tool]) as session:
        error = fail(session, "a = 1\ntool()")
        assert frames(error) == ['File "<step 1>", line 2, in <module>']
        error = fail(session, "await tool.aio()")
        assert frames(error) == ['File "<step 2>", line 1, in <module>']


def test_generated_and_evaluated_code(session: Session) -> None:
    error = fail(session, "exec('a = 1\\nb = 1 / 0')")
    assert error.type == "ZeroDivisionError" and error.line == 1
    assert 'File "<string>", line 2, in <module>' in frames(error)


@pytest.mark.parametrize(
    ("code", "line", "caret"),
    [
        ("x = 1\ny = = 2", 2, 4),
        ("def f(:\n    pass", 1, 6),
        ("if True:\nx = 1", 2, 0),
        ("print('unclosed", 1, 6),
        ("a b", 1, 2),
        ("return 5", 1, 0),
    ],
)
def test_syntax_errors_point_at_the_place(session: Session, code: str, line: int, caret: int) -> None:
    error = fail(session, code)
    assert error.type in ("SyntaxError", "IndentationError") and error.line == line
    assert frames(error) == [f'File "<step 1>", line {line}']
    shown = error.traceback.splitlines()
    place = next(i for i, text in enumerate(shown) if text.strip() and set(text.strip()) == {"^"})
    assert shown[place - 1].strip() == code.splitlines()[line - 1].strip()
    assert len(shown[place]) - len(shown[place].lstrip()) - 4 == caret


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("before", ["", "x = 'a\x0cb\u2028c\x1e'\r\n", "x = 1\x0c\ry = 2\r"])
def test_carets_stand_below_what_failed(session: Session, before: str, end: str) -> None:
    """Also in a last line without an end, and below what str.splitlines takes for more lines than the compiler does."""
    shown = fail(session, f"{before}print(1 + missing){end}").traceback.splitlines()
    place = shown.index("    print(1 + missing)")
    assert shown[place + 1] == "              ^^^^^^^"


def test_chains_and_groups_are_shown_without_our_frames(session: Session) -> None:
    error = fail(session, "try:\n    {}['a']\nexcept KeyError:\n    int('b')")
    assert "During handling of the above exception" in error.traceback and error.line == 4
    error = fail(session, "try:\n    {}['a']\nexcept KeyError as e:\n    raise TypeError('t') from e")
    assert "direct cause" in error.traceback
    error = fail(session, "raise ExceptionGroup('many', [ValueError('one'), ExceptionGroup('in', [TypeError('two')])])")
    assert (
        error.type == "ExceptionGroup" and "ValueError: one" in error.traceback and "TypeError: two" in error.traceback
    )
    error = fail(session, "e = ValueError('self')\ne.__cause__ = e\nraise e")
    assert error.type == "ValueError"


def test_notes_are_shown(session: Session) -> None:
    error = fail(session, "e = ValueError('x')\ne.add_note('remember this')\nraise e")
    assert "remember this" in error.traceback


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('m' * 30_000_000)",
        "e = ValueError('x')\nfor i in range(3000):\n    e.add_note('n' * 1000)\nraise e",
        "raise ExceptionGroup('g', [ValueError('v' * 1000) for _ in range(2000)])",
        "def f(n):\n    try:\n        raise ValueError(n)\n    except ValueError:\n        if n:\n            f(n - 1)\n        raise\nf(150)",
        "def f(n):\n    return f(n + 1)\nf(0)",
        "x = '" + "y" * 200_000 + "' + 1",
        "class E(Exception):\n    pass\nE.__name__ = E.__qualname__ = 'N' * 1_000_000\nraise E",
    ],
    ids=lambda c: c[:24],
)
def test_text_of_an_error_is_bounded(session: Session, code: str) -> None:
    error = session.run(code).error
    assert error is not None
    assert len(error.message) <= 20_000 and len(error.traceback) <= 51_000 and len(error.type) <= 400
    assert session.run("1").value == 1


HOSTILE = [
    "class E(Exception):\n    def __str__(self): raise ValueError",
    "class E(Exception):\n    def __str__(self): raise KeyboardInterrupt",
    "class E(Exception):\n    def __str__(self): raise SystemExit",
    "class E(Exception):\n    def __str__(self): return 5",
    "class E(Exception):\n    def __repr__(self): raise ValueError",
    "class E(Exception):\n    @property\n    def __class__(self): raise ValueError",
    "class E(Exception):\n    @property\n    def __traceback__(self): return 5",
    "class E(Exception):\n    @property\n    def __cause__(self): raise ValueError",
    "class E(Exception):\n    @property\n    def __notes__(self): raise ValueError",
    "class E(Exception):\n    __notes__ = 5",
    "class E(SyntaxError):\n    lineno = 'x'\n    offset = object()\n    text = 5",
    "class E(SyntaxError):\n    lineno = -5\n    filename = 7",
    "class E(SyntaxError):\n    lineno = 10**100",
    "class E(ImportError):\n    @property\n    def name(self): raise ValueError",
    "class E(BaseException):\n    pass",
    "class E(SystemExit):\n    @property\n    def code(self): raise ValueError",
    "class M(type):\n    __name__ = property(lambda c: 5)\nclass E(Exception, metaclass=M):\n    pass",
    "class M(type):\n    def __mro__(c): raise ValueError\n    def __subclasscheck__(c, o): raise ValueError\nclass E(Exception, metaclass=M):\n    pass",
    "class E(Exception):\n    __module__ = 5",
    "class E(GeneratorExit):\n    pass",
    "class E(MemoryError):\n    def __str__(self): raise MemoryError",
]


@pytest.mark.parametrize("definition", HOSTILE, ids=lambda d: d.replace("\n", " ")[:60])
def test_hostile_exceptions_end_their_step_and_nothing_else(session: Session, definition: str) -> None:
    result = session.run(f"print('before')\n{definition}\nraise E()")
    assert result.error is not None and result.stdout == "before\n"
    assert result.error.kind in ("exception", "exit", "memory")
    assert type(result.error.message) is str and type(result.error.traceback) is str
    if result.error.kind != "memory":
        assert session.run("1").value == 1


@pytest.mark.parametrize(("code", "kind", "message"), [("exit()", "exit", "0"), ("quit(4)", "exit", "4"), ("raise SystemExit('text')", "exit", "text"), ("raise SystemExit", "exit", "0"), ("raise KeyboardInterrupt", "exception", ""), ("raise MemoryError('m')", "memory", "m")])  # fmt: skip
def test_kinds(session: Session, code: str, kind: str, message: str) -> None:
    error = session.run(code).error
    assert error is not None and (error.kind, error.message) == (kind, message)


def test_a_deep_recursion_shows_where_it_began(session: Session) -> None:
    error = fail(session, "def down(n):\n    return down(n + 1)\n\ndef begin():\n    return down(0)\nbegin()")
    assert error.type == "RecursionError"
    assert frames(error)[:3] == [
        'File "<step 1>", line 6, in <module>',
        'File "<step 1>", line 5, in begin',
        'File "<step 1>", line 2, in down',
    ]
    assert "[Previous line repeated" in error.traceback
    assert len(error.traceback.splitlines()) < 30


@pytest.mark.parametrize("depth", [190, *range(194, 214), 300])
def test_a_long_traceback_has_each_frame_once(session: Session, depth: int) -> None:
    """Its beginning and its end do not overlap."""
    source = "".join(f"def f{n}(): return f{n + 1}()\n" for n in range(depth)) + f"def f{depth}(): 1 / 0\nf0()"
    shown = frames(fail(session, source))
    assert shown[0].endswith("in <module>") and shown[1].endswith("in f0") and shown[-1].endswith(f"in f{depth}")
    assert len(set(shown)) == len(shown) >= min(depth + 2, 200)
