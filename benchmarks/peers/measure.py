"""Measures one subject: run as a program in the subject's environment, with its name; prints one line of JSON.

Every figure comes with the smallest and the median, because other programs on the machine only ever add. Times are in microseconds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the environment knows no benchmarks
from benchmarks.peers import subjects

Figures = dict[str, Any]
_COMPUTE = """\
def work():
    total = 0
    for i in range(60_000):
        total += i * i % 7
    words = {}
    for i in range(20_000):
        key = str(i % 97)
        words[key] = words.get(key, 0) + i
    return total + len(words) + len(sorted(str(i) for i in range(5_000)))
"""


def times(action: Callable[[], object], count: int, warm: int) -> dict[str, float]:
    """How long `action` takes."""
    found = []
    for number in range(warm + count):
        started = time.perf_counter()
        action()
        if number >= warm:
            found.append((time.perf_counter() - started) * 1e6)
    return {"min": round(min(found), 1), "median": round(statistics.median(found), 1)}


def fresh(subject: subjects.Subject) -> None:
    """From nothing to the value of `1 + 1`, and gone again."""
    if subject.once() != 2:
        raise AssertionError("a wrong value")


def tool(subject: subjects.Subject) -> dict[str, float]:
    """One call from inside to the host and back, from steps of 100 calls (one peer allows 1000 in all)."""
    session = subject.session(lambda a, b: a + b)
    code = f"for i in range(100):\n    x = {subject.call}"
    found = times(lambda: session.run(code), 8, 1)
    session.close()
    return {name: round(value / 100, 2) for name, value in found.items()}


def compute(subject: subjects.Subject) -> float:
    """Time inside, by time in this interpreter, both measured in turns."""
    session = subject.session()
    session.run(_COMPUTE)
    namespace: dict[str, Any] = {}
    exec(_COMPUTE, namespace)
    inside, outside = [], []
    for _ in range(8):
        started = time.perf_counter()
        found = session.value("work()")
        middle = time.perf_counter()
        expected = namespace["work"]()
        inside.append(middle - started)
        outside.append(time.perf_counter() - middle)
        if found != expected:
            raise AssertionError("a wrong value")
    session.close()
    return round(min(inside) / min(outside), 2)


def _private(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) * 1024


def _family() -> list[int]:
    """This process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory(subject: subjects.Subject, count: int = 60) -> float:
    """Private megabytes of each of many live sessions that have run a step, in all processes of the subject."""
    warm = [subject.session() for _ in range(4)]
    for session in warm:
        session.run("x = 1")
    before = sum(map(_private, _family()))
    live = [subject.session() for _ in range(count)]
    for session in live:
        session.run("x = 1")
    after = sum(map(_private, _family()))
    for session in [*live, *warm]:
        session.close()
    return round((after - before) / count / 2**20, 2)


def throughput(subject: subjects.Subject, threads: int = 8, seconds: float = 2.0) -> int:
    """Fresh sandboxes a second, asked for by several threads."""
    done = [0] * threads
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            fresh(subject)
            done[number] += 1

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return round(sum(done) / (time.perf_counter() - started))


def measure(name: str) -> Figures:
    """All figures of one subject."""
    subject = subjects.SUBJECTS[name]()
    fresh(subject)
    session = subject.session()
    figures: Figures = {
        "fresh": times(lambda: fresh(subject), 100, 10),
        "warm": times(lambda: session.run("1 + 1"), 1000, 100),
        "tool": tool(subject),
        "compute": compute(subject),
        "memory": memory(subject),
        "per_second": throughput(subject),
    }
    session.close()
    subject.close()
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
