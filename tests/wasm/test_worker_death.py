"""A worker dies: its sessions go on in another one where they were, and the step that ran fails."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec import AsyncExecutor, Executor, Limits, Policy, Session, SessionClosed
from safeexec.errors import PolicyError
from safeexec.testing.base import eventually
from safeexec_backends.wasm import WasmBackend, worker_guest
from safeexec_backends.wasm.kept import Keeper
from tests.support.alive import LIVE, LOOK, SEEN
from tests.support.undone import SPIN

from .deaths import PATIENT, guest_of, is_kept, keeper_of, kill_worker, pool_of, worker_of


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(WasmBackend(Policy(), workers=1)) as executor:
        yield executor


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
    monkeypatch.setattr(worker_guest, "_MOVES", 2)
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
