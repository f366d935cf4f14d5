"""The pages of sessions that travel, on wasm: none of one session in another, shared by branches, given back, and told apart."""

from __future__ import annotations

import array
import itertools
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeexec import Executor, Limits, Policy, Session
from safeexec_backends.wasm import checkpoint, pages
from safeexec_backends.wasm.instance import Runtime, WasmGuest
from safeexec_backends.wasm.worker_guest import WorkerGuest
from tests.support.undone import SPIN
from tests.wasm.test_travel import FAST


def secret_pages(session: Session) -> bytes:
    guest = session._guest
    assert isinstance(guest, WasmGuest)
    return bytes(guest._host.memory.view)


def test_pages_of_a_branch_are_in_no_later_session(in_process: Executor) -> None:
    marker = os.urandom(16).hex()
    code = f"secret = '{marker}' * 1000"
    with in_process.session() as session:
        session.run(code)
        branches = [session.fork() for _ in range(5)]
        for branch in branches:
            branch.run("kept = secret + 'x'")
            assert marker.encode() in secret_pages(branch)
            branch.close()
    for _ in range(10):
        with in_process.session() as other:
            other.run("1")
            assert marker.encode() not in secret_pages(other)


def test_what_a_failed_step_wrote_is_gone_from_memory(in_process: Executor) -> None:
    marker = os.urandom(16).hex()
    with in_process.session(policy=FAST) as session:
        session.run("x = 1")
        assert session.run(f"secret = '{marker}' * 1000\n" + SPIN).rolled_back
        assert marker.encode() not in secret_pages(session)


def test_branches_share_their_pages(in_process: Executor) -> None:
    def private() -> int:
        with open("/proc/self/smaps_rollup") as file:
            fields = dict(line.split()[:2] for line in file.readlines()[1:])
        return 1024 * (int(fields["Private_Dirty:"]) + int(fields["Private_Clean:"]))

    with in_process.session() as session:
        session.run("import sqlite3, json, random\nx = [str(n) for n in range(20_000)]")
        branches = [session.fork() for _ in range(20)]
        before = private()
        branches += [session.fork() for _ in range(200)]
        assert (private() - before) / 200 < 300_000
        assert all(branch.run("x[-1]").value == "19999" for branch in branches[::40])
        for branch in branches:
            branch.close()


def test_branches_stay_below_the_kernels_number_of_mappings(in_process: Executor) -> None:
    def mappings() -> int:
        with open("/proc/self/maps") as file:
            return sum(1 for _ in file)

    with in_process.session() as session:
        session.run("import sqlite3\nc = sqlite3.connect(':memory:')\nx = {n: str(n) for n in range(5000)}")
        branches = [session.fork() for _ in range(100)]
        before = mappings()
        branches += [session.fork() for _ in range(50)]
        assert (mappings() - before) / 50 < 20  # 65,530 allow three thousand branches in one process
        for branch in branches:
            branch.close()


def test_forks_and_rollbacks_leave_nothing_behind(in_process: Executor) -> None:
    def held() -> tuple[int, int, int]:
        with open("/proc/self/maps") as file:
            return len(os.listdir("/proc/self/fd")), sum(1 for _ in file), threading.active_count()

    def story() -> None:
        with in_process.session(policy=Policy(limits=Limits(time=0.05))) as session:
            session.run("x = [1]")
            for _ in range(10):
                with session.fork() as branch, branch.fork() as twig:
                    twig.run("x.append(1)")
                    branch.run("1")
            session.run(SPIN)
            session.run("x = bytearray(2**30)")

    for _ in range(3):
        story()
    before = held()
    for _ in range(10):
        story()
    after = held()
    assert after[0] <= before[0] and after[1] <= before[1] + 20 and after[2] <= before[2] + 1


def test_worker_frees_what_closed_sessions_kept(workers: Executor) -> None:
    def mappings(pid: int) -> int:
        with open(f"/proc/{pid}/maps") as file:
            return sum(1 for _ in file)

    with workers.session() as keeper:
        assert isinstance(keeper._guest, WorkerGuest)
        worker = keeper._guest.worker
        pid = worker.pid

        def files() -> int:  # but for the channels of sessions to come, of which there are now more and now fewer
            return len(os.listdir(f"/proc/{pid}/fd")) - len(worker._ahead)

        def story() -> None:
            with workers.session(policy=Policy(limits=Limits(time=0.05))) as session:
                session.run("x = [1]")
                branches = [session.fork() for _ in range(20)]
                session.run(SPIN)
                for branch in branches:
                    branch.run("x.append(1)")
                    branch.close()
            keeper.run("1")

        for _ in range(3):
            story()
        # One more: the channel over which it is asked for states to keep.
        before, most = mappings(pid), files() + 1
        for _ in range(5):
            story()
        deadline = 200  # the worker hears of the last sessions' ends on its own time
        while deadline and (mappings(pid) > before + 40 or files() > most):
            deadline -= 1
            keeper.run("import time\ntime.sleep(0.02)")
        assert mappings(pid) <= before + 40 and files() <= most


def test_written_pages_are_found_without_a_pagemap(in_process: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_process.session() as session:
        session.run("x = ['text %d' % n for n in range(5000)]")
        guest = session._guest
        assert isinstance(guest, WasmGuest)
        told = checkpoint.written(guest._host, guest._past.rest)
        memory, pristine = guest._host.memory.view, guest._past.rest.pristine()
        for start, end in pages.compared(memory, pristine):  # what differs was told
            for page in range(start, end, pages.PAGE):
                same_page = memory[page : page + pages.PAGE] == pristine[page : page + pages.PAGE]
                assert same_page or page >= len(pristine) or any(a <= page < b for a, b in told)
        spares = guest._runtime.spares  # of the whole process: what they find out here must not outlive this test
        monkeypatch.setattr(spares, "_usable", spares._usable)
        monkeypatch.setattr(pages.Finder, "ready", lambda self: False)
        with session.fork() as branch:
            branch.run("x.append(1)")
            assert session.run("len(x)").value == 5000 and branch.run("len(x)").value == 5001
        image = session.snapshot()
        session.run(SPIN)
        with in_process.restore(image) as back:
            assert back.run("x[4999]").value == "text 4999"


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), min_size=1, max_size=60), st.integers(1, 30))
def test_joined_runs_cover_the_same_in_fewer_pieces(raw: list[tuple[int, int]], pieces: int) -> None:
    runs = pages.united([(start, start + length) for start, length in raw], ())
    joined = pages.joined(runs, pieces)
    assert len(joined) <= max(pieces, 1) and joined == sorted(joined)
    assert all(any(a <= start and end <= b for a, b in joined) for start, end in runs)
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(joined))


@pytest.mark.parametrize("kept", [0, 312, 623])
def test_a_generator_that_is_as_in_the_image_travels(in_process: Executor, runtime: Runtime, kept: int) -> None:
    """A snapshot leaves out what is as in the image, and every session's generator is drawn anew. `random.seed` makes the first word what it is there."""
    frozen = array.array("I", bytes(runtime.unused().memory.view[runtime.drawn])).tolist()
    words = [*frozen[1 : 2 + kept], *range(623 - kept), frozen[0]]
    with in_process.session(variables={"words": words}) as session:
        session.run("import random\nrandom.setstate((3, tuple(words), None))")
        with in_process.restore(session.snapshot()) as restored:
            assert restored.run("random.getstate()[1] == tuple(words)").value is True
            assert restored.run("random.random()").value == session.run("random.random()").value
