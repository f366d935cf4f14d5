"""What the machine itself costs, below which no sandbox can be: python benchmarks/floors.py [--json].

Each figure is one thing that sandboxes do and cannot do without, alone: handing a request to another process, copying a process, copying the pages that
it writes to, compiling a step, moving ten megabytes. Fastest and median, since a machine that does other things besides disturbs the latter.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import socket
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, sleep

from safeexec import Executor

PAGE = mmap.PAGESIZE
BIG = 10 * 2**20
SOURCES = {"1 + 1": "eval", "total = 0\nfor i in range(10):\n    total += i\n": "exec"}
INSIDE = """
from time import perf_counter
def best(source, mode):
    found = []
    for _ in range(300):
        started = perf_counter()
        compile(source, "<step>", mode)
        found.append((perf_counter() - started) * 1e6)
    return sorted(found)
[best(source, mode) for source, mode in sources.items()]
"""


def microseconds(work: Callable[[], object], times: int, before: Callable[[], object] = lambda: None) -> list[float]:
    """Of each call, sorted."""
    found = []
    for _ in range(times):
        before()
        started = perf_counter()
        work()
        found.append((perf_counter() - started) * 1e6)
    return sorted(found)


@contextmanager
def echo() -> Iterator[socket.socket]:
    """A process that sends back what it is sent."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        while data := theirs.recv(2**20):
            theirs.sendall(data)
        os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(pid, 0)


def hand_over(pause: float) -> list[float]:
    """A hundred bytes to another process and back: two processes are woken."""
    with echo() as there:

        def trip() -> None:
            there.sendall(b"x" * 100)
            there.recv(2**16)

        trip()
        return microseconds(trip, 300, lambda: sleep(pause) if pause else None)


def copy_of_a_process(megabytes: int) -> list[float]:
    """fork() of a process that holds so much, and the end of the copy."""
    held = mmap.mmap(-1, megabytes * 2**20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, len(held), PAGE):
        held[place] = 1

    def copy() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    found = microseconds(copy, 100)
    held.close()
    return found


def first_writes(pages: int) -> list[float]:
    """Writing to each of so many pages that a copied process shares, per page: the kernel copies it then."""
    held = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def write() -> None:
        for place in range(0, len(held), PAGE):
            held[place] = 1

    write()
    plain = microseconds(write, 20)[0]
    found = []
    for _ in range(20):
        blocked, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(blocked, 1)
            os._exit(0)
        found += [(taken - plain) / pages for taken in microseconds(write, 1)]
        os.close(go)
        os.close(blocked)
        os.waitpid(pid, 0)
    held.close()
    return sorted(found)


def ten_megabytes() -> list[float]:
    """Ten megabytes into another process's memory, and word that they are there."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        into = bytearray(BIG)
        while theirs.recv_into(into, BIG, socket.MSG_WAITALL) == BIG:
            theirs.sendall(b".")
        os._exit(0)
    theirs.close()
    data = bytes(BIG)

    def send() -> None:
        ours.sendall(data)
        ours.recv(1)

    send()
    found = microseconds(send, 20)
    ours.close()
    os.waitpid(pid, 0)
    return found


def compiling() -> dict[str, list[float]]:
    """The steps of SOURCES, in this Python and in that of the wasm sandbox."""
    found = {}
    for source, mode in SOURCES.items():

        def work(source: str = source, mode: str = mode) -> None:
            compile(source, "<step>", mode)

        found[f"compile a step of {source.count(chr(10)) or 1} lines here, us"] = microseconds(work, 300)
    with Executor("wasm", workers=0) as executor, executor.session(variables={"sources": SOURCES}) as session:
        inside = session.run(INSIDE).raise_for_error().value
    for source, times in zip(SOURCES, inside, strict=True):
        found[f"compile a step of {source.count(chr(10)) or 1} lines in wasm, us"] = times
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line for programs")
    options = parser.parse_args()
    figures = {
        "another process and back, at once, us": hand_over(0),
        "another process and back, after 2 ms of rest, us": hand_over(0.002),
        "copy a process of 25 MB, us": copy_of_a_process(25),
        "first write to a shared page, us": first_writes(300),
        "10 MB to another process, us": ten_megabytes(),
        **compiling(),
    }
    if options.json:
        print(json.dumps({name: [times[0], statistics.median(times)] for name, times in figures.items()}))
        return
    print(f"{'':52} {'fastest':>10} {'median':>10}")
    for name, times in figures.items():
        print(f"{name:52} {times[0]:10.1f} {statistics.median(times):10.1f}")


if __name__ == "__main__":
    main()
