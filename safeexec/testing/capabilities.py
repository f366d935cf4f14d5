"""What not every sandbox can do: tested where it is declared, refused clearly elsewhere."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from safeexec.errors import NotSupported, PolicyError
from safeexec.result import Result
from safeexec.testing.base import Base

_STATE = """
import json, sys
x = [1]
def numbers():
    for n in range(100):
        yield n
g = numbers()
next(g)
with open('a.txt', 'w') as file:
    file.write('one')
reader = open('a.txt')
reader.read(1)
"""
_CHANGE = """
x.append(2)
next(g)
reader.read(1)
del json
with open('a.txt', 'a') as file:
    file.write('two')
with open('b.txt', 'w') as file:
    file.write('new')
"""
_LOOK = "(x, next(g), reader.read(1), open('a.txt').read(), json.dumps(1))"
_SEEN = ([1], 1, "n", "one", "1")


class Capabilities(Base):
    def needs(self, capability: str) -> None:
        if capability not in self._capabilities:
            pytest.skip(f"n/a: {capability} is not declared for this sandbox")

    def undone(self, code: str, **limits: Any) -> Result:
        """Change everything, then fail as `code` does; assert that nothing of it is left, and return the failed step's result."""
        with self.session({"tool": lambda: 1}, {"y": 5}, **limits) as session:
            session.run(_STATE)
            result = session.run(_CHANGE + code)
            assert result.error is not None and result.rolled_back, result
            assert not session.closed
            assert session.run(_LOOK).value == _SEEN
            assert [info.name for info in session.files.list()] == ["a.txt"]
            assert session.variables["y"] == 5 and session.run("tool()").value == 1
            again = session.run(_CHANGE + code)
            assert again.rolled_back and session.run("x").value == [1]
            return result

    def test_isolation_says_whether_steps_are_rolled_back(self) -> None:
        wall = self.executor.isolation["rollback"]
        assert wall.active == ("rollback" in self._capabilities) and (wall.active or wall.reason)

    def test_rollback_not_declared_is_refused(self) -> None:
        if "rollback" in self._capabilities:
            return
        for mode in ("limits", "errors"):
            with pytest.raises(PolicyError, match="rollback"), self.make(rollback=mode) as executor:
                executor.session().close()

    def test_rollback_of_time(self) -> None:
        self.needs("rollback")
        result = self.undone("print('heard')\nwhile True:\n    pass", time=0.4)
        assert result.error is not None and result.error.kind == "time" and result.stdout == "heard\n"

    def test_rollback_of_time_that_no_interrupt_ends(self) -> None:
        self.needs("rollback")
        code = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
        result = self.undone(code, time=0.4)
        assert result.error is not None and result.error.kind == "time"

    def test_rollback_of_memory(self) -> None:
        self.needs("rollback")
        result = self.undone("big = []\nwhile True:\n    big.append(bytearray(2**20))", memory=64 * 2**20)
        assert result.error is not None and result.error.kind == "memory"

    def test_rollback_of_a_flood(self) -> None:
        self.needs("rollback")
        result = self.undone("while True:\n    print('x' * 10000)", output=20_000)
        assert result.error is not None and result.error.kind == "output"

    def test_rollback_of_an_interrupted_step(self) -> None:
        self.needs("rollback")
        started = threading.Event()
        with self.session({"ready": started.set}) as session:
            session.run("x = [1]")
            results: list[Result] = []
            code = "x.append(2)\nready()\nwhile True:\n    pass"
            thread = threading.Thread(target=lambda: results.append(session.run(code)))
            thread.start()
            assert started.wait(20)
            session.interrupt()
            thread.join(20)
            assert results[0].rolled_back and results[0].error is not None
            assert [call.tool for call in results[0].tool_calls] == ["ready"]
            assert session.run("x").value == [1]

    def test_what_the_host_put_there_survives_a_rollback(self) -> None:
        self.needs("rollback")
        with self.session(time=0.4) as session:
            session.run("x = 1")
            session.variables["put"] = [7]
            session.files.write("put.txt", "put")
            session.add_tools({"late": lambda: "late"})
            assert session.run("x = 2\nput.append(8)\nwhile True:\n    pass").rolled_back
            assert session.run("(x, put, open('put.txt').read(), late())").value == (1, [7], "put", "late")

    def test_first_step_can_be_rolled_back(self) -> None:
        self.needs("rollback")
        policy = self.limits(time=0.4).replace(env={"NAME": "value"}, files={"given.txt": b"given"})
        with self.session({"tool": lambda: 3}, {"v": 4}, policy=policy) as session:
            assert session.run("while True:\n    pass").rolled_back
            code = "import os\n(v, tool(), os.environ['NAME'], open('given.txt').read())"
            assert session.run(code).value == (4, 3, "value", "given")

    def test_limits_hold_after_a_rollback(self) -> None:
        self.needs("rollback")
        with self.session(time=1.5, memory=64 * 2**20, disk=2**20) as session:
            assert session.run("while True:\n    pass").rolled_back
            result = session.run("x = [bytearray(2**20) for _ in range(200)]")
            assert result.error is not None and result.error.kind == "memory" and result.rolled_back
            result = session.run("with open('big', 'wb') as f:\n    f.write(bytes(2**22))")
            assert result.error is not None and session.run("1").value == 1

    def test_branches_roll_back_by_themselves(self) -> None:
        self.needs("rollback")
        self.needs("fork")
        with self.session({"tool": lambda: 1}, time=0.4) as session:
            session.run(_STATE)
            with session.fork() as branch:
                branch.run("x.append('branch')")
                assert branch.run("x.append(3)\nwhile True:\n    pass").rolled_back
                assert session.run("x.append(4)\nwhile True:\n    pass").rolled_back
                assert branch.run(_LOOK).value == ([1, "branch"], *_SEEN[1:])
                assert session.run(_LOOK).value == _SEEN
                session.close()
                assert branch.run("tool()").value == 1

    def test_branches_share_no_files(self) -> None:
        self.needs("fork")
        with self.session() as session:
            session.run(_STATE)
            with session.fork() as branch:
                branch.run(_CHANGE)
                branch.files.write("c.txt", "c")
                assert session.run(_LOOK).value == _SEEN
                assert [info.name for info in session.files.list()] == ["a.txt"]
                assert branch.run("reader.read()").value == "etwo"
                session.run("open('a.txt', 'w').close()")
                assert branch.files.read("a.txt") == b"onetwo"

    def test_fork_of_a_session_that_never_ran(self) -> None:
        self.needs("fork")
        policy = self._policy.replace(env={"NAME": "value"}, files={"given.txt": b"given"})
        with self.session({"tool": lambda: 3}, {"v": 4}, policy=policy) as session, session.fork() as branch:
            code = "import os\n(v, tool(), os.environ['NAME'], open('given.txt').read())"
            for one in (branch, session):
                assert one.run(code).value == (4, 3, "value", "given")

    def test_fork(self) -> None:
        with self.session(variables={"x": [1]}) as session:
            if "fork" not in self._capabilities:
                with pytest.raises(NotSupported):
                    session.fork()
                assert session.run("x").value == [1]
                return
            session.run("def f():\n    return sum(x)\nimport random\nrandom.random()")
            with session.fork() as branch:
                branch.run("x.append(2)")
                session.run("x.append(10)")
                assert branch.run("f()").value == 3 and session.run("f()").value == 11
                branch.close()
                assert session.run("1").value == 1

    def test_fork_keeps_or_replaces_tools(self) -> None:
        self.needs("fork")
        with self.session({"f": lambda: "old"}) as session:
            with session.fork() as branch:
                assert branch.run("f()").value == "old"
            with session.fork(tools={"f": lambda: "new"}) as branch:
                assert branch.run("f()").value == "new" and session.run("f()").value == "old"

    def test_fork_can_reseed(self) -> None:
        self.needs("fork")
        code = "import random\nrandom.random()"
        with self.session() as session:
            session.run(code)
            with session.fork() as same, session.fork(reseed=True) as other:
                mine = session.run(code).value
                assert same.run(code).value == mine and other.run(code).value != mine

    def test_snapshot(self, tmp_path: Path) -> None:
        with self.session({"f": lambda: 1}, {"x": [1]}) as session:
            if "snapshot" not in self._capabilities:
                with pytest.raises(NotSupported):
                    session.snapshot()
                with pytest.raises(NotSupported):
                    self.executor.restore(b"")
                assert session.run("x").value == [1]
                return
            session.run("def g():\n    return x + [2]")
            session.files.write("kept.txt", "kept")
            image: Any = session.snapshot()
            session.run("x.append(99)")
        with self.executor.restore(image, tools={"f": lambda: 2}, variables={"y": 5}) as back:
            assert back.run("g() + [y, f()]").value == [1, 2, 5, 2]
            assert back.files.read("kept.txt") == b"kept"
        with self.executor.restore(image) as back:  # a snapshot holds no tools
            assert back.run("f()").error is not None
