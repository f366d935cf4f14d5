"""A worker dies: its sessions go on in another one where they were, the step that ran fails, and nobody gains by any of it."""

from __future__ import annotations

import asyncio
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

from safeexec import AsyncExecutor, Executor, Limits, Policy, Session, SessionClosed
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.testing import same
from safeexec.testing.base import eventually
from safeexec_backends.wasm import WasmBackend, process
from safeexec_backends.wasm.agreed import ANSWER, ASK, BUSY, RESTLESS, WRITTEN
from safeexec_backends.wasm.kept import Keeper, Kept
from safeexec_backends.wasm.process import WorkerGuest, WorkerProcess

from .test_travel import ATTACKS, LIVE, LOOK, PROPERTY_LOOK, PROPERTY_START, SEEN, SPIN, STEPS, outcome, parts

PATIENT = Policy(limits=Limits(time=30))


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(WasmBackend(Policy(), workers=1)) as executor:
        yield executor


def guest_of(session: Session) -> WorkerGuest:
    guest = session._guest
    assert isinstance(guest, WorkerGuest)
    return guest


def keeper_of(session: Session) -> Keeper:
    keeper = guest_of(session).keeper
    assert keeper is not None
    return keeper


def is_kept(session: Session) -> bool:
    """Whether the session's state is kept, waiting a little for it."""
    guest = guest_of(session)
    return eventually(lambda: guest._untouched or keeper_of(session).get(guest) is not None, 20)


def worker_of(session: Session) -> int:
    return guest_of(session).worker.pid


def kill_worker(session: Session) -> None:
    """And see it gone."""
    pid = worker_of(session)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists(), 10)


def test_everything_alive_goes_on(executor: Executor) -> None:
    with executor.session(policy=PATIENT) as session:
        assert session.run(LIVE + "random.seed(3)\nopen('file', 'w').write('text')\ndrawn = random.random()").ok
        assert is_kept(session)
        pid = worker_of(session)
        kill_worker(session)
        result = session.run(LOOK)
        assert result.value == SEEN and not result.rolled_back
        assert session.run("random.seed(3)\nrandom.random() == drawn, open('file').read()").value == (True, "text")
        assert session.files.read("file") == b"text"
        assert worker_of(session) != pid


def test_random_numbers_go_on_where_they_were(executor: Executor) -> None:
    with executor.session() as session:
        session.run("import random, secrets\nseen = [random.random()]")
        with session.fork() as branch:
            assert is_kept(session) and is_kept(branch)
            kill_worker(session)
            expected = branch.run("random.random()").value
            assert session.run("random.random()").value == expected


def test_session_that_has_done_nothing_goes_on(executor: Executor) -> None:
    with executor.session({"twice": lambda n: 2 * n}, policy=Policy(imports=("math",))) as session:
        kill_worker(session)
        assert session.run("twice(4)").value == 8
        assert session.run("import json").error is not None  # what it may import is the same as before


def test_branch_of_a_session_that_has_done_nothing_draws_its_numbers_still(executor: Executor) -> None:
    with executor.session() as session, session.fork() as branch:
        assert not guest_of(session)._untouched and is_kept(session) and is_kept(branch)
        kill_worker(session)
        draw = "import random\nrandom.random()"
        assert session.run(draw).value == branch.run(draw).value


def test_step_that_ran_fails_and_is_undone_and_its_neighbour_goes_on(executor: Executor) -> None:
    started = threading.Event()
    with executor.session(policy=PATIENT) as idle, executor.session([started.set], policy=PATIENT) as runs:
        idle.run("numbers = iter(range(5))\nnext(numbers)")
        runs.run("x = [1]")
        assert is_kept(idle) and is_kept(runs)
        killer = threading.Thread(target=lambda: (started.wait(20), os.kill(worker_of(runs), signal.SIGKILL)))
        killer.start()
        result = runs.run("x.append(2)\nprint('begun')\nset()\n" + SPIN)
        killer.join()
        assert result.error is not None and result.error.kind == "crash" and "worker" in result.error.message
        assert result.rolled_back and result.stdout == "begun\n" and len(result.tool_calls) == 1
        assert runs.run("x").value == [1]
        assert idle.run("next(numbers)").value == 1


