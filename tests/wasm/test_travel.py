"""Rollback, branches and snapshots on wasm: by effect, in process and through workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec import Executor, Limits, Policy, Session, SessionClosed, snapshot
from safeexec.testing import same
from safeexec_backends.wasm import WasmBackend, checkpoint, fs_copy, fs_state
from safeexec_backends.wasm.instance import WasmGuest
from safeexec_backends.wasm.worker_guest import WorkerGuest
from tests.support import alive, histories
from tests.support.alive import LIVE, LOOK, SEEN
from tests.support.undone import SPIN

FAST = Policy(limits=Limits(time=0.4))
WRECK = alive.WRECK + "import os\nos.remove('data.db')\n"
"""A file that is brought back is the one that the database has open."""


def test_everything_alive_comes_back(executor: Executor) -> None:
    with executor.session(policy=FAST) as session:
        assert session.run(LIVE).ok
        for end in (SPIN, "import os\nos.abort()", "x = bytearray(2**30)", "while True: print('x' * 100000)"):
            assert session.run(WRECK + end).rolled_back
        assert session.run(LOOK).value == SEEN


def test_everything_alive_is_in_a_branch_and_in_a_branch_of_it(executor: Executor) -> None:
    with executor.session(policy=FAST) as session:
        session.run(LIVE)
        with session.fork() as branch, branch.fork() as twig:
            assert branch.run(WRECK).ok
            assert session.run(WRECK + SPIN).rolled_back
            assert twig.run(LOOK).value == SEEN and session.run(LOOK).value == SEEN


def test_everything_alive_is_in_a_snapshot(executor: Executor, in_process: Executor, workers: Executor) -> None:
    with executor.session(policy=FAST) as session:
        session.run(LIVE)
        image = session.snapshot()
        session.run(WRECK)
    assert len(image) < 2_000_000
    for other in (in_process, workers):  # one reads what the other wrote
        with other.restore(image, policy=FAST) as back, back.fork() as branch:
            assert branch.run(WRECK + SPIN).rolled_back
            assert back.run(LOOK).value == SEEN and branch.run(LOOK).value == SEEN


def test_snapshot_of_a_branch_and_of_a_session_that_was_rolled_back(executor: Executor) -> None:
    with executor.session(policy=FAST) as session:
        session.run("x = [1]")
        with session.fork() as branch:
            branch.run("x.append(2)")
            image = branch.snapshot()
        session.run(SPIN)
        session.run("x.append(3)")
        other = session.snapshot()
    with executor.restore(image) as back, executor.restore(other) as again:
        assert back.run("x").value == [1, 2] and again.run("x").value == [1, 3]


def test_grown_memory_comes_back(executor: Executor) -> None:
    with executor.session(policy=FAST) as session:
        session.run("big = bytearray(range(256)) * 200_000")  # 51 MB
        assert session.run("big[5] = 0\n" + SPIN).rolled_back
        assert session.run("(len(big), big[5], big[-1], sum(big[:1000]))").value == (51_200_000, 5, 255, 124_716)
        with session.fork() as branch:
            branch.run("big[5] = 1")
            assert session.run("big[5]").value == 5 and branch.run("big[5]").value == 1


def test_peak_memory_stays_the_sessions_high_water_mark(executor: Executor) -> None:
    with executor.session(policy=FAST) as session:
        peak = session.run("x = bytearray(50_000_000)\ndel x").usage.peak_memory
        assert peak >= 40_000_000
        session.run(SPIN)
        assert session.run("1").usage.peak_memory >= peak


def test_step_killed_while_it_waits_for_a_tool_is_undone(executor: Executor) -> None:
    gate = threading.Event()
    policy = Policy(limits=Limits(time=0.4, wall=0.5))
    with executor.session({"slow": lambda: gate.wait(10) and None}, policy=policy) as session:
        session.run("x = [1]")
        code = "x.append(2)\nwhile True:\n    try:\n        slow()\n    except BaseException:\n        pass"
        result = session.run(code)
        gate.set()
        assert result.rolled_back and session.run("x").value == [1]


def test_open_files_and_their_places_come_back(executor: Executor) -> None:
    with executor.session(policy=FAST) as session:
        session.run(
            "import os\nf = open('a', 'w+')\nf.write('abcdef')\nf.seek(2)\nos.mkdir('d')\nos.chdir('d')\n"
            "open('x', 'w').write('in d')\nos.symlink('../a', 'link')\ngone = open('gone', 'w+')\n"
            "gone.write('still')\ngone.flush()\nos.remove('gone')\nd = os.open('..', os.O_RDONLY)"
        )
        with session.fork() as branch:
            image = branch.snapshot()
        wreck = (
            "f.close()\ngone.close()\nos.close(d)\nos.remove('x')\nos.remove('link')\nos.chdir('/')\n"
            "os.rmdir('/sandbox/d')\nos.remove('/sandbox/a')\nfor n in range(50): open('/tmp/%d' % n, 'w').close()\n"
        )
        look = (
            "gone.seek(0)\n(f.read(2), f.tell(), gone.read(), os.getcwd(), sorted(os.listdir('.')), open('link').read(),"
            " sorted(os.listdir(d)), os.listdir('/tmp'))"
        )
        seen = ("cd", 4, "still", "/sandbox/d", ["link", "x"], "abcdef", ["a", "d"], [])
        assert session.run(wreck + SPIN).rolled_back
        assert session.run(look).value == seen
        with executor.restore(image, policy=FAST) as back:
            assert back.run(look).value == seen


def test_monotonic_clock_goes_on_in_a_restored_session(executor: Executor) -> None:
    with executor.session() as session:
        session.run("import time\nstarted = time.monotonic()")
        contents = snapshot.unpack(bytes(session.snapshot()), None)
    length = int.from_bytes(contents.state[:4], "little")
    header = json.loads(contents.state[4 : 4 + length])
    header["clock"] += 10**15  # as if written down on a machine that has run for eleven days longer
    text = json.dumps(header).encode()
    state = len(text).to_bytes(4, "little") + text + contents.state[4 + length :]
    with executor.restore(snapshot.pack(contents._replace(state=state), None)) as back, back.fork() as branch:
        for one in (back, branch):
            assert 10**6 <= one.run("time.monotonic() - started").value < 10**6 + 60
            assert one.run("time.sleep(0.01)").ok


def test_branches_draw_the_same_numbers_and_sessions_do_not(executor: Executor) -> None:
    code = "import random\nrandom.random()"
    with executor.session() as session, session.fork() as first, session.fork() as second:
        assert first.run(code).value == second.run(code).value == session.run(code).value
        with executor.session() as stranger:
            assert stranger.run(code).value != session.run(code).value


def test_fork_where_every_session_has_a_worker_of_its_own() -> None:
    with Executor(WasmBackend(Policy(), workers=1, isolation="session")) as executor, executor.session() as session:
        session.run("x = [1]")
        with session.fork() as branch:
            assert isinstance(session._guest, WorkerGuest) and isinstance(branch._guest, WorkerGuest)
            assert session._guest.worker.pid != branch._guest.worker.pid
            branch.run("x.append(2)")
            session.close()
            assert branch.run("x").value == [1, 2]


# -- trouble ----------------------------------------------------------------------------------------------------------------


def test_worker_that_dies_takes_its_sessions_and_says_so(tmp_path: Path) -> None:
    with Executor(WasmBackend(Policy(), workers=1, keep_bytes=0)) as executor:
        session = executor.session()
        session.run("x = 1")
        assert isinstance(session._guest, WorkerGuest)
        session._guest.worker._kill()
        result = session.run("x")
        assert result.error is not None and not result.rolled_back
        with pytest.raises(SessionClosed, match="worker"):
            session.run("x")
        with executor.session() as other:
            assert other.run("1").value == 1


def test_branch_of_a_session_whose_checkpoint_cannot_be_kept(
    in_process: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no memory for a shadow")

    with in_process.session(policy=FAST) as session:
        session.run("x = 1")
        monkeypatch.setattr(checkpoint.shadows, "take", fail)
        result = session.run(SPIN)
        assert not result.rolled_back
        with pytest.raises(SessionClosed, match="no memory for a shadow"):
            session.run("x")


def test_interrupt_that_came_late_does_not_reach_the_state_that_comes_back(executor: Executor) -> None:
    with executor.session(policy=FAST) as session:
        session.run("x = 1")
        session._guest.interrupt()
        # Which may or may not meet it: a worker hears of it in its own time.
        session.run("import time\ntime.sleep(0.1)")
        assert session.run(SPIN).rolled_back
        for _ in range(3):
            assert session.run("sum(range(10_000))").value == 49_995_000


def test_kill_that_came_late_does_not_reach_the_state_that_comes_back(executor: Executor) -> None:
    for _ in range(5):
        with executor.session(policy=Policy(limits=Limits(time=0.05))) as session:
            session.run("x = 1")
            assert session.run(SPIN).rolled_back
            deadline = threading.Event()
            deadline.wait(0.15)  # longer than the grace after which a step that does not stop is killed
            assert session.run("x").value == 1


def test_files_in_directories_without_end_cost_their_own_session_only(executor: Executor) -> None:
    deep = "import os\nfor n in range(3000):\n    os.mkdir('d'); os.chdir('d')\nkept = [os.open('.', 0) for _ in range(200)]"
    with executor.session() as session:
        result = session.run(deep)
        # The open ones keep the directories above them.
        assert result.error is not None and result.error.type == "OSError"
        assert session.run("import os\nos.abort()").rolled_back


def test_checkpoint_with_many_files(executor: Executor) -> None:
    # Not FAST: a checkpoint copies thousands of objects, so the host's garbage collector comes along, and this process is a large one.
    with executor.session(policy=Policy(limits=Limits(time=2))) as session:
        session.run("x = 1")
        session.files.write("kept", "kept")
        for start in range(0, 3000, 100):  # in little steps: none must run out of its time
            assert session.run(f"for n in range({start}, {start + 100}): open(str(n), 'w').close()").ok
        assert session.run("import os\nfor n in range(3000): os.remove(str(n))\n" + SPIN).rolled_back
        assert (
            session.run("len(os.listdir('.')) if 'os' in globals() else len(__import__('os').listdir('.'))").value
            == 3001
        )


# -- properties -------------------------------------------------------------------------------------------------------------

WAYS_TO_FAIL = (
    SPIN,
    "import os\nos.abort()",
    "bytearray(2**30)",
    "while True: print('x' * 100000)",
    "items.clear()\ntable.clear()\nos = None\n" + SPIN,
)


@pytest.mark.parametrize("kind", ["in_process", pytest.param("workers", marks=pytest.mark.slow)])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    program=st.lists(st.sampled_from(histories.STEPS), min_size=1, max_size=8),
    events=st.lists(st.sampled_from(("go", "fail", "fork", "twig", "restore")), min_size=8, max_size=8),
    failures=st.lists(st.sampled_from(WAYS_TO_FAIL), min_size=8, max_size=8),
)
def test_session_that_travels_is_the_session_that_does_not(
    request: pytest.FixtureRequest, kind: str, program: list[str], events: list[str], failures: list[str]
) -> None:
    executor: Executor = request.getfixturevalue(kind)
    policy = Policy(limits=Limits(time=0.3))
    opened: list[Session] = []
    try:
        control, traveller = executor.session(policy=Policy()), executor.session(policy=policy)
        opened += [control, traveller]
        assert control.run(histories.START).ok and traveller.run(histories.START).ok
        for step, event, failure in zip(program, events, failures, strict=False):
            if event == "fail":
                assert traveller.run(step + "\n" + failure).rolled_back or step in histories.RAISES
                if step in histories.RAISES:
                    continue  # an ordinary exception: nothing was changed, nothing undone
            elif event == "fork":  # go on in the branch
                traveller = traveller.fork()
                opened.append(traveller)
            elif event == "twig":  # let a branch do something else, and go on as if it had not been
                with traveller.fork() as twig:
                    twig.run("items.append('twig')\nopen('log', 'a').write('twig')\nnext(numbers)\ndatabase.rollback()")
            elif event == "restore":
                traveller = executor.restore(traveller.snapshot(), policy=policy)
                opened.append(traveller)
            mine, its = traveller.run(step), control.run(step)
            if mine.rolled_back:  # a busy machine: 300 ms were not enough
                mine = traveller.run(step)
            assert same(histories.outcome(mine), histories.outcome(its))
        assert same(traveller.run(histories.look()).value, control.run(histories.look()).value)
    finally:
        for session in opened:
            session.close()


RESUME = """
import sys
from safeexec import Executor
from safeexec_backends.wasm import WasmBackend
from safeexec import Policy
with Executor(WasmBackend(Policy(), workers=int(sys.argv[2]))) as executor:
    with executor.restore(sys.argv[1], tools={"twice": lambda n: 2 * n}) as session:
        print(session.run("(list(half), twice(total), database.in_transaction)").value)
        print(session.run("database.execute('select n from t').fetchall()").value)
        print(session.run("database.rollback()\\ndatabase.execute('select n from t').fetchall()").value)
