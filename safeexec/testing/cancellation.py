"""A step that is interrupted, closed or killed ends; the session is consistent afterwards, or says that it is closed."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from safeexec.result import Result
from safeexec.session import Session
from safeexec.testing.base import PATIENCE, Base, assert_closed


class Running:
    """A step under way in a thread; made when its first output has come.

    `code` is run after a line that prints ``begun``, or prints it itself.
    """

    def __init__(self, session: Session, code: str) -> None:
        self.result: Result | None = None
        self.error: BaseException | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(session, code))
        self._thread.start()
        assert self._begun.wait(PATIENCE)

    def _main(self, session: Session, code: str) -> None:
        try:
            announced = code if "print('begun')" in code else "print('begun')\n" + code
            self.result = session.run(announced, on_output=lambda _: self._begun.set())
        except BaseException as error:
            self.error = error
        finally:
            self._begun.set()

    def end(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the step did not end"
        return self.result


class Cancellation(Base):
    @pytest.mark.parametrize(
        "code", ["while True:\n    pass", "import time\ntime.sleep(60)", "import asyncio\nawait asyncio.sleep(60)"]
    )
    def test_interrupt_ends_the_step(self, code: str) -> None:
        with self.session(time=30) as session:
            session.run("kept = 1")
            running = Running(session, code)
            session.interrupt()
            result = running.end()
            assert result.error is not None and result.error.type == "KeyboardInterrupt", result.error
            assert result.error.kind == "exception" and result.stdout == "begun\n"
            if session.closed:
                assert_closed(session)
            else:
                assert session.run("kept").value == 1

    def test_interrupt_ends_a_step_that_waits_for_a_tool(self) -> None:
        release, entered = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            release.wait(PATIENCE)

        with self.session([hold], time=30) as session:
            try:
                running = Running(session, "hold()")
                assert entered.wait(PATIENCE)
                session.interrupt()
                result = running.end()
                assert result.error is not None and result.error.type == "KeyboardInterrupt"
                assert [c.tool for c in result.tool_calls] == ["hold"]
                self.usable(session)
            finally:
                release.set()

    def test_interrupt_ends_code_that_catches_everything(self) -> None:
        code = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
        with self.session(time=30) as session:
            running = Running(session, code)
            session.interrupt()
            result = running.end()
            assert result.error is not None
            self.usable(session)

    def test_interrupt_of_an_idle_session_does_nothing(self) -> None:
        with self.session() as session:
            session.interrupt()
            assert session.run("1").value == 1
            session.interrupt()
            assert session.run("2").value == 2

    @pytest.mark.parametrize("end", ["close", "kill"])
    def test_ending_a_session_ends_its_step(self, end: str) -> None:
        session = self.session(time=30)
        running = Running(session, "while True:\n    pass")
        getattr(session, end)()
        result = running.end()
        assert result is not None and result.error is not None and result.error.kind == "crash"
        assert_closed(session)
        getattr(session, end)()

    def test_many_interrupts(self) -> None:
        with self.session(time=30) as session:
            running = Running(session, "while True:\n    pass")
            for _ in range(20):
                session.interrupt()
            assert running.end().error is not None
            self.usable(session)

    def test_finally_runs_when_interrupted(self) -> None:
        with self.session(time=30) as session:
            running = Running(
                session, "try:\n    print('begun')\n    while True:\n        pass\nfinally:\n    print('cleaned')"
            )
            session.interrupt()
            result = running.end()
            assert session.closed or result.stdout == "begun\ncleaned\n"