def test_session_under_which_workers_die_twice_is_closed_the_second_time(executor: Executor) -> None:
    def die() -> None:
        os.kill(worker_of(guilty), signal.SIGKILL)

    with executor.session(policy=PATIENT) as innocent:
        innocent.run("x = 0")
        guilty = executor.session([die], policy=PATIENT)
        guilty.run("x = [1]")
        assert is_kept(guilty) and is_kept(innocent)
        assert guilty.run("x.append(2)\ndie()\n" + SPIN).rolled_back
        assert guilty.run("x").value == [1] and is_kept(guilty)
        branch = guilty.fork()  # it does not get another chance by being two
        assert innocent.run("x += 1\nx").value == 1 and is_kept(innocent) and is_kept(branch)
        result = guilty.run("x.append(3)\ndie()\n" + SPIN)
        assert result.error is not None and result.error.kind == "crash" and not result.rolled_back
        with pytest.raises(SessionClosed, match="not restored again"):
            guilty.run("x")
        guilty = branch
        assert branch.run("x").value == [1]
        result = branch.run("die()\n" + SPIN)
        assert result.error is not None and not result.rolled_back and branch.closed
        assert innocent.run("x += 1\nx").value == 2


def test_no_session_is_restored_for_ever(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MOVES", 2)
    with executor.session() as session:
        session.run("x = 1")
        for _ in range(2):
            assert is_kept(session)
            kill_worker(session)
            assert session.run("x").value == 1
        assert is_kept(session)
        kill_worker(session)
        assert session.run("x").error is not None
        with pytest.raises(SessionClosed, match="not restored again"):
            session.run("x")


def test_deaths_without_a_request_in_between(executor: Executor) -> None:
    with executor.session() as session, executor.session() as other:
        session.run("x = [1]")
        other.run("y = 2")
        assert is_kept(session) and is_kept(other)
        kill_worker(session)
        assert session.run("x.append(2)\nx").value == [1, 2] and is_kept(session)
        kill_worker(session)
        assert session.run("x").value == [1, 2]
        assert other.run("y").value == 2  # two workers later


def test_tools_policy_output_and_undoing_work_in_the_new_worker(executor: Executor) -> None:
    heard: list[str] = []
    calls: list[int] = []
    policy = Policy(
        limits=Limits(time=2, memory=64 << 20, output=5000, disk=1 << 20), rollback="errors", env={"A": "b"}
    )
    with executor.session({"note": calls.append}, policy=policy) as session:
        session.run("import os\nx = [1]")
        assert is_kept(session)
        kill_worker(session)
        result = session.run(
            "note(7)\nprint('one')\nprint(os.environ['A'])", on_output=lambda piece: heard.append(str(piece))
        )
        assert result.ok and calls == [7] and "".join(heard) == "one\nb\n"
        assert session.run("x.append(2)\n1 / 0").rolled_back
        assert session.run("x.append(3)\nx = bytearray(128 << 20)").rolled_back
        assert session.run("open('f', 'wb').write(bytes(2 << 20))").error is not None
        assert session.run("print('x' * 9000)").truncated
        assert session.run("x").value == [1]
        session.variables["z"] = 5
        assert session.variables["z"] == 5
        session.add_tools({"again": lambda: "still"})
        assert session.run("again()").value == "still"


def test_variables_files_branches_and_snapshots_find_the_session(executor: Executor) -> None:
    works: list[Any] = [
        lambda s: s.variables["x"],
        lambda s: s.files.read("f") and [1],
        lambda s: s.fork().run("x").value,
        lambda s: executor.restore(s.snapshot()).run("x").value,
    ]
    for work in works:
        with executor.session() as session:
            session.run("x = [1]\nopen('f', 'w').write('f')")
            assert is_kept(session)
            kill_worker(session)
            assert work(session) == [1]
            assert session.run("x.append(2)\nx").value == [1, 2]


def test_branches_go_on_each_in_its_own_state(executor: Executor) -> None:
    with executor.session() as session:
        session.run("x = [0]\nbig = [str(n) for n in range(20_000)]")
        branches = [session.fork() for _ in range(6)]
        for number, branch in enumerate(branches):
            if number:
                branch.run(f"x.append({number})")
        assert all(map(is_kept, (session, *branches)))
        kill_worker(session)
        assert session.run("x").value == [0]
        assert branches[0].run("x, len(big)").value == ([0], 20_000)
        for number, branch in enumerate(branches[1:], 1):
            assert branch.run("x, big[-1]").value == ([0, number], "19999")
            branch.close()
        with session.fork() as branch:
            assert branch.run("x").value == [0]


def test_request_that_no_worker_has_read_is_made_again(executor: Executor) -> None:
    with executor.session() as session:
        session.run("x = 0")
        for number in range(1, 6):
            assert is_kept(session)
            os.kill(worker_of(session), signal.SIGKILL)  # it may take the kernel a while to end it
            result = session.run("x += 1\nx")
            assert result.value == number and not result.rolled_back


def test_large_request_that_a_worker_has_read_in_part_is_made_again(executor: Executor) -> None:
    with executor.session(policy=PATIENT) as session:
        session.run("x = 0")
        assert is_kept(session)
        pid = worker_of(session)
        os.kill(pid, signal.SIGSTOP)
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))  # by then the request fills the socket
        killer.start()
        session.variables["data"] = bytes(8 << 20)
        killer.join()
        assert session.run("len(data), x").value == (8 << 20, 0)