"""
BEGIN = """
import os, sys
from safeexec import Executor, Policy
from safeexec_backends.wasm import WasmBackend
executor = Executor(WasmBackend(Policy(), workers=int(sys.argv[2])))
session = executor.session()
result = session.run('''
import sqlite3
database = sqlite3.connect('data.db')
database.execute('create table t (n)')
database.execute('insert into t values (1)')
database.commit()
database.execute('insert into t values (2)')
half = (n * n for n in range(6))
total = next(half) + next(half) + next(half)
''')
assert result.ok, result.error
session.snapshot().save(sys.argv[1])
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("writer", "reader"), [("0", "0"), pytest.param("1", "0", marks=pytest.mark.slow), ("0", "1")])
def test_a_fresh_process_continues_after_the_first_was_killed(tmp_path: Path, writer: str, reader: str) -> None:
    path = str(tmp_path / "state")
    first = subprocess.run([sys.executable, "-c", BEGIN, path, writer], capture_output=True, text=True, timeout=120)
    assert first.returncode == -9, first.stderr
    second = subprocess.run([sys.executable, "-c", RESUME, path, reader], capture_output=True, text=True, timeout=120)
    assert second.stdout.splitlines() == ["([9, 16, 25], 10, True)", "[(1,), (2,)]", "[(1,)]"], second.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in_process", "workers"])
