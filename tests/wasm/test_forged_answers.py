"""Guests that say that they are done and are not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from safeexec import Executor, Limits, Policy
from safeexec.testing.base import eventually
from safeexec_backends.wasm import process
from safeexec_backends.wasm.worker_guest import WorkerGuest
from tests.support import unread


def used(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def rests(pid: int) -> bool:
    before = used(pid)
    time.sleep(0.2)
    return used(pid) - before <= 2


@contextlib.contextmanager
def one_worker(seconds: float, rollback: str) -> Iterator[tuple[Executor, int]]:
    """An executor with one worker, and that worker's process id. A session that was there before must not come to harm."""
    policy = Policy(limits=Limits(time=seconds), rollback=rollback)  # type: ignore[arg-type]
    with Executor("wasm", workers=1, policy=policy) as executor, executor.session() as neighbour:
        neighbour.run("x = 1")
        yield executor, neighbour._guest.worker.pid  # type: ignore[attr-defined]
        assert neighbour.run("x").value == 1


def test_answers_that_are_not_read_stop_no_clocks() -> None:
    """The thread that keeps all clocks waited behind the answer that nobody took."""
    with Executor("wasm") as executor:
        unread.check(executor)


@pytest.mark.parametrize("rollback", ["limits", pytest.param("never", marks=pytest.mark.slow)])
def test_a_guest_that_goes_on_behind_its_answer_is_ended(monkeypatch: pytest.MonkeyPatch, rollback: str) -> None:
    """It had the processor for as long as its session was open."""
    monkeypatch.setattr(process, "_REST", 0.3)
    with one_worker(5, rollback) as (executor, worker), executor.session() as session:
        session.run("calls = 0")
        assert session.run(unread.FORGE).ok
        assert eventually(lambda: rests(worker))
        result = session.run("1")
        assert result.error is not None and result.error.kind == "crash"


SERVES = unread.FORGE.replace(
    "while True: pass",
    """
device, split = channel.send.__globals__["device"], channel.recv.__globals__["split"]
while True:
    for _ in range(10000): calls += 1
    while channel.buffered():
        frame = device.receive()
        if len(frame) > 1:  # else it is a word to the worker
            channel.send({'t': 'done', 'id': split(frame)[0]['id'], 'v': calls})
""",
)


@pytest.mark.parametrize("rollback", ["limits", "never"])
def test_a_guest_that_goes_on_behind_its_answer_cannot_answer_the_next_request(
    monkeypatch: pytest.MonkeyPatch, rollback: str
) -> None:
    """It had the processor for as long as its session was asked for something at least every five seconds: each answer began them anew."""
    monkeypatch.setattr(process, "_REST", 3600.0)
    with one_worker(2, rollback) as (executor, worker), executor.session() as session:
        session.run("calls = 0")
        assert session.run(SERVES).ok
        results = [session.run("1")]
        while results[-1].ok and len(results) < 20:
            time.sleep(0.05)
            results.append(session.run("1"))
        assert not results[0].ok and results[0].value is None
        assert session.closed == (rollback == "never")
        assert eventually(lambda: rests(worker))
        assert session.closed or session.run("1").value == 1


def test_a_session_that_is_collected_while_its_worker_is_looked_after_stops_no_clocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any allocation may be where a session that nobody closed is collected, also one of the thread that keeps the clocks."""
    monkeypatch.setattr(process, "_REST", 0.0)

    looked = []

    def collected(guest: WorkerGuest) -> bool:
        looked.append(guest.number)
        guest.worker.works(guest)
        return guest.worker.alive and not guest._busy

    monkeypatch.setattr(WorkerGuest, "at_rest", property(collected))
    with Executor("wasm", workers=1) as executor, executor.session(policy=Policy(limits=Limits(time=0.5))) as session:
        assert session.run("1").ok and eventually(lambda: bool(looked))
        for _ in range(2):
            error = session.run("import time\nwhile True: time.sleep(0.01)").error
            assert error is not None and error.kind == "time"
            assert session.run("1").ok


def test_answers_that_are_not_read_do_not_pile_up(in_process: Executor) -> None:
    """Where the guest is in this process no socket is ever full."""
    made = []

    def large() -> bytes:
        made.append(1)
        return bytes(2_000_000)

    code = unread.FORGE.replace("while True: pass", "").replace("if calls: time.sleep(0.5)", "time.sleep(1.5)")
    with in_process.session({"large": large}, policy=Policy(limits=Limits(time=10))) as session:
        session.run("calls = 150")
        session.run(code)
        assert 1 < len(made) < 100, "as many as there are threads for them, and a few that fit"


def test_an_honest_guest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_REST", 0.0)
    with Executor("wasm", workers=1) as executor, executor.session(policy=Policy(limits=Limits(time=20))) as session:
        session.run("x = 0")
        for _ in range(10):
            assert session.run("import time\ntime.sleep(0.02)\nx += 1").ok
        assert session.run("x").value == 10


@pytest.mark.parametrize("rollback", ["limits", "never"])
def test_a_guest_that_goes_on_behind_its_answer_is_ended_when_its_session_is_closed_at_once(
    monkeypatch: pytest.MonkeyPatch, rollback: str
) -> None:
    """It had the processor for as long as its worker lived: a session that is closed was looked for no more; then for as long as one that is open."""
    monkeypatch.setattr(process, "_REST", 3600.0)
    with one_worker(5, rollback) as (executor, worker):
        assert executor.run("calls = 0\n" + unread.FORGE).ok
        with executor.session() as session:
            session.run("calls = 0")
            assert session.run(unread.FORGE).ok
        assert eventually(lambda: rests(worker))