def test_sessions_outlive_the_zygote_that_their_workers_came_from() -> None:
    with Executor(WasmBackend(Policy(), workers=1)) as executor, executor.session() as session:
        session.run("x = 1")
        assert is_kept(session)
        pid = worker_of(session)
        os.kill(pool_of(executor)._zygote._process.pid, signal.SIGKILL)
        assert eventually(lambda: not Path(f"/proc/{pid}").exists(), 10)
        assert session.run("x += 1\nx").value == 2


def test_two_workers_that_die_at_once() -> None:
    with Executor(WasmBackend(Policy(), workers=2)) as executor:
        sessions = [executor.session() for _ in range(6)]
        for number, session in enumerate(sessions):
            session.run(f"x = {number}")
        assert all(map(is_kept, sessions))
        for pid in {worker_of(session) for session in sessions}:
            os.kill(pid, signal.SIGKILL)
        found: list[Any] = [None] * 6

        def go_on(number: int) -> None:
            found[number] = sessions[number].run("x").value

        threads = [threading.Thread(target=go_on, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert found == list(range(6))
        assert len({worker_of(session) for session in sessions}) == 2


def test_network_is_reached_and_refused_as_before(executor: Executor) -> None:
    look = """
import urllib.request
def reach(address):
    try:
        return urllib.request.urlopen(address, timeout=5).status
    except Exception as error:
        return str(error)
reach('http://127.0.0.1:9/'), reach('http://other.invalid/')
"""
    with executor.session(policy=Policy(network=("example.invalid",), limits=Limits(time=30))) as session:
        before = session.run(look)
        assert before.ok and before.network
        assert is_kept(session)
        kill_worker(session)
        after = session.run("reach('http://127.0.0.1:9/'), reach('http://other.invalid/')")
        assert after.value == before.value and [line.host for line in after.network] == [n.host for n in before.network]


def test_asynchronous_sessions_go_on(executor: Executor) -> None:
    async def work() -> tuple[Any, Any]:
        async with AsyncExecutor(WasmBackend(Policy(), workers=1)) as executor, executor.session([twice]) as session:
            await session.run("x = await twice.aio(4)")
            inner = session._session
            assert await asyncio.to_thread(is_kept, inner)
            await asyncio.to_thread(kill_worker, inner)
            result = await session.run("x + await twice.aio(1)")
            return result.value, result.rolled_back

    async def twice(n: int) -> int:
        return 2 * n

    assert asyncio.run(work()) == (10, False)


def test_session_with_many_files_goes_on(executor: Executor) -> None:
    with executor.session(policy=PATIENT) as session:
        session.run(
            "import os\nfor n in range(3000):\n    with open(str(n), 'w') as f: f.write(str(n))\nf = open('17')\nf.read(1)"
        )
        assert is_kept(session)
        kill_worker(session)
        assert session.run("len(os.listdir('.')), open('2999').read(), f.read()").value == (3000, "2999", "7")
        assert session.run("os.remove('3')\n" + "import os\nos.abort()").rolled_back
        assert session.run("len(os.listdir('.'))").value == 3000


def test_only_what_changed_is_written_down_again(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    with executor.session() as session:
        session.run("x = 1")
        assert is_kept(session)
        worker = guest_of(session).worker
        monkeypatch.setattr(worker, "written", lambda *_: pytest.fail("nothing has changed"))
        assert session.variables["x"] == 1
        first = keeper_of(session).get(guest_of(session))
        assert first is not None
        kill_worker(session)
        assert session.run("x").value == 1


# -- what is not kept says why ----------------------------------------------------------------------------------------------


def lost(session: Session, why: str) -> None:
    kill_worker(session)
    result = session.run("1")
    assert result.error is not None and result.error.kind == "crash" and not result.rolled_back
    with pytest.raises(SessionClosed, match=why):
        session.run("1")


def test_session_whose_state_was_not_kept_yet_is_lost(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keeper, "want", lambda *_: None)
    session = executor.session()
    session.run("x = 1")
    lost(session, "left alone")


def test_state_of_an_earlier_step_is_never_given_back(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    session = executor.session()
    session.run("x = 1")
    assert is_kept(session)
    monkeypatch.setattr(Keeper, "want", lambda *_: None)
    session.run("x = 2")
    lost(session, "left alone")


def test_without_room_nothing_is_kept() -> None:
    with Executor(WasmBackend(Policy(), workers=1, keep_bytes=0)) as executor:
        session = executor.session()
        session.run("x = 1")
        assert guest_of(session).keeper is None
        lost(session, "worker process of the session died")


def test_session_that_is_not_undone_is_not_kept(executor: Executor) -> None:
    session = executor.session(policy=Policy(rollback="never"))
    session.run("x = 1")
    kill_worker(session)
    assert session.run("1").error is not None and session.closed
    assert keeper_of(session).get(guest_of(session)) is None


def test_oldest_states_make_room() -> None:
    with Executor(WasmBackend(Policy(), workers=1, keep_bytes=400_000)) as executor:
        sessions = []
        for _ in range(5):
            sessions.append(executor.session())
            sessions[-1].run("import os\nx = os.urandom(100_000)")
            assert is_kept(sessions[-1])
        keeper = keeper_of(sessions[0])
        held = [session for session in sessions if keeper.get(guest_of(session)) is not None]
        assert 0 < len(held) < 5 and held == sessions[-len(held) :]
        assert 0 < keeper.size() <= 400_000
        kill_worker(sessions[0])
        assert held[0].run("len(x)").value == 100_000
        assert sessions[0].run("1").error is not None
        with pytest.raises(SessionClosed, match="keep_bytes"):
            sessions[0].run("1")
        for session in sessions:
            session.close()
        assert keeper.size() == 0


def test_state_that_is_too_large_says_so(executor: Executor) -> None:
    session = executor.session(policy=PATIENT)
    session.run("x = bytearray(b'x') * (40 << 20)")
    assert eventually(lambda: "too large" in guest_of(session).unkept, 20)
    lost(session, "too large")


def test_sessions_with_a_worker_each_are_as_they_were() -> None:
    with Executor(WasmBackend(Policy(), isolation="session")) as executor:
        session = executor.session()
        session.run("x = 1")
        assert guest_of(session).keeper is None
        lost(session, "worker process of the session died")


@pytest.mark.parametrize("keep", [-1, 1.5, "1", None, True])
def test_bytes_to_keep_are_a_number(keep: Any) -> None:
    with pytest.raises(PolicyError, match="keep_bytes"):
        WasmBackend(Policy(), workers=1, keep_bytes=keep)


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
    sessions = []
    for attack in ATTACKS.values():
        text = json.dumps(attack(header)).encode()
        session = executor.session()
        session.run("x = 1")
        assert is_kept(session)
        state = len(text).to_bytes(4, "little") + text + written + contents
        keeper_of(session).put(guest_of(session), Kept(state, None))
        sessions.append(session)
    with executor.session() as innocent:
        innocent.run("y = 1")
        assert is_kept(innocent)
        kill_worker(innocent)
        for session in sessions:
            session.run("x")
            assert session.closed
        assert innocent.run("y").value == 1


def test_state_that_workers_die_of_takes_two_of_them_at_most(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[int] = []

    def restore(self: WorkerProcess, *_: Any) -> Any:
        died.append(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        assert eventually(lambda: not self.alive, 10)
        raise OSError("it died of the state")

    session = executor.session()
    session.run("x = 1")
    assert is_kept(session)
    kill_worker(session)
    monkeypatch.setattr(WorkerProcess, "restore", restore)
    assert session.run("x").error is not None and session.closed
    assert len(died) == len(set(died)) == 2
    assert executor.run("1").value == 1


def test_executor_that_is_closed_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Executor(WasmBackend(Policy(), workers=1))
    session = executor.session()
    session.run("x = 1")
    assert is_kept(session)
    kill_worker(session)
    restore = WorkerProcess.restore
    restored: list[WorkerProcess] = []

    def meanwhile(self: WorkerProcess, *args: Any) -> WorkerGuest:
        guest = restore(self, *args)
        executor.close()
        restored.append(self)
        return guest

    monkeypatch.setattr(WorkerProcess, "restore", meanwhile)
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
    restore = WorkerProcess.restore

    def meanwhile(self: WorkerProcess, *args: Any) -> WorkerGuest:
        guest = restore(self, *args)
        getattr(session, end)()
        return guest

    monkeypatch.setattr(WorkerProcess, "restore", meanwhile)
    result = session.run("x = 2" if end != "interrupt" else "x += 1\nwhile x: pass")
    assert result.error is not None
    if end == "interrupt":
        assert result.rolled_back and session.run("x").value == 1
    assert session.closed == (end != "interrupt")
    session.close()
    assert all(guest._socket is not None for worker in pool_of(executor)._workers for guest in worker.sessions)


def pool_of(executor: Executor) -> Any:
    return executor._backend._pool  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("what", ["fork", "snapshot"])
def test_worker_that_dies_while_it_is_asked_for_something(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    wait = WorkerGuest._wait

    def dies(self: WorkerGuest, kind: str) -> Any:
        monkeypatch.undo()
        os.kill(self.worker.pid, signal.SIGSTOP)  # it does not get to answer
        os.kill(self.worker.pid, signal.SIGKILL)
        return wait(self, kind)

    with executor.session() as session:
        session.run("x = 1")
        for times in range(2):
            assert is_kept(session)
            monkeypatch.setattr(WorkerGuest, "_wait", dies)
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
    monkeypatch.setattr(process, "_MOVES", 10**9)
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


def keeper_of_pool(executor: Executor) -> Keeper:
    keeper = pool_of(executor).keeper
    assert isinstance(keeper, Keeper)
    return keeper


@pytest.mark.parametrize("examples", [3, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_session_whose_workers_die_is_the_session_whose_worker_does_not(
    executor: Executor, in_process: Executor, examples: int
) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(
        program=st.lists(st.sampled_from(STEPS), min_size=2, max_size=7),
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
        assert control.run(PROPERTY_START).ok and mortal.run(PROPERTY_START).ok
        for step, event in zip(program, events, strict=False):
            if event == "die":
                assert is_kept(mortal)
                kill_worker(mortal)
            elif event == "fork":
                mortal = mortal.fork()
                opened.append(mortal)
            elif event == "fail":
                assert mortal.run("items.clear()\nnumbers = None\nimport os\nos.abort()").rolled_back
            assert same(outcome(mortal.run(step)), outcome(control.run(step)))
        assert is_kept(mortal)
        kill_worker(mortal)
        assert same(mortal.run(PROPERTY_LOOK).value, control.run(PROPERTY_LOOK).value)
    finally:
        for session in opened:
            session.close()
