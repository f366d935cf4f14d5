"""A worker dies at a bad moment, or was taken over before: nobody gains by it, nothing is mixed up, nothing is left behind."""

from __future__ import annotations

import collections
import contextlib
import gc
import json
import os
import random
import signal
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeexec import Executor, Policy, Session, SessionClosed
from safeexec.errors import BackendUnavailable
from safeexec.testing import same
from safeexec.testing.base import eventually
from safeexec_backends.wasm import WasmBackend, process, worker_guest
from safeexec_backends.wasm.agreed import ANSWER, ASK, BUSY, RESTLESS, WRITTEN
from safeexec_backends.wasm.kept import Kept
from safeexec_backends.wasm.process import WorkerProcess
from safeexec_backends.wasm.worker_guest import WorkerGuest
from tests.support import histories
from tests.wasm.forging import ATTACKS, parts

from .deaths import PATIENT, guest_of, is_kept, keeper_of, keeper_of_pool, kill_worker, pool_of, worker_of


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(WasmBackend(Policy(), workers=1)) as executor:
        yield executor


# -- attacks, and bad moments -----------------------------------------------------------------------------------------------


class TakenOver:
    """What a worker that was taken over may do on the channel over which it is asked for states."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.ours, theirs = socket.socketpair()

        def serve() -> None:
            with theirs, contextlib.suppress(OSError):
                while theirs.recv(ASK.size, socket.MSG_WAITALL):
                    answer(theirs)

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()


def endless(channel: socket.socket) -> None:
    channel.sendall(ANSWER.pack(WRITTEN, 1000))
    while True:
        channel.sendall(b"x" * 10)
        threading.Event().wait(0.02)


ANSWERS: list[Callable[[socket.socket], None]] = [
    lambda channel: channel.sendall(ANSWER.pack(WRITTEN, 2**32 - 1)),
    lambda channel: channel.sendall(ANSWER.pack(BUSY, 5) + b"abcde"),
    lambda channel: channel.sendall(ANSWER.pack(99, 0)),
    lambda channel: channel.sendall(ANSWER.pack(WRITTEN, 1000)),
    lambda channel: channel.shutdown(socket.SHUT_RDWR),
    endless,
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_worker_that_answers_with_lies_is_not_asked_again(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_WRITING", 0.3)
    with Executor(WasmBackend(Policy(), workers=1)) as executor:
        session, other = executor.session(), executor.session()
        evil = TakenOver(answer)
        worker = guest_of(session).worker
        worker._writing, worker._chances = evil.ours, 1
        session.run("x = 1")
        assert eventually(lambda: "written down" in guest_of(session).unkept, 20)
        assert session.run("x").value == 1  # it goes on
        monkeypatch.setattr(process, "_WRITING", 10)
        kill_worker(session)
        assert session.run("x").error is not None and session.closed
        assert other.run("y = 1").ok and is_kept(other) and guest_of(other).worker is not worker
        assert worker._writing is None and worker.written(1, 1000) == (RESTLESS, b"")
        other.close()
    evil.ours.close()
    evil.thread.join(10)
    assert not evil.thread.is_alive()


@pytest.mark.parametrize("state", [b"", b"garbage" * 1000, bytes(2000), b"\xff" * 70_000])
def test_forged_state_closes_its_session_and_nothing_else(executor: Executor, state: bytes) -> None:
    with executor.session() as other:
        other.run("y = 1")
        session = executor.session()
        session.run("x = 1")
        assert is_kept(session) and is_kept(other)
        keeper_of(session).put(guest_of(session), Kept(state, None))
        kill_worker(session)
        result = session.run("x")
        assert result.error is not None and not result.rolled_back
        with pytest.raises(SessionClosed, match="could not be restored"):
            session.run("x")
        pid = worker_of(other)
        assert other.run("y").value == 1
        assert worker_of(other) != pid


def test_forged_states_that_look_right_close_their_sessions(executor: Executor, in_process: Executor) -> None:
    with in_process.session() as source:
        source.run("import os\nx = [1]\nopen('a', 'w').write('text')\nos.mkdir('d')\nf = open('a')")
        header, written, contents = parts(source.snapshot())

    def kept_as(header: Any) -> Session:
        text = json.dumps(header).encode()
        session = executor.session()
        session.run("x = 1")
        assert is_kept(session)
        state = len(text).to_bytes(4, "little") + text + written + contents
        keeper_of(session).put(guest_of(session), Kept(state, None))
        return session

    sessions = [kept_as(make(header)) for _, make in ATTACKS.values()]
    with kept_as(header) as unchanged, executor.session() as innocent:
        innocent.run("y = 1")
        assert is_kept(innocent)
        kill_worker(innocent)
        for session in sessions:
            session.run("x")
            assert session.closed
        assert innocent.run("y").value == 1 and unchanged.run("x").value == [1]


def test_state_that_workers_die_of_takes_two_of_them_at_most(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[int] = []

    def restore(worker: WorkerProcess, *_: Any) -> Any:
        died.append(worker.pid)
        os.kill(worker.pid, signal.SIGKILL)
        assert eventually(lambda: not worker.alive, 10)
        raise OSError("it died of the state")

    session = executor.session()
    session.run("x = 1")
    assert is_kept(session)
    kill_worker(session)
    monkeypatch.setattr(WorkerGuest, "restore", restore)
    assert session.run("x").error is not None and session.closed
    assert len(died) == len(set(died)) == 2
    assert executor.run("1").value == 1


def test_executor_that_is_closed_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Executor(WasmBackend(Policy(), workers=1))
    session = executor.session()
    session.run("x = 1")
    assert is_kept(session)
    kill_worker(session)
    restore = WorkerGuest.restore
    restored: list[WorkerProcess] = []

    def meanwhile(worker: WorkerProcess, *args: Any) -> WorkerGuest:
        guest = restore(worker, *args)
        executor.close()
        restored.append(worker)
        return guest

    monkeypatch.setattr(WorkerGuest, "restore", meanwhile)
    with contextlib.suppress(SessionClosed):
        assert session.run("x").error is not None
    assert session.closed and len(restored) == 1
    assert eventually(lambda: not Path(f"/proc/{restored[0].pid}").exists(), 10)


@pytest.mark.parametrize("end", ["kill", "close", "interrupt"])
def test_session_that_is_ended_while_it_moves(executor: Executor, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    session = executor.session()
    session.run("x = 1")
    assert is_kept(session)
    kill_worker(session)
    restore = WorkerGuest.restore

    def meanwhile(worker: WorkerProcess, *args: Any) -> WorkerGuest:
        guest = restore(worker, *args)
        getattr(session, end)()
        return guest

    monkeypatch.setattr(WorkerGuest, "restore", meanwhile)
    result = session.run("x = 2" if end != "interrupt" else "x += 1\nwhile x: pass")
    assert result.error is not None
    if end == "interrupt":
        assert result.rolled_back and session.run("x").value == 1
    assert session.closed == (end != "interrupt")
    session.close()
    assert all(guest._socket is not None for worker in pool_of(executor)._workers for guest in worker.sessions)


def test_worker_that_dies_while_it_writes(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = WorkerProcess._asked

    def dies(self: WorkerProcess, *args: Any) -> Any:
        os.kill(self.pid, signal.SIGKILL)
        return asked(self, *args)

    with executor.session() as session, executor.session() as other:
        other.run("y = 1")
        assert is_kept(other)
        monkeypatch.setattr(WorkerProcess, "_asked", dies)
        session.run("x = 1")
        assert eventually(lambda: not guest_of(session).worker.alive, 10)
        monkeypatch.undo()
        assert session.run("x").error is not None and session.closed
        assert other.run("y").value == 1


def test_answer_that_the_host_had_no_room_for_is_not_taken_for_another(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    received, full = process._received, [True]

    def no_room(channel: socket.socket, size: int, deadline: float) -> bytes:
        if size > ANSWER.size and full:
            full.clear()
            raise MemoryError
        return received(channel, size, deadline)

    with executor.session() as session, executor.session() as other:
        monkeypatch.setattr(process, "_received", no_room)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        session.run("x = 1")
        assert eventually(lambda: not full, 10)
        other.run("y = 1")
        session.run("x = 2")
        assert is_kept(session) and is_kept(other)
        kill_worker(session)
        assert session.run("x").value == 2 and other.run("y").value == 1


def test_state_that_arrives_while_its_session_is_closed_is_not_kept(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = executor.session()
    session.run("x = 1")
    assert is_kept(session)
    keeper, guest = keeper_of(session), guest_of(session)
    wish, kill = guest.wish(), WorkerGuest.kill
    assert wish is not None

    def late(self: WorkerGuest) -> None:
        self.keep(wish, b"late")
        kill(self)
        self.keep(wish, b"later")

    monkeypatch.setattr(WorkerGuest, "kill", late)
    session.close()
    assert keeper.get(guest) is None


@pytest.mark.parametrize("what", ["fork", "snapshot"])
def test_worker_that_dies_while_it_is_asked_for_something(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    say = WorkerGuest._say

    def dies(self: WorkerGuest, word: int) -> None:
        monkeypatch.undo()
        os.kill(self.worker.pid, signal.SIGSTOP)  # it does not get to answer
        say(self, word)
        os.kill(self.worker.pid, signal.SIGKILL)

    with executor.session() as session:
        session.run("x = 1")
        for times in range(2):
            assert is_kept(session)
            monkeypatch.setattr(WorkerGuest, "_say", dies)
            if not times:
                made = getattr(session, what)()
                with made if what == "fork" else executor.restore(made) as other:
                    assert other.run("x").value == 1
                assert session.run("x").value == 1
            else:  # a state that workers die of must not take one after the other
                with pytest.raises((SessionClosed, BackendUnavailable)):
                    getattr(session, what)()
        monkeypatch.undo()
        assert executor.run("1").value == 1


def test_worker_that_is_slow_once_is_asked_again(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    with executor.session() as session:
        session.run("x = 1")
        pid = worker_of(session)
        monkeypatch.setattr(process, "_WRITING", 0.2)
        os.kill(pid, signal.SIGSTOP)
        assert eventually(lambda: "written down" in guest_of(session).unkept, 10)
        os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
        session.run("x = 2")
        assert is_kept(session)
        kill_worker(session)
        assert session.run("x").value == 2


def test_states_are_not_those_of_a_request_that_runs(executor: Executor) -> None:
    gate, inside = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        gate.wait(20)

    with executor.session([wait], policy=PATIENT) as session:
        session.run("x = 1")
        guest = guest_of(session)
        assert is_kept(session)
        before = keeper_of(session).get(guest)
        runs = threading.Thread(target=lambda: session.run("x = 2\nwait()\nx = 3"))
        wish = guest.wish()
        assert wish is not None
        runs.start()
        assert inside.wait(20)
        assert guest.wish() is None
        guest.keep(wish, b"half of a step")  # was asked for before the step
        assert keeper_of(session).get(guest) == before
        gate.set()
        runs.join(20)
        guest.keep(wish, b"the step before")
        assert is_kept(session)
        kill_worker(session)
        assert session.run("x").value == 3


def test_neighbours_see_nothing_of_each_other_afterwards(executor: Executor) -> None:
    sessions = [executor.session() for _ in range(8)]
    for number, session in enumerate(sessions):
        session.run(f"secret = 'owner-{number}-' * 1000")
    assert all(map(is_kept, sessions))
    for number, session in enumerate(sessions):
        kept = keeper_of(session).get(guest_of(session))
        assert kept is not None and kept.state is not None
        pages = unpacked(kept.state)
        assert b"owner-%d-" % number in pages
        assert not any(b"owner-%d-" % other in pages for other in range(8) if other != number)
    kill_worker(sessions[0])
    for number, session in enumerate(sessions):
        assert session.run("secret[:8]").value == f"owner-{number}-"
        session.close()


def unpacked(state: bytes) -> bytes:
    length = int.from_bytes(state[:4], "little")
    header = json.loads(state[4 : 4 + length])
    start = 4 + length + header["places"][1]
    return zlib.decompress(state[start : start + header["pages"]])


def test_nothing_is_left_behind() -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    def story() -> None:
        executor = Executor(WasmBackend(Policy(), workers=2))
        sessions = [executor.session() for _ in range(6)]
        for session in sessions:
            session.run("x = 1")
        assert all(map(is_kept, sessions))
        pids = {worker_of(session) for session in sessions}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert [session.run("x").value for session in sessions] == [1] * 6
        pids |= {worker_of(session) for session in sessions}
        assert len(pids) == 4
        keeper = keeper_of(sessions[0])
        sessions[0].close()
        executor.close()
        assert keeper.size() == 0 and not keeper._kept and not keeper._waiting
        assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)

    story()
    before = held()
    for _ in range(2):
        story()
    assert eventually(lambda: held() <= before, 10)


def test_closed_sessions_are_kept_no_longer(executor: Executor) -> None:
    for end in ("close", "kill"):
        session = executor.session()
        session.run("x = 1")
        assert is_kept(session)
        keeper, guest = keeper_of(session), guest_of(session)
        getattr(session, end)()
        assert keeper.get(guest) is None and guest not in keeper._waiting
    session = executor.session()
    session.run("x = 1")
    assert is_kept(session)
    keeper, guest = keeper_of(session), guest_of(session)
    del session
    gc.collect()
    assert eventually(lambda: keeper.get(guest) is None, 10)


# -- properties -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_session_is_ever_in_a_state_of_before_or_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers die all the time, at any moment: every session counts its own steps, and no step twice."""
    monkeypatch.setattr(worker_guest, "_MOVES", 10**9)
    move, moved, wrong = WorkerGuest._move, collections.Counter[str](), list[Any]()

    def counted(self: WorkerGuest, ran: bool) -> None:
        move(self, ran)
        moved["ran" if ran else "rested"] += 1

    monkeypatch.setattr(WorkerGuest, "_move", counted)
    stop = threading.Event()
    step = "x += 1\n_ = c.execute('insert into t values (?)', (mine,))\nx, c.execute('select count(*), min(n) from t').fetchone()"

    def user(number: int) -> None:
        dice = random.Random(number)
        while not stop.is_set():
            with contextlib.suppress(SessionClosed, BackendUnavailable), executor.session(policy=PATIENT) as session:
                begin = "import sqlite3\nc = sqlite3.connect(':memory:')\n_ = c.execute('create table t (n)')\n"
                count = 0
                if not session.run(f"x, mine = 0, {number}\n{begin}").ok:
                    continue
                while not stop.wait(dice.random() * 0.3):
                    result = session.run(step)
                    count += result.ok
                    if result.ok and result.value != (count, (count, number)):
                        wrong.append((result.value, count, number))
                    if dice.random() < 0.3:
                        with session.fork() as branch:
                            value = branch.run(step).value
                            if value not in (None, (count + 1, (count + 1, number))):
                                wrong.append((value, count, number))

    with Executor(WasmBackend(Policy(), workers=2)) as executor:
        executor.run("1")
        threads = [threading.Thread(target=user, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(40):
            stop.wait(0.5)
            random.choice(pool_of(executor)._workers)._kill()
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not wrong and moved["rested"]
        assert keeper_of_pool(executor).size() == 0


@pytest.mark.parametrize("examples", [3, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_session_whose_workers_die_is_the_session_whose_worker_does_not(
    executor: Executor, in_process: Executor, examples: int
) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(
        program=st.lists(st.sampled_from(histories.STEPS), min_size=2, max_size=7),
        events=st.lists(st.sampled_from(("go", "die", "die", "fork", "fail")), min_size=7, max_size=7),
    )
    def programs(program: list[str], events: list[str]) -> None:
        follow(executor, in_process, program, events)

    programs()


def follow(executor: Executor, in_process: Executor, program: list[str], events: list[str]) -> None:
    opened: list[Session] = []
    try:
        control, mortal = in_process.session(policy=PATIENT), executor.session(policy=PATIENT)
        opened += [control, mortal]
        assert control.run(histories.START).ok and mortal.run(histories.START).ok
        for step, event in zip(program, events, strict=False):
            if event == "die":
                assert is_kept(mortal)
                kill_worker(mortal)
            elif event == "fork":
                mortal = mortal.fork()
                opened.append(mortal)
            elif event == "fail":
                assert mortal.run("items.clear()\nnumbers = None\nimport os\nos.abort()").rolled_back
            assert same(histories.outcome(mortal.run(step)), histories.outcome(control.run(step)))
        assert is_kept(mortal)
        kill_worker(mortal)
        assert same(mortal.run(histories.look()).value, control.run(histories.look()).value)
    finally:
        for session in opened:
            session.close()
