"""Output arrives while the code runs, in order, and is cut at its limit."""

from __future__ import annotations

import threading

import pytest

from safeexec.step import Output
from safeexec.testing.base import PATIENCE, Base


class Streaming(Base):
    def test_output_is_captured_apart(self) -> None:
        result = self.run(
            "import sys\nprint('a', 1)\nprint('b', file=sys.stderr)\nsys.stdout.write('c')\nprint('d', end='')"
        )
        assert result.ok and result.stdout == "a 1\ncd" and result.stderr == "b\n"

    def test_streams_are_set_as_a_programs_own_are(self) -> None:
        result = self.run(
            """
import io, sys
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(encoding="utf-8", line_buffering=True)
    print(stream.encoding, stream.errors, stream.line_buffering, stream.newlines, stream.mode)
    for wrong in ({"encoding": "latin-1"}, {"newline": "\\r\\n"}, {"encoding": "no such"}, {"errors": "no such"}, {"other": 1}):
        try: stream.reconfigure(**wrong)
        except (io.UnsupportedOperation, LookupError, TypeError) as error: print(type(error).__name__)
try: print("\\ud800")
except UnicodeEncodeError: print("strict")
sys.stdout.reconfigure(errors="replace")
print("\\ud800", "é", sys.stdout.errors)
"""
        )
        refused = ["UnsupportedOperation", "UnsupportedOperation", "LookupError", "LookupError", "TypeError"]
        assert result.ok, result.error
        assert result.stdout.splitlines() == ["utf-8 strict True None w", *refused] * 2 + ["strict", "? é replace"]

    def test_print_stands_in_a_class_as_ever(self) -> None:
        result = self.run("class Job:\n    report = print\nJob().report('a', 1, sep='-')")
        assert result.ok and result.stdout == "a-1\n"

    def test_pieces_arrive_in_order_while_the_code_runs(self) -> None:
        pieces: list[Output] = []
        seen = threading.Event()
        released: list[bool] = []

        def on_output(piece: Output) -> None:
            pieces.append(piece)
            seen.set()

        def wait() -> None:
            # Answers only when the piece printed before the call has been handed on: were output held back, this would time out.
            released.append(seen.wait(PATIENCE))

        with self.session([wait]) as session:
            result = session.run(
                "import sys\nprint('first')\nwait()\nprint('second', file=sys.stderr)\nprint('third')",
                on_output=on_output,
            )
        assert result.ok and released == [True]
        assert "".join(p for p in pieces if p.stream == "stdout") == "first\nthird\n"
        assert "".join(p for p in pieces if p.stream == "stderr") == "second\n"
        assert "".join(pieces) == "first\nsecond\nthird\n"

    def test_output_is_cut_at_the_limit(self) -> None:
        result = self.run("for i in range(100):\n    print('z' * 99)", output=1000)
        assert result.truncated and result.ok
        assert len(result.stdout) == 1000 and result.stdout.startswith("zzz")

    def test_streams_are_capped_apart(self) -> None:
        code = "import sys\nprint('a' * 5000)\nprint('b' * 700, file=sys.stderr)"
        result = self.run(code, output=1000)
        assert result.truncated and len(result.stdout) == 1000 and result.stderr == "b" * 700 + "\n"

    def test_limit_counts_bytes_and_cuts_no_character_in_half_badly(self) -> None:
        result = self.run("print('é' * 2000)", output=999)
        assert result.truncated and len(result.stdout.encode()) <= 1002
        assert result.stdout.rstrip("�") == "é" * 499

    def test_flood_is_ended(self) -> None:
        with self.session(output=10_000, time=20) as session:
            result = session.run("while True:\n    print('flood' * 1000)")
            assert result.error is not None and result.error.kind in ("output", "time") and result.truncated
            assert len(result.stdout) <= 10_000
            self.usable(session)

    def test_each_step_has_its_own_output(self) -> None:
        with self.session() as session:
            assert session.run("print('one')").stdout == "one\n"
            assert session.run("print('two')").stdout == "two\n"
            assert session.run("3").stdout == ""

    def test_any_text_survives(self) -> None:
        text = "naïve ☃ 🎉 \x1b[31m \0 \r\n \u202e tab\t"
        result = self.run("import sys\nsys.stdout.write(t)", variables={"t": text})
        assert result.stdout == text

    def test_lone_surrogate_does_not_end_the_step(self) -> None:
        result = self.run("print('\\ud800')\nprint('after')")
        assert result.ok and result.stdout.endswith("after\n")

    def test_what_the_callback_raises_ends_the_step_and_is_raised(self) -> None:
        class Mine(Exception):
            pass

        def on_output(piece: Output) -> None:
            raise Mine

        with self.session(time=20) as session:
            with pytest.raises(Mine):
                session.run("print('x')\nwhile True:\n    pass", on_output=on_output)
            self.usable(session)

    def test_print_has_its_usual_arguments(self) -> None:
        result = self.run("print(1, 'b', None, sep='-', end='!', flush=True)\nprint()\nprint(*range(3))")
        assert result.stdout == "1-b-None!\n0 1 2\n"

    def test_print_writes_to_a_programs_own_file_piece_by_piece(self) -> None:
        """As everywhere: whoever stands in for a file sees each object, and what is between them, by itself."""
        code = (
            "class Tee:\n    def __init__(self):\n        self.got = []\n    def write(self, text):\n        self.got.append(text)\n"
            "    def flush(self):\n        self.got.append(None)\n"
            "tee = Tee()\nprint('a', 1, file=tee, flush=True)\nprint('b', end='', file=tee)\ntee.got"
        )
        assert self.run(code).value == ["a", " ", "1", "\n", None, "b", ""]
