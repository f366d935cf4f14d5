"""Figures of the docker sandbox: python benchmarks/docker_sandbox.py [--runtime runsc]. Prints medians; needs a daemon and an image."""

from __future__ import annotations

import argparse
import statistics
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, sleep

from safeexec import Executor, Limits, Policy


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
        taken: list[float] = []
        sessions = []
        for _ in range(3):
            while len(pool) < 8:
                sleep(0.05)
            for _ in range(8):
                started = perf_counter()
                sessions.append(executor.session())
                taken.append((perf_counter() - started) * 1e3)
        print(f"warm take            {statistics.median(taken):8.1f} ms")
        for session in sessions:
            session.close()
    for name, code in WEDGED.items():
        print(f"killed, {name:8}     {statistics.median(killed(runtime, code) for _ in range(5)):8.0f} ms")


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
