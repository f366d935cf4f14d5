"""The run: every peer in a process of its own, all of them asked in turns, so that each meets the same machine."""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import BY_NAME, Built
from benchmarks.programs import COMPUTE, EVERYDAY

HERE = Path(__file__).parent
Answer = dict[str, Any]


class Line:
    """The process of one peer, answering one request at a time."""

    def __init__(self, name: str, python: str) -> None:
        self.name, self._python = name, python
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def ask(self, patience: float, operation: str, **arguments: Any) -> Answer:
        """The peer's answer: ``ok``, ``unable`` or ``failed``. A peer that is late or dies is ended, and started again by the next request."""
        if self._process is None:
            self._process = start([self._python, str(HERE / "driver.py"), self.name])
            self._rest = b""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": operation, **arguments}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            self.close()
            return {"failed": "its process has gone"}
        end = time.monotonic() + patience
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                self.close()
                return {"failed": f"no answer within {patience:.0f} s"}
            data = os.read(process.stdout.fileno(), 1 << 20)
            if not data:
                self.close()
                return {"failed": f"its process ended with status {process.returncode}"}
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process and all that belongs to it."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
            process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            kill_group(process)
            process.stdout.close()


_scratch = tempfile.TemporaryDirectory(prefix="safeexec-peers-")


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """A process with a group of its own, so that it can be ended with its children."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        [os.path.abspath(command[0]), *command[1:]],
        cwd=_scratch.name,  # peers without walls write where they stand
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a group, its leader included."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


class Run:
    """What is asked of whom, and what was answered."""

    def __init__(self, built: dict[str, Built], quick: bool, say: Callable[[str], None]) -> None:
        self.names = [name for name, found in built.items() if not found.failure]
        self._built, self._quick, self._say = built, quick, say
        self._lines = {name: Line(name, built[name].python) for name in self.names}
        self.results: dict[str, dict[str, Any]] = {name: {} for name in built}
        self.failures: dict[str, dict[str, str]] = {
            name: {"environment": found.failure} for name, found in built.items() if found.failure
        }
        self.load: list[tuple[float, float]] = []

    def all(self, cases: list[dict[str, str]]) -> None:
        """Every measurement, each peer in turn within each."""
        quick = self._quick
        try:
            self._cold(2 if quick else 5)
            self._samples("fresh", 2 if quick else 6, lambda name: {"times": self._times(name, 10)})
            self._samples("warm", 2 if quick else 6, lambda name: {"times": self._times(name, 200)})
            self._samples("tool", 2 if quick else 5, lambda name: {"times": self._times(name, 4)})
            self._samples("bytes_in", 2, lambda name: {"times": self._times(name, 3 if quick else 8)})
            self._samples("bytes_out", 2, lambda name: {"times": self._times(name, 3 if quick else 8)})
            self._compute(1 if quick else 3)
            for threads in (1, 4) if quick else (1, 2, 4, 8):
                self._once(f"rate_{threads}", 40, "rate", threads=threads, seconds=0.5 if quick else 1.0)
            self._samples("rollback", 2, lambda name: {"times": 5 if quick else 20})
            self._samples("fork", 2, lambda name: {"times": 5 if quick else 20})
            if cases:
                self._score(cases)
            steps = [10, 100] if quick else [10, 100, 1000, 10_000]
            self._live(steps, 4 if quick else 45)
        finally:
            for line in self._lines.values():
                line.close()

    def _times(self, name: str, times: int) -> int:
        """Fewer for those that take a second for what others do in a millisecond."""
        fresh = self.results[name].get("fresh")
        slow = fresh is not None and statistics.median(fresh) > 0.1
        return max(2, times // 5) if slow else times

    def _mark(self, text: str) -> None:
        self.load.append((time.time(), os.getloadavg()[0]))
        self._say(text)

    def _order(self, turn: int) -> Iterable[str]:
        """Another one first each time."""
        at = turn % max(1, len(self.names))
        return [*self.names[at:], *self.names[:at]]

    def _fail(self, name: str, what: str, answer: Answer) -> None:
        self.failures.setdefault(name, {})[what] = answer.get("failed") or f"n/a: {answer['unable']}"

    def _cold(self, turns: int) -> None:
        self._mark("cold start")
        for turn in range(turns + 1):
            for name in self._order(turn):
                if "cold" in self.failures.get(name, ()):
                    continue
                started = time.perf_counter()
                process = start([self._built[name].python, str(HERE / "driver.py"), name, "--cold"])
                assert process.stdout is not None and process.stdin is not None
                ready = select.select([process.stdout], [], [], 60)[0]
                answered = os.read(process.stdout.fileno(), 2) if ready else b""
                took = time.perf_counter() - started
                if answered:
                    try:
                        process.wait(15)
                    except subprocess.TimeoutExpired:
                        pass
                kill_group(process)
                process.stdout.close()
                process.stdin.close()
                if answered != b"2\n":
                    self._fail(name, "cold", {"failed": "no first result"})
                elif turn:  # the first turn fills the disk's cache
                    self.results[name].setdefault("cold", []).append(took)

    def _samples(self, what: str, turns: int, arguments: Callable[[str], dict[str, Any]]) -> None:
        self._mark(what)
        for turn in range(turns):
            for name in self._order(turn):
                if what in self.failures.get(name, ()):
                    continue
                answer = self._lines[name].ask(60, what, **arguments(name))
                if "ok" in answer:
                    self.results[name].setdefault(what, []).extend(answer["ok"])
                else:
                    self._fail(name, what, answer)
                    self.results[name].pop(what, None)

    def _compute(self, turns: int) -> None:
        for program, source in {**COMPUTE, **EVERYDAY}.items():
            self._mark(f"compute: {program}")
            for turn in range(turns):
                for name in self._order(turn):
                    key = f"compute {program}"
                    known = self.results[name].get("compute", {}).get(program)
                    # One that takes seconds is known well enough from its first time.
                    if key in self.failures.get(name, ()) or (known and known["inside"][0] > 2):
                        continue
                    answer = self._lines[name].ask(120, "compute", source=source, times=1)
                    if "ok" not in answer:
                        self._fail(name, key, answer)
                        self.results[name].get("compute", {}).pop(program, None)
                        continue
                    kept = self.results[name].setdefault("compute", {})
                    found = kept.setdefault(program, {"inside": [], "outside": []})
                    for side in ("inside", "outside"):
                        found[side] += answer["ok"][side]

    def _once(self, what: str, patience: float, operation: str, **arguments: Any) -> None:
        self._mark(what.replace("_", ", "))
        for name in self._order(len(what)):
            answer = self._lines[name].ask(patience, operation, **arguments)
            if "ok" in answer:
                self.results[name][what] = answer["ok"]
            else:
                self._fail(name, what, answer)

    def _score(self, cases: list[dict[str, str]]) -> None:
        # No time is taken here, so several may run at once.
        self._mark("ordinary programs")
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            asked = {name: threads.submit(self._lines[name].ask, 150, "score", cases=cases) for name in self.names}
        for name, future in asked.items():
            answer = future.result()
            if "ok" in answer:
                self.results[name]["score"] = answer["ok"]
            else:
                self._fail(name, "score", answer)

    def _live(self, steps: list[int], seconds: float) -> None:
        # The others are ended first: what they hold would be counted as the machine's load.
        for name in self.names:
            self._lines[name].close()
        for name in self.names:
            self._mark(f"live sessions: {BY_NAME[name].title}")
            reach = steps if name not in ("subprocess", "sandlock", "ipykernel", "bubblewrap", "gvisor") else steps[:2]
            answer = self._lines[name].ask(seconds * 6, "live", steps=reach, seconds=seconds, limit=2 * 2**30)
            self._lines[name].close()
            if "ok" in answer:
                self.results[name]["live"] = answer["ok"]["rows"]
                if answer["ok"]["stopped"]:
                    self._fail(name, "live", {"failed": answer["ok"]["stopped"]})
            else:
                self._fail(name, "live", answer)


def machine() -> dict[str, Any]:
    """What it was measured on."""
    memory = next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processor": model[0] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory) / 2**20, 1),
        "platform": sys.platform,
    }
