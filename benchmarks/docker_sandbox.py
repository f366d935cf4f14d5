"""Figures of the docker sandbox: python benchmarks/docker_sandbox.py [--runtime runsc] [--rollback limits,never] [--only step,tool].

Prints medians, and the fastest behind them; needs a daemon and an image. What is to be compared runs in turns, so that both meet the same machine:
with steps that can be undone (the default) and without.
"""

from __future__ import annotations

import argparse
import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import perf_counter, sleep

from safeexec import Executor, Limits, Policy, Session

_PAUSE = 0.03
_DATA = bytes(10 * 2**20)


def times(work: Callable[[], object], count: int, pause: float = 0.0) -> Iterator[float]:
    """Seconds of `count` calls, with a pause before each."""
    for _ in range(count):
        if pause:
            sleep(pause)
        started = perf_counter()
        work()
        yield perf_counter() - started


def ready(executor: Executor) -> Iterator[float]:
    """Seconds until a session is there, from nothing."""
    for _ in range(2):
        started = perf_counter()
        session = executor.session()
        yield perf_counter() - started
        session.close()


def fresh(executor: Executor) -> Iterator[float]:
    """Seconds per container, eight at once."""
    started = perf_counter()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: executor.run("1"), range(24)))
    yield (perf_counter() - started) / 24


def calls(session: Session) -> Iterator[float]:
    """Seconds of one tool call in a step of a hundred."""
    for spent in times(lambda: session.run("for _ in range(100):\n    f(1)"), 2):
        yield spent / 100


STARTS: dict[str, tuple[str, str, float, Callable[[Executor], Iterator[float]]]] = {
    "ready": ("container ready", "ms", 1e3, ready),
    "fresh": ("fresh, 8 at once", "/s", 0, fresh),
}
WARM: dict[str, tuple[str, str, float, Callable[[Session], Iterator[float]]]] = {
    "step": ("warm step, back to back", "us", 1e6, lambda s: times(lambda: s.run("1"), 50)),
    "pause": ("the same, after 30 ms", "us", 1e6, lambda s: times(lambda: s.run("1"), 5, _PAUSE)),
    "tool": ("tool call", "us", 1e6, calls),
    "in": ("10 MB in", "ms", 1e3, lambda s: times(lambda: s.variables.update(x=_DATA), 2)),
    "out": ("10 MB out", "ms", 1e3, lambda s: times(lambda: s.run("x"), 2)),
}
ROUNDS = {"ready": 4, "fresh": 1, "step": 10, "pause": 8, "tool": 5, "in": 4, "out": 4}


def show(name: str, unit: str, scale: float, found: dict[str, list[float]]) -> None:
    """Print one line."""
    parts = []
    for mode, spent in found.items():
        middle, best = statistics.median(spent), min(spent)
        figures = (middle * scale, best * scale) if scale else (1 / middle, 1 / best)
        digits = 0 if unit == "us" else 1
        parts.append(f"{mode} {figures[0]:8.{digits}f} ({figures[1]:.{digits}f}) {unit}")
    print(f"{name:24}" + "   ".join(parts), flush=True)


def compared(executors: dict[str, Executor], only: set[str]) -> None:
    """What there is to say of each policy, in turns."""
    for key, (name, unit, scale, start) in STARTS.items():
        if not only or key in only:
            found: dict[str, list[float]] = {mode: [] for mode in executors}
            for _ in range(ROUNDS[key]):
                for mode, executor in executors.items():
                    found[mode] += start(executor)
            show(name, unit, scale, found)
    with ExitStack() as stack:
        sessions = {m: stack.enter_context(e.session(tools={"f": lambda x: x})) for m, e in executors.items()}
        for session in sessions.values():
            session.variables["x"] = _DATA
        for key, (name, unit, scale, measure) in WARM.items():
            if not only or key in only:
                found = {mode: [] for mode in sessions}
                for _ in range(ROUNDS[key]):
                    for mode, session in sessions.items():
                        session.run("1")
                        found[mode] += measure(session)
                show(name, unit, scale, found)


def take(runtime: str, mode: str) -> list[float]:
    """Seconds until a session is there, from a pool that is full."""
    taken: list[float] = []
    sessions = []
    with Executor("docker", policy=Policy(rollback=mode), runtime=runtime, pool=8) as executor:
        pool = executor._backend._pool  # type: ignore[attr-defined]
        for _ in range(3):
            while len(pool) < 8:
                sleep(0.05)
            for _ in range(8):
                started = perf_counter()
                sessions.append(executor.session())
                taken.append(perf_counter() - started)
        for session in sessions:
            session.close()
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", default="")
    parser.add_argument(
        "--rollback", default="", help="policies, with commas between; both by default where the sandbox can"
    )
    parser.add_argument(
        "--only", default="", help=f"some of {', '.join([*STARTS, *WARM, 'take', 'killed'])}, with commas between"
    )
    wanted = parser.parse_args()
    runtime, only = wanted.runtime, set(filter(None, wanted.only.split(",")))
    with ExitStack() as stack:
        can = Executor("docker", runtime=runtime)
        modes = [*filter(None, wanted.rollback.split(","))] or ["limits", "never"]
        with can:
            if not can.isolation["rollback"].active:
                modes = ["never"]
        executors = {
            mode: stack.enter_context(Executor("docker", runtime=runtime, policy=Policy(rollback=mode)))
            for mode in modes
        }
        for executor in executors.values():
            executor.session().close()
        compared(executors, only)
    if not only or "take" in only:
        show("warm take", "ms", 1e3, {mode: take(runtime, mode) for mode in modes})
    if not only or "killed" in only:
        for name, code in WEDGED.items():
            print(f"killed, {name:16}{statistics.median(killed(runtime, code) for _ in range(5)):8.0f} ms")


WEDGED = {
    "idle": "1",
    "flooding": "import os\nwhile True:\n    os.write(1, b'x' * 65536)",
    "blind": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True:\n    pass",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
}


def killed(runtime: str, code: str) -> float:
    """Milliseconds from `kill` until the daemon has no container any more, nobody reading what it writes."""
    policy = Policy(limits=Limits(time=60, output=10**12))
    reading, release = threading.Event(), threading.Event()

    def unread(_: object) -> None:
        reading.set()
        release.wait(60)

    with Executor("docker", runtime=runtime, policy=policy) as executor:
        client = executor._backend._client  # type: ignore[attr-defined]
        session = executor.session()
        step = threading.Thread(target=session.run, args=(f"print('go')\n{code}",), kwargs={"on_output": unread})
        step.start()
        reading.wait(60)
        sleep(0.2)  # until what it writes has filled whatever is between
        started = perf_counter()
        session.kill()
        while client.api.containers(all=True, filters={"id": session._guest.id}):  # type: ignore[attr-defined]
            sleep(0.001)
        spent = (perf_counter() - started) * 1e3
        release.set()
        step.join()
    return spent


if __name__ == "__main__":
    main()
