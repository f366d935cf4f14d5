"""The guest's failures are results: kind, type, message, the user's own lines."""

from __future__ import annotations

import pytest

from safeexec.errors import ExecutionError
from safeexec.testing.base import Base


class Errors(Base):
    def test_exception_is_a_result(self) -> None:
        result = self.run("x = 1\nraise ValueError('the message')")
        assert not result.ok and result.value is None
        assert result.error is not None
        assert (result.error.kind, result.error.type, result.error.message) == (
            "exception",
            "ValueError",
            "the message",
        )
        assert result.error.line == 2
        with pytest.raises(ExecutionError, match="ValueError: the message"):
            result.raise_for_error()

    def test_output_before_a_failure_is_kept(self) -> None:
        result = self.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 / 0")
        assert result.stdout == "out\n" and result.stderr == "err\n"
        assert result.error is not None and result.error.type == "ZeroDivisionError"

    def test_traceback_shows_only_the_users_lines(self) -> None:
        with self.session() as session:
            session.run("# first\n\ndef inner(d):\n    return d['missing']\n")
            result = session.run("def outer():\n    return inner({})\n\nouter()\n")
            assert result.error is not None
            lines = [line.strip() for line in result.error.traceback.splitlines()]
            assert 'File "<step 2>", line 4, in <module>' in lines
            assert 'File "<step 2>", line 2, in outer' in lines
            assert 'File "<step 1>", line 4, in inner' in lines
            assert "return d['missing']" in lines
            assert lines[-1] == "KeyError: 'missing'"
            assert sum(line.startswith("File ") for line in lines) == 3
            assert result.error.line == 2

    def test_traceback_shows_causes(self) -> None:
        code = "try:\n    int('x')\nexcept ValueError as e:\n    raise RuntimeError('wrapped') from e"
        error = self.run(code).error
        assert error is not None and error.type == "RuntimeError" and error.line == 4
        assert "ValueError: invalid literal" in error.traceback
        assert "direct cause" in error.traceback
        assert error.traceback.index("line 2") < error.traceback.index("line 4")

    def test_syntax_error_points_at_the_column(self) -> None:
        error = self.run("ok = 1\nfoo = (1,\n  bar bar)\n").error
        assert error is not None and (error.kind, error.type) == ("exception", "SyntaxError")
        assert error.line in (2, 3)
        lines = error.traceback.splitlines()
        assert any(line.strip(" ~^") == "" and "^" in line for line in lines), error.traceback
        assert "<step 1>" in error.traceback and error.traceback.count("File ") == 1

    def test_syntax_error_runs_nothing(self) -> None:
        result = self.run("print('never')\nx = = 1")
        assert result.stdout == "" and result.error is not None and result.error.type == "SyntaxError"

    @pytest.mark.parametrize(
        ("code", "message"), [("raise SystemExit(3)", "3"), ("import sys; sys.exit('bye')", "bye"), ("exit()", "0")]
    )
    def test_exit_is_told_apart(self, code: str, message: str) -> None:
        with self.session() as session:
            session.run("kept = 5")
            error = session.run(code).error
            assert error is not None and (error.kind, error.message) == ("exit", message)
            assert session.run("kept").value == 5

    def test_state_survives_an_exception(self) -> None:
        with self.session() as session:
            session.run("a = 1")
            session.run("a = 2\nb = 3\n1 / 0")
            assert session.run("(a, b)").value == (2, 3)

    def test_huge_message_is_cut(self) -> None:
        result = self.run("raise ValueError('y' * 5_000_000)")
        assert result.error is not None and result.error.type == "ValueError"
        assert len(result.error.message) <= 400_000 and len(result.error.traceback) <= 400_000
        assert result.error.message.startswith("yyy")

    @pytest.mark.parametrize("method", ["__str__", "__repr__"])
    def test_hostile_exception_text_is_survived(self, method: str) -> None:
        code = f"class E(Exception):\n    def {method}(self):\n        raise RuntimeError('no text')\nraise E()"
        with self.session() as session:
            error = session.run(code).error
            assert error is not None and (error.kind, error.type, error.line) == ("exception", "E", 4)
            assert session.run("1").value == 1

    def test_endless_recursion_is_survived(self) -> None:
        with self.session() as session:
            error = session.run("def f(n):\n    return f(n + 1)\nf(0)").error
            assert error is not None
            assert error.type == "RecursionError" or error.kind in ("crash", "memory")
            assert len(error.traceback) < 400_000
            self.usable(session)

    def test_text_that_is_not_unicode_is_survived(self) -> None:
        with self.session() as session:
            error = session.run("raise ValueError('\\ud800 lone')").error
            assert error is not None and (error.type, error.message) == ("ValueError", "\ud800 lone")
            session.run("globals()['\\udfff'] = 1")
            assert not session.closed and set(session.variables) <= {"\udfff"}
            assert session.run("'fine'").value == "fine"

    def test_message_of_digits_or_brackets_is_text(self) -> None:
        with self.session() as session:
            for text in ("7" * 9000, "[" * 9000, '"' * 9000, "\\" * 9001, ",{" * 9000):
                session.variables["t"] = text
                error = session.run("raise ValueError(t)").error
                assert error is not None and (error.type, error.message) == ("ValueError", text)

    def test_code_of_digits_is_code(self) -> None:
        assert self.value(f"x = '{'8' * 20_000}'\nlen(x)") == 20_000

    def test_deep_source_is_survived(self) -> None:
        with self.session() as session:
            for code in (
                "(" * 5000 + ")" * 5000,
                "-" * 20_000 + "1",
                "[" * 300 + "]" * 300,
                "x = " + "+".join(["1"] * 20_000),
            ):
                result = session.run(code)
                assert result.ok or result.error is not None
                if session.closed:
                    break
            self.usable(session)

    def test_name_error_names_the_name(self) -> None:
        error = self.run("undefined_thing").error
        assert error is not None and error.type == "NameError" and "undefined_thing" in error.message

    def test_code_that_is_not_unicode_or_has_null_is_an_error_not_a_crash(self) -> None:
        with self.session() as session:
            for code in ("'\ud800'", "x = '\0'"):
                error = session.run(code).error
                assert error is not None and error.kind == "exception" and error.type in ("SyntaxError", "ValueError")
            assert session.run("'fine'").value == "fine"

    def test_input_is_refused_clearly(self) -> None:
        error = self.run("input('name? ')").error
        assert error is not None and "input" in error.message
        asked = self.run("try:\n    input('name? ')\nexcept EOFError:\n    print('nobody')")
        assert asked.stdout == "name? nobody\n"

    def test_a_debugger_is_refused_clearly(self) -> None:
        result = self.run("print('before')\nbreakpoint()")
        assert result.error is not None and "print what you want to see" in result.error.message
        assert result.stdout == "before\n"
