"""A stateful machine over Executor and Session: steps, tools, variables, files, interrupts and ends, in any order and from several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from safeexec import Executor, Limits, NotSupported, Policy, SafeExecError, Session, SessionBusy, SessionClosed

PATIENCE = 30.0
"""Seconds for what must come to an end by itself."""


class Model:
    """What a session must know."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.names: dict[str, int] = {}
        self.closed = False
        self.calls: list[int] = []


class Sessions(RuleBasedStateMachine):
    """Each rule compares a real session with its model. `executor` is set by :func:`machine`."""

    executor: Executor
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.models: list[Model] = []

    def teardown(self) -> None:
        for model in self.models:
            model.session.close()

    @precondition(lambda self: sum(not m.closed for m in self.models) < 4)
    @rule(target=sessions, start=st.dictionaries(st.sampled_from("xyz"), st.integers(-9, 9), max_size=2))
    def open(self, start: dict[str, int]) -> Model:
        calls: list[int] = []

        def note(n: int) -> int:
            calls.append(n)
            return n + 1

        model = Model(self.executor.session([note], variables=start))
        model.names.update(start)
        model.calls = calls
        self.models.append(model)
        return model

    @rule(model=sessions, name=st.sampled_from("xyz"), number=st.integers(-99, 99))
    def assign(self, model: Model, name: str, number: int) -> None:
        if self._refused(model, lambda: model.session.run("1")):
            return
        result = model.session.run(f"{name} = {number}\n{name} * 2")
        assert result.ok and result.value == number * 2, result
        model.names[name] = number

    @rule(model=sessions, name=st.sampled_from("xyz"))
    def read(self, model: Model, name: str) -> None:
        if self._refused(model, lambda: model.session.run(name)):
            return
        result = model.session.run(name)
        if name in model.names:
            assert result.value == model.names[name], (result, model.names)
            assert model.session.variables[name] == model.names[name]
        else:
            assert result.error is not None and result.error.type == "NameError"

    @rule(model=sessions, name=st.sampled_from("xyz"), number=st.integers(0, 9))
    def set_from_host(self, model: Model, name: str, number: int) -> None:
        if not model.closed:
            model.session.variables[name] = number
            model.names[name] = number

    @rule(model=sessions, number=st.integers(0, 99))
    def call_tool(self, model: Model, number: int) -> None:
        if self._refused(model, lambda: model.session.run("1")):
            return
        result = model.session.run(f"note({number})")
        assert result.value == number + 1 and model.calls[-1] == number
        assert [call.tool for call in result.tool_calls] == ["note"]

    @rule(model=sessions)
    def fail(self, model: Model) -> None:
        if self._refused(model, lambda: model.session.run("1")):
            return
        result = model.session.run("print('before')\n1 / 0")
        assert result.error is not None and result.error.type == "ZeroDivisionError" and result.stdout == "before\n"

    @rule(model=sessions)
    def interrupt(self, model: Model) -> None:
        if not model.closed:
            result = self._during(model, model.session.interrupt)
            assert result is not None and result.error is not None and result.error.type == "KeyboardInterrupt", result
            model.closed = model.session.closed

    @rule(model=consumes(sessions))
    def close_while_running(self, model: Model) -> None:
        if not model.closed:
            self._during(model, model.session.close)
            model.closed = True
            assert model.session.closed

    @rule(model=consumes(sessions))
    def kill_while_running(self, model: Model) -> None:
        if not model.closed:
            self._during(model, model.session.kill)
            model.closed = True
            assert model.session.closed

    @rule(model=sessions)
    def busy(self, model: Model) -> None:
        """A second step from another thread is refused, and harms nothing."""
        if model.closed:
            return
        refused: list[bool] = []

        def second() -> None:
            try:
                model.session.run("1")
            except SessionBusy:
                refused.append(True)
            model.session.interrupt()

        self._during(model, second)
        assert refused == [True]
        model.closed = model.session.closed

    @rule(target=sessions, model=sessions)
    def fork(self, model: Model) -> Any:
        if model.closed or sum(not m.closed for m in self.models) >= 4:
            return multiple()
        try:
            branch = model.session.fork()
        except NotSupported:
            return multiple()
        copy = Model(branch)
        copy.names = dict(model.names)
        copy.calls = model.calls
        self.models.append(copy)
        return copy

    @rule(model=sessions)
    def close(self, model: Model) -> None:
        model.session.close()
        model.session.close()
        model.closed = True

    @invariant()
    def sessions_say_whether_they_are_open(self) -> None:
        for model in self.models:
            assert model.session.closed == model.closed and bool(model.session)

    def _refused(self, model: Model, action: Callable[[], object]) -> bool:
        if not model.closed:
            return False
        try:
            action()
        except SessionClosed:
            return True
        raise AssertionError("a closed session took a step")

    def _during(self, model: Model, action: Callable[[], object]) -> Any:
        """Run an endless step, and `action` from another thread once it is under way. Its result, or None when the session ended."""
        begun = threading.Event()
        trouble: list[BaseException] = []

        def other() -> None:
            try:
                if begun.wait(PATIENCE):
                    action()
            except BaseException as error:  # shown by the test, in its own thread
                trouble.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        try:
            return model.session.run("print('begun')\nwhile True:\n    pass", on_output=lambda _: begun.set())
        except SafeExecError:
            return None
        finally:
            thread.join(PATIENCE)
            assert not thread.is_alive() and not trouble, trouble


def machine(executor: Executor) -> type[Sessions]:
    """The machine over an executor whose steps may run for some seconds."""
    return type("SessionsOf" + executor.sandbox.title(), (Sessions,), {"executor": executor})


def policy() -> Policy:
    """A policy under which nothing ends by itself while the machine looks."""
    return Policy(limits=Limits(time=60.0))
