"""Starting, ending, and what is left behind: nothing."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import pytest

from safeexec.errors import SessionClosed
from safeexec.testing.base import Base, assert_closed, eventually

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="n/a: counts in /proc")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> set[int]:
    """Processes below this one, however deep."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found: set[int] = set()
    grown = {os.getpid()}
    while grown:
        found |= grown
        grown = {pid for pid, parent in parents.items() if parent in found} - found
    return found - {os.getpid()}


class Lifecycle(Base):
    def test_one_shot(self) -> None:
        assert self.executor.run("x = 1\nx + 1").value == 2

    def test_one_shot_leaves_no_state(self) -> None:
        self.executor.run("left = 1")
        assert self.executor.run("left").error is not None

    def test_usage_is_reported(self) -> None:
        result = self.run("sum(range(10**6))")
        assert 0 < result.usage.duration < 60 and 0 <= result.usage.cpu_time < 60
        assert result.usage.peak_memory >= 0 and result.usage.tool_calls == 0

    def test_closing_the_executor_ends_its_sessions(self) -> None:
        executor = self.make()
        session = executor.session()
        assert session.run("1").value == 1
        executor.close()
        executor.close()
        assert_closed(session)
        with pytest.raises(SessionClosed):
            executor.session()

    def test_sessions_from_many_threads(self) -> None:
        failures: list[object] = []

        def work(number: int) -> None:
            try:
                for turn in range(3):
                    with self.session(variables={"n": number}) as session:
                        value = session.run(f"n * 10 + {turn}").value
                        if value != number * 10 + turn:
                            failures.append(value)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(t.is_alive() for t in threads) and failures == []

    @linux
    def test_nothing_is_left_behind(self) -> None:
        def cycle() -> None:
            with self.make(limits=self.limits(time=0.3).limits) as executor:
                with executor.session() as session:
                    session.run("open('f', 'w').write('x')")
                lost = executor.session()
                lost.run("while True:\n    pass")
                executor.session()  # closed with its executor

        cycle()  # what is started once and kept, such as the watchdog, is not a leak
        gc.collect()
        before, below = descriptors(), children()
        cycle()
        cycle()
        gc.collect()
        assert eventually(lambda: descriptors() <= before), (before, os.listdir("/proc/self/fd"))
        assert eventually(lambda: children() <= below), children() - below

    @linux
    def test_sessions_leave_no_descriptor_or_process(self) -> None:
        def cycle() -> None:
            for code in ("1", "import os\nos._exit(1)", "1 / 0"):
                with self.session() as session:
                    session.run(code)

        cycle()
        gc.collect()
        before, below = descriptors(), len(children())
        for _ in range(5):
            cycle()
        gc.collect()
        assert eventually(lambda: descriptors() <= before + 2), (before, descriptors())
        assert eventually(lambda: len(children()) <= below + 2), children()

    @linux
    def test_session_that_is_forgotten_leaves_no_process(self) -> None:
        self.run("1")
        before = len(children())
        for _ in range(6):
            self.session().run("1")
        gc.collect()
        # A sandbox may keep one guest ready, and be replacing it by a newer one; six forgotten sessions would be six.
        assert eventually(lambda: len(children()) <= before + 2), children()
