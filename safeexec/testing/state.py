"""A session is one namespace that lives from step to step."""

from __future__ import annotations

import threading

import pytest

from safeexec.errors import PolicyError, SessionBusy
from safeexec.testing.base import PATIENCE, Base, assert_closed


class State(Base):
    def test_names_live_from_step_to_step(self) -> None:
        with self.session() as session:
            session.run("import math\nx = 2\ndef double(n):\n    return n * 2\nclass C:\n    y = 3")
            assert session.run("double(x) + C.y + math.floor(1.5)").value == 8
            session.run("del x")
            assert session.run("x").error is not None

    def test_last_expression_is_the_value(self) -> None:
        with self.session() as session:
            assert session.run("y = 1\ny + 1").value == 2
            assert session.run("y = 5").value is None
            assert session.run("for i in range(3):\n    i").value is None
            assert session.run("# only a comment").value is None

    def test_variables_are_a_mapping(self) -> None:
        with self.session(variables={"a": 1}) as session:
            variables = session.variables
            assert variables["a"] == 1 and "a" in variables and "b" not in variables
            variables["b"] = [2]
            variables.update(c=3, d=4)
            assert session.run("b + [c, d]").value == [2, 3, 4]
            assert set(variables) == {"a", "b", "c", "d"} and len(variables) == 4
            del variables["a"]
            assert session.run("a").error is not None
            assert variables.get("a", "gone") == "gone"
            for missing in ("a", "never"):
                with pytest.raises(KeyError, match=missing):
                    variables[missing]
                with pytest.raises(KeyError, match=missing):
                    del variables[missing]

    def test_variable_names_are_checked(self) -> None:
        with self.session() as session:
            for name in ("not a name", "", "a.b", "1x"):
                with pytest.raises(PolicyError):
                    session.variables[name] = 1
            assert session.run("1").value == 1

    def test_top_level_await(self) -> None:
        with self.session() as session:
            session.run("import asyncio\nasync def f(n):\n    await asyncio.sleep(0)\n    return n * 2")
            assert session.run("await f(21)").value == 42
            assert session.run("r = [await f(i) for i in range(3)]\nr").value == [0, 2, 4]
            assert session.run("asyncio.run(f(4))").value == 8

    def test_one_step_at_a_time(self) -> None:
        entered, release = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            assert release.wait(PATIENCE)

        with self.session([hold]) as session:
            thread = threading.Thread(target=session.run, args=("hold()",))
            thread.start()
            try:
                assert entered.wait(PATIENCE)
                with pytest.raises(SessionBusy):
                    session.run("1")
                with pytest.raises(SessionBusy):
                    session.variables["x"]
            finally:
                release.set()
                thread.join(PATIENCE)
            assert not thread.is_alive()
            assert session.run("2").value == 2

    def test_closed_session_says_so(self) -> None:
        session = self.session()
        session.close()
        session.close()
        assert_closed(session)

    def test_session_and_executor_are_truthy(self) -> None:
        with self.session() as session:
            assert bool(session) and bool(session.variables) and bool(self.executor)

    def test_many_steps(self) -> None:
        with self.session(variables={"n": 0}) as session:
            for _ in range(100):
                session.run("n += 1")
            assert session.variables["n"] == 100

    def test_main_idiom_runs(self) -> None:
        assert self.run("if __name__ == '__main__':\n    print('main')").stdout == "main\n"

    def test_long_code(self) -> None:
        code = "\n".join(f"v{i} = {i}" for i in range(5000)) + "\nv4999"
        assert self.value(code) == 4999
