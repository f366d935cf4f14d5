"""What going back, branching and being written down cost: python benchmarks/time_travel.py [--sandbox local] [--workers N] [--forks N] [--json].

The cost of a checkpoint is what a request waits that follows at once. Steps of two sessions, one that keeps checkpoints and one that does not,
are taken turn by turn: back to back, and after a pause as a model would make, in which the checkpoint has been taken. Medians, and with --best the
fastest, which a machine that does other things besides disturbs least. The session holds a few hundred objects, an open iterator and an SQLite database in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

from safeexec import Executor, Limits, Policy
from safeexec.backend import SupportsSnapshot

STATE = """
import json, random, sqlite3
rows = [{"n": n, "text": str(n)} for n in range(300)]
numbers = iter(range(1000))
database = sqlite3.connect(":memory:")
database.execute("create table t (n)")
database.execute("insert into t values (1)")
"""
PAUSE = 0.04
"""Seconds: more than the watchdog's tick, far less than any model takes."""


def milliseconds(work: Callable[[], object]) -> float:
    """Of one call."""
    started = perf_counter()
    work()
    return (perf_counter() - started) * 1e3


middle: Callable[[Iterable[float]], float] = statistics.median


def median(work: Callable[[], object], times: int) -> float:
    """Milliseconds of one call."""
    return middle(milliseconds(work) for _ in range(times))


def memory(pids: list[int]) -> int:
    """Bytes that some processes take, shared pages divided among those that share them, and their files in memory."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def children(parent: int) -> list[int]:
    """The processes that a process has."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def steps(executor: Executor, pause: float, times: int) -> tuple[float, float]:
    """Medians of a warm step without and with checkpoints, interleaved."""
    found: dict[str, list[float]] = {"never": [], "limits": []}
    sessions = {mode: executor.session(policy=Policy(rollback=mode)) for mode in found}
    for session in sessions.values():
        session.run(STATE)
        session.run("1 + 1")
    for _ in range(times):
        for mode, session in sessions.items():
            sleep(pause)
            found[mode].append(milliseconds(lambda session=session: session.run("1 + 1")))  # type: ignore[misc]
    for session in sessions.values():
        session.close()
    return middle(found["never"]), middle(found["limits"])


def beside(executor: Executor, megabytes: int, times: int) -> float:
    """A step that follows at once, in a session that holds so much data."""
    policy = Policy(limits=Limits(memory=(2 * megabytes + 64) << 20))
    with executor.session(policy=policy) as session:
        session.run(f"data = bytearray(b'abcd' * {megabytes << 18})").raise_for_error()
        median(lambda: session.run("1 + 1"), 10)
        return median(lambda: session.run("1 + 1"), times)


def checkpoint(executor: Executor, times: int) -> float:
    """What a request that follows at once waits for: a request after a checkpoint was asked for, less one without."""
    with executor.session() as session:
        session.run(STATE)
        session.variables["one"] = 1
        guest: Any = session._guest

        def behind() -> object:
            guest.checkpoint()
            return session.variables["one"]

        plain, waited = [], []
        for _ in range(times):
            session.run("rows.append(1)")
            session.variables["one"]
            plain.append(milliseconds(lambda: session.variables["one"]))
            waited.append(milliseconds(behind))
        return middle(waited) - middle(plain)


def branches(executor: Executor, count: int) -> dict[str, float]:
    """Many forks of one session, all alive at once."""
    with executor.session() as session:
        session.run(STATE)
        guest: Any = session._guest
        # A worker of wasm, the process that watches over a cell of local, or none, for guests in this process.
        root = getattr(getattr(guest, "worker", guest), "pid", None)

        def pids() -> list[int]:
            return [os.getpid(), *([root, *children(root)] if root is not None else [])]

        first = milliseconds(lambda: session.fork().close())
        before = memory(pids())
        alive = []
        started = perf_counter()
        for _ in range(count):
            alive.append(session.fork())
        spent = perf_counter() - started
        used = memory(pids()) - before
        assert all(branch.run("next(numbers)").value == 0 for branch in alive[:: max(1, count // 10)])
        for branch in alive:
            branch.close()
        return {"first": first, "seconds": spent, "bytes": used}


def measure(executor: Executor, forks: int) -> dict[str, float]:
    """Every figure, in milliseconds, bytes or seconds as its name says."""
    found: dict[str, float] = {"checkpoint_ms": checkpoint(executor, 300)}
    found["step_ms"], found["step_with_checkpoints_ms"] = steps(executor, 0.0, 400)
    found["step_after_a_pause_ms"], found["step_after_a_pause_with_checkpoints_ms"] = steps(executor, PAUSE, 60)
    found["step_beside_50_mb_ms"] = beside(executor, 50, 60)
    with executor.session(policy=Policy(limits=Limits(time=30))) as session:
        session.run(STATE)
        guest: Any = session._guest

        def undo() -> float:
            sleep(PAUSE)  # the checkpoint has been taken
            guest.kill()
            spent = milliseconds(guest.rollback)
            assert session.run("next(numbers)").ok
            return spent

        found["rollback_ms"] = middle(undo() for _ in range(15))
    with executor.session() as session:
        session.run(STATE)
        session.fork().close()
        found["fork_ms"] = median(lambda: session.fork().close(), 200)

        def changed() -> float:
            session.run("rows.append(1)")
            return milliseconds(lambda: session.fork().close())

        found["fork_of_a_new_state_ms"] = middle(changed() for _ in range(30))

        def first() -> float:
            with session.fork() as branch:
                return milliseconds(lambda: branch.run("next(numbers)"))

        found["first_step_of_a_branch_ms"] = middle(first() for _ in range(30))
        with session.fork() as other:
            turns = [session, other] * 20
            found["step_after_another_branchs_ms"] = middle(milliseconds(lambda one=one: one.run("1")) for one in turns)  # type: ignore[misc]
        if isinstance(session._guest, SupportsSnapshot):
            image = session.snapshot()
            found["snapshot_bytes"] = float(len(image))
            found["snapshot_ms"] = median(session.snapshot, 15)
            with TemporaryDirectory() as folder:
                path = image.save(Path(folder) / "state")
                found["restore_ms"] = median(lambda: executor.restore(path).close(), 30)
    many = branches(executor, forks)
    found["forks"], found["forks_s"], found["forks_bytes"] = float(forks), many["seconds"], many["bytes"]
    return found


GOALS = {
    "checkpoint_ms": 1.0, "rollback_ms": 5.0, "fork_ms": 1.0, "snapshot_bytes": 2e6, "snapshot_ms": 20.0, "restore_ms": 5.0, "forks_s": 1.5, "forks_bytes": 5e8,
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandbox", default="wasm", choices=("wasm", "local"))
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0 measures guests in this process")
    parser.add_argument("--forks", type=int, default=1000)
    parser.add_argument("--best", action="store_true", help="the fastest of each instead of the median")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.best:
        global middle
        middle = min
    goals = (
        GOALS
        if arguments.sandbox == "wasm"
        else {"checkpoint_ms": 1.5, "rollback_ms": 5.0, "fork_ms": 3.0, "fork_of_a_new_state_ms": 3.0}
    )
    options = {"workers": arguments.workers} if arguments.sandbox == "wasm" else {}
    with Executor(arguments.sandbox, **options) as executor:
        # A cell of local holds a thousand sessions, the first one included.
        found = measure(executor, arguments.forks if arguments.sandbox == "wasm" else min(arguments.forks, 990))
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        goal = f"   goal {goals[name]:g}" if name in goals else ""
        print(f"{name:42} {value:14.3f}{goal}")


if __name__ == "__main__":
    main()
