"""One peer's process: measures what it is asked, one line of JSON for each request. Runs in the peer's environment.

``python driver.py PEER`` serves requests; ``python driver.py PEER --cold`` runs one step from nothing and ends.
"""

import ast
import json
import os
import random
import statistics
import sys
import threading
from time import perf_counter

import executors

DATA = bytes(range(256)) * 39_063  # 10,000,128 bytes


class Driver:
    """Answers one request after the other with plain data; seconds throughout."""

    def __init__(self, name):
        self.executor = executors.make(name)
        self._warm = None

    def warm_session(self):
        if self._warm is None:
            self._warm = self.executor.open()
            for _ in range(20):
                expect(self._warm.step("1 + 1"), 2)
        return self._warm

    def fresh(self, times):
        """From nothing to the value of 1 + 1, and gone again."""
        return [self._fresh() for _ in range(times)]

    def _fresh(self):
        started = perf_counter()
        session = self.executor.open()
        expect(session.step("1 + 1"), 2)
        session.close()
        return perf_counter() - started

    def warm(self, times):
        session = self.warm_session()
        return [timed(lambda: session.step("1 + 1")) for _ in range(times)]

    def tool(self, times):
        """Of one call, in a step of 50."""
        session, found = self.warm_session(), []
        code = getattr(session, "TOOL", "total = 0\nfor i in range(50):\n    total = tool(i)\ntotal")
        for _ in range(times):
            started = perf_counter()
            value = session.step(code)
            found.append((perf_counter() - started) / 50)
            expect(value, 50)
        return found

    def compute(self, source, times):
        """Inside and outside in turns, so that both see the same machine."""
        session, inside, outside = self.warm_session(), [], []
        for _ in range(times):
            expected, seconds = native(source)
            outside.append(seconds)
            started = perf_counter()
            value = session.step(source)
            inside.append(perf_counter() - started)
            expect(list(value) if isinstance(value, tuple | list) else value, expected)
        return {"inside": inside, "outside": outside}

    def bytes_in(self, times):
        session = self.warm_session()
        found = [timed(lambda: session.put("data", DATA)) for _ in range(times)]
        expect(session.step("len(data)"), len(DATA))
        return found

    def bytes_out(self, times):
        session, found = self.warm_session(), []
        session.put("data", DATA)
        for _ in range(times):
            started = perf_counter()
            data = session.get("data")
            found.append(perf_counter() - started)
            expect(len(data), len(DATA))
        return found

    def rate(self, threads, seconds):
        """Fresh sandboxes a second, that many threads at it."""
        end = perf_counter() + seconds
        done, trouble = [], []

        def work():
            try:
                while perf_counter() < end:
                    self._fresh()
                    done.append(perf_counter())
            except Exception as error:
                trouble.append(error)

        started = perf_counter()
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if trouble:
            raise trouble[0]
        return len(done) / (max(done) - started)

    def live(self, steps, seconds, limit):
        """Open sessions up to each of `steps`, within `seconds` and `limit` bytes; memory of each and latency among them at every stop."""
        sessions, rows = [], []
        self._fresh()
        before, started, why = memory(), perf_counter(), ""
        try:
            for target in steps:
                while len(sessions) < target:
                    if perf_counter() - started > seconds:
                        why = f"{seconds} s were over"
                        break
                    if len(sessions) % 50 == 49 and free() < limit:
                        why = "the machine's memory was used up"
                        break
                    session = self.executor.open()
                    sessions.append(session)
                    expect(session.step("x = 1\nx + 1"), 2)
                if why and len(sessions) < max(2, target // 4):
                    break
                chosen = random.Random(1).choices(sessions, k=100)
                took = [timed(lambda s=s: s.step("x + 1")) for s in chosen]
                after = memory()
                rows.append({
                    "sessions": len(sessions),
                    "private": (after[0] - before[0]) / len(sessions),
                    "proportional": (after[1] - before[1]) / len(sessions),
                    "step": statistics.median(took),
                    "step_p95": sorted(took)[94],
                })  # fmt: skip
                if why:
                    break
        except Exception as error:
            why = f"at {len(sessions)} sessions: {describe(error)}"
        finally:
            for session in sessions:
                session.close()
        return {"rows": rows, "stopped": why}

    def rollback(self, times):
        """A step that fails and is taken back."""
        session = self.executor.open_that_goes_back()
        session.step("kept = 41")
        self.executor.spoil(session)
        found = [timed(lambda: self.executor.spoil(session)) for _ in range(times)]
        expect(session.step("kept + 1"), 42)
        session.close()
        return found

    def fork(self, times):
        """A branch of a session with state, to its first answer."""
        session, found = self.executor.open(), []
        session.step("kept = list(range(1000))")
        for _ in range(times):
            started = perf_counter()
            branch = session.fork()
            expect(branch.step("len(kept)"), 1000)
            found.append(perf_counter() - started)
            branch.close()
        session.close()
        return found

    def score(self, cases):
        """Which of the ordinary programs print what they print under CPython."""
        failed = []
        for case in cases:
            try:
                session = self.executor.open()
                try:
                    printed = session.printed(case["code"])
                finally:
                    session.close()
                if printed != case["stdout"]:
                    failed.append(case["id"])
            except Exception:
                failed.append(case["id"])
        return {"of": len(cases), "failed": failed}


def native(source):
    """The value under plain exec, as JSON would carry it, and the seconds."""
    tree = ast.parse(source)
    last = tree.body.pop()
    started = perf_counter()
    body, value = compile(tree, "<native>", "exec"), compile(ast.Expression(last.value), "<native>", "eval")
    namespace = {}
    exec(body, namespace)
    found = eval(value, namespace)
    return (list(found) if isinstance(found, tuple) else found), perf_counter() - started


def timed(work):
    started = perf_counter()
    work()
    return perf_counter() - started


def expect(found, wanted):
    if found != wanted:
        raise AssertionError(f"{wanted!r} expected, not {found!r:.200}")


def describe(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def free():
    """Bytes that the machine can still give."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def memory():
    """(private, proportional) bytes of this process and of all that descend from it."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    children = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    waiting, private, proportional = [os.getpid()], 0, 0
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                for line in file:
                    if line.startswith("Private_"):
                        private += int(line.split()[1]) * 1024
                    elif line.startswith("Pss:"):
                        proportional += int(line.split()[1]) * 1024
        except (OSError, ValueError):
            continue  # it has gone
    return private, proportional


def main():
    name = sys.argv[1]
    # What a peer prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if "--cold" in sys.argv:
        executor = executors.make(name)
        session = executor.open()
        expect(session.step("1 + 1"), 2)
        answers.write("2\n")
        session.close()
        executor.close()
        return
    driver = None
    for line in sys.stdin:
        request = json.loads(line)
        operation = request.pop("do")
        try:
            if driver is None:
                driver = Driver(name)
            answer = {"ok": getattr(driver, operation)(**request)}
        except executors.Unable as reason:
            answer = {"unable": str(reason)}
        except BaseException as error:
            answer = {"failed": describe(error)}
            if driver is not None:
                driver._warm = None
        answers.write(json.dumps(answer) + "\n")
    if driver is not None:
        if driver._warm is not None:
            driver._warm.close()
        driver.executor.close()


if __name__ == "__main__":
    main()