def test_ten_thousand_forks(request: pytest.FixtureRequest, kind: str) -> None:
    executor: Executor = request.getfixturevalue(kind)

    def held(pid: int) -> tuple[int, int, int]:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/statm") as memory:
            return len(os.listdir(f"/proc/{pid}/fd")), sum(1 for _ in maps), int(memory.read().split()[1]) * 4096

    with executor.session() as session:
        session.run("x = [0]\nimport sqlite3\nc = sqlite3.connect(':memory:')")
        guest = session._guest
        watched = [os.getpid()] + ([guest.worker.pid] if isinstance(guest, WorkerGuest) else [])
        before: list[tuple[int, int, int]] = []
        for number in range(10_000):
            with session.fork() as branch:
                if number % 10 == 0:
                    assert branch.run("x.append(1)\nlen(x)").value == 2 + number // 1000
            if number % 1000 == 999:
                session.run("x.append(2)")
            if number == 1000:
                before = [held(pid) for pid in watched]
        for pid, (fds, maps, memory) in zip(watched, before, strict=True):
            now = held(pid)
            assert now[0] <= fds + 2 and now[1] <= maps + 50 and now[2] <= memory + 50_000_000, (now, fds, maps, memory)


def test_file_system_is_written_down_and_read_back_the_same(in_process: Executor) -> None:
    with in_process.session() as session:
        session.run(
            LIVE + "\nimport os\nos.makedirs('a/b/c')\nos.chdir('a/b')\nopen('../x', 'w').write('x')\nfd = os.dup(1)"
        )
        guest = session._guest
        assert isinstance(guest, WasmGuest)
        base, quota = guest._runtime.base, guest._host.files.quota
        described, contents = fs_state.dump(guest._host.files, base)
        again = fs_state.load(
            json.loads(json.dumps(described)), memoryview(b"".join(map(bytes, contents))), base, quota
        )
        assert json.dumps(fs_state.dump(again, base)[0]) == json.dumps(described)
        assert (again.used, again.inodes) == (guest._host.files.used, guest._host.files.inodes)
        twin = fs_copy.copy(guest._host.files)
        assert json.dumps(fs_state.dump(twin, base)[0]) == json.dumps(described)


