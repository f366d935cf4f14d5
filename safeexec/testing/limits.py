"""Every limit is honoured, or starting raises PolicyError."""

from __future__ import annotations

import threading

from safeexec.policy import Limits
from safeexec.testing.base import PATIENCE, Base, assert_closed

MIB = 2**20


class LimitTests(Base):
    def test_time_ends_a_busy_loop(self) -> None:
        with self.session(time=0.3) as session:
            session.run("x = 1")
            result = session.run("print('before')\nwhile True:\n    pass")
            assert result.error is not None and result.error.kind == "time", result.error
            assert "Limits.time" in result.error.message
            assert result.stdout == "before\n"
            assert result.usage.duration < PATIENCE
            if session.closed:
                assert_closed(session)
            else:
                assert session.run("x").value == 1

    def test_time_counts_sleeping(self) -> None:
        result = self.run("import time\ntime.sleep(60)", time=0.3)
        assert result.error is not None and result.error.kind == "time"

    def test_time_ends_code_that_catches_everything(self) -> None:
        code = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
        with self.session(time=0.3) as session:
            result = session.run(code)
            assert result.error is not None and result.error.kind in ("time", "policy"), result.error
            self.usable(session)

    def test_time_ends_one_long_operation(self) -> None:
        result = self.run("n = 3 ** 12345678\nm = n ** 9\nprint('never')", time=0.3)
        assert result.error is not None and result.error.kind in ("time", "memory") and result.stdout == ""

    def test_time_stands_still_while_a_tool_runs(self) -> None:
        pause = threading.Event()
        assert self.run("f()\n'done'", {"f": lambda: pause.wait(0.7)}, time=0.35).value == "done"

    def test_wall_counts_tools(self) -> None:
        release = threading.Event()
        try:
            result = self.run("f()", {"f": lambda: release.wait(PATIENCE)}, wall=0.4)
            assert result.error is not None and result.error.kind == "time" and "Limits.wall" in result.error.message
        finally:
            release.set()

    def test_no_time_limit_runs_on(self) -> None:
        assert self.run("sum(range(10))", time=None, wall=None, tool_time=None).value == 45

    def test_tool_calls_are_capped(self) -> None:
        made: list[int] = []
        code = "n = 0\ntry:\n    for n in range(50):\n        f(n)\nexcept RuntimeError as e:\n    r = str(e)\n(n, r)"
        with self.session({"f": made.append}, tool_calls=5) as session:
            result = session.run(code)
            assert result.ok and result.value[0] == 5 and "tool_calls" in result.value[1]
            assert made == [0, 1, 2, 3, 4] and len(result.tool_calls) == 5
            assert session.run("f(9)").ok  # counted by step

    def test_no_tool_calls_at_all(self) -> None:
        made: list[int] = []
        result = self.run("f(1)", {"f": made.append}, tool_calls=0)
        assert result.error is not None and "tool_calls" in result.error.message and made == []

    def test_memory_ends_one_large_block(self) -> None:
        executor = self.started(limits=Limits(memory=64 * MIB))
        if executor is None:
            return
        with executor, executor.session() as session:
            result = session.run(
                "x = bytearray(600 * 2**20)\nfor i in range(0, len(x), 4096):\n    x[i] = 1\nprint('touched')"
            )
            assert result.error is not None and result.error.kind == "memory", result.error
            assert "touched" not in result.stdout
            self.usable(session)

    def test_memory_ends_many_small_blocks(self) -> None:
        executor = self.started(limits=Limits(memory=64 * MIB, time=30))
        if executor is None:
            return
        with executor, executor.session() as session:
            result = session.run("x = []\nwhile len(x) < 600_000:\n    x.append(bytes(1000))\nprint('held')")
            assert result.error is not None and result.error.kind == "memory", result.error
            assert "held" not in result.stdout
            self.usable(session)

    def test_memory_below_the_limit_is_there(self) -> None:
        executor = self.started(limits=Limits(memory=128 * MIB))
        if executor is None:
            return
        with executor:
            assert executor.run("len(bytearray(64 * 2**20))").value == 64 * MIB

    def test_disk_is_capped_in_one_file(self) -> None:
        executor = self.started(limits=Limits(disk=MIB))
        if executor is None:
            return
        code = "with open('big', 'wb') as f:\n    for i in range(64):\n        f.write(b'x' * 2**20)\n        f.flush()\nprint('written')"
        with executor, executor.session() as session:
            result = session.run(code)
            assert not result.ok and "written" not in result.stdout
            if not session.closed:
                assert sum(f.size for f in session.files.list()) <= 2 * MIB
            self.usable(session)

    def test_disk_is_capped_over_many_files(self) -> None:
        executor = self.started(limits=Limits(disk=MIB))
        if executor is None:
            return
        code = (
            "for i in range(64):\n    with open(f'f{i}', 'wb') as f:\n        f.write(b'x' * 2**18)\nprint('written')"
        )
        with executor, executor.session() as session:
            result = session.run(code)
            assert not result.ok and "written" not in result.stdout
            if not session.closed:
                assert sum(f.size for f in session.files.list()) <= 2 * MIB
            self.usable(session)

    def test_processes_are_capped(self) -> None:
        executor = self.started(limits=Limits(processes=8))
        if executor is None:
            return
        code = """
started = 0
try:
    import threading
    gate = threading.Event()
    for _ in range(40):
        threading.Thread(target=gate.wait, daemon=True).start()
        started += 1
except Exception:
    pass
try:
    gate.set()
except Exception:
    pass
started
"""
        with executor:
            result = executor.run(code)
            assert result.error is not None or result.value <= 8

    def test_time_holds_for_what_the_core_asks(self) -> None:
        code = "class Slow:\n    def __repr__(self):\n        while True:\n            pass\nx = Slow()"
        from safeexec.errors import SafeExecError

        with self.session(time=0.3) as session:
            session.run(code)
            try:
                session.variables["x"]
            except (SafeExecError, TypeError):
                pass
            self.usable(session)
