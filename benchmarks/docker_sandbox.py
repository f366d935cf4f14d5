"""Figures of the docker sandbox: python benchmarks/docker_sandbox.py [--runtime runsc]. Prints medians; needs a daemon and an image."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from safeexec import Executor


def median(work: Callable[[], object], times: int) -> float:
    """Milliseconds of one call, the median of `times`."""
    spent = []
    for _ in range(times):
        started = perf_counter()
        work()
        spent.append((perf_counter() - started) * 1e3)
    return statistics.median(spent)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", default="")
    runtime = parser.parse_args().runtime
    with Executor("docker", runtime=runtime) as executor:
        executor.session().close()
        sessions = []
        print(f"container ready      {median(lambda: sessions.append(executor.session()), 7):8.1f} ms")
        for session in sessions:
            session.close()
        with executor.session(tools={"f": lambda x: x}) as session:
            session.run("1")
            print(f"warm step            {median(lambda: session.run('1'), 500) * 1e3:8.0f} us")
            one = median(lambda: session.run("for _ in range(100):\n    f(1)"), 7)
            print(f"tool call            {one * 10:8.0f} us")
            data = bytes(10 * 2**20)
            print(f"10 MB in             {median(lambda: session.variables.update(x=data), 7):8.1f} ms")
            print(f"10 MB out            {median(lambda: session.run('x'), 7):8.1f} ms")
        started = perf_counter()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: executor.run("1"), range(24)))
        print(f"fresh, 8 at once     {24 / (perf_counter() - started):8.1f} /s")
    with Executor("docker", runtime=runtime, pool=8) as executor:
        pool = executor._backend._pool  # type: ignore[attr-defined]
        taken = []
        while len(taken) < 8:
            if len(pool):
                started = perf_counter()
                session = executor.session()
                taken.append((perf_counter() - started) * 1e3)
                session.close()
        print(f"warm take            {statistics.median(taken):8.1f} ms")


if __name__ == "__main__":
    main()