CHANGES = {
    "mode": "os.chmod('f', 0o600)",
    "mode by descriptor": "with open('f') as f: os.fchmod(f.fileno(), 0o600)",
    "time": "os.utime('f', (1000, 1000))",
    "special mode": "os.chmod('f', 0o7755)",
    "time before 1970": "os.utime('f', (-5, -5))",
    "earliest": "os.utime('f', ns=(0, -(2**63) * 10**9))",
    "latest": "os.utime('f', ns=(0, (2**63 - 1) * 10**9 + 999_999_999))",
}
SHOWN = "[(s.st_mode, s.st_mtime_ns) for s in [os.stat('f'), os.stat('d')]]"


def test_what_is_changed_of_a_file_beside_its_content_travels(in_process: Executor) -> None:
    with in_process.session(policy=FAST) as session:
        session.run("import os\nopen('f', 'w').write('x')\nos.mkdir('d')")
        for name, change in CHANGES.items():
            session.run("os.chmod('f', 0o644)\nos.utime('f', (5, 5))")
            session.run(change)
            before = session.run(SHOWN).value
            assert before[0] != (0o100644, 5 * 10**9)
            if name in ("mode", "time"):
                assert session.run(SPIN).rolled_back
            assert session.run(SHOWN).value == before, name
            with session.fork() as branch, in_process.restore(session.snapshot(), policy=FAST) as restored:
                assert branch.run(SHOWN).value == restored.run(SHOWN).value == before, name
