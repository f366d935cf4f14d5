"""Rollback, branches and snapshots on wasm: by effect, in process and through workers; and snapshots made to attack."""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec import Executor, Limits, Policy, Session, SessionClosed, Snapshot, SnapshotError, snapshot
from safeexec.testing import same
from safeexec_backends.wasm import WasmBackend, checkpoint, fs_copy, fs_state, pages
from safeexec_backends.wasm.instance import WasmGuest
from safeexec_backends.wasm.worker_guest import WorkerGuest
from tests.support import histories, late

SPIN = "while True:\n    pass"
FAST = Policy(limits=Limits(time=0.4))


@pytest.fixture(scope="module")
def workers() -> Iterator[Executor]:
    with Executor(WasmBackend(Policy(), workers=1)) as executor:
        yield executor


@pytest.fixture(params=["in_process", "workers"])
def executor(request: pytest.FixtureRequest) -> Executor:
    found: Executor = request.getfixturevalue(request.param)
    return found


LIVE = """
import sqlite3, asyncio, contextvars, itertools, random
memory = sqlite3.connect(':memory:')
memory.execute('create table t (n)')
memory.execute('insert into t values (1)')
disk = sqlite3.connect('data.db')
disk.execute('create table t (n)')
disk.commit()
disk.execute('insert into t values (1)')
def walk():
    try:
        for n in range(100):
            yield n
    finally:
        print('closed')
walker = walk()
next(walker)
count = itertools.count(5)
next(count)
def make():
    total = 0
    def add(n):
        nonlocal total
        total += n
        return total
    return add
add = make()
add(3)
class Node:
    def __init__(self, value):
        self.value, self.me = value, self
nodes = [Node(n) for n in range(1000)]
async def later():
    await asyncio.sleep(0)
    return 42
task = None
async def begin():
    global task
    task = asyncio.get_running_loop().create_task(later())
await begin()
"""
LOOK = """
async def finish():
    return await task
(next(walker), next(count), add(1), [n.value for n in nodes[:3]], nodes[5].me is nodes[5],
 memory.execute('select count(*) from t').fetchone()[0], disk.in_transaction,
 disk.execute('select count(*) from t').fetchone()[0], await finish())
"""
SEEN = (1, 6, 4, [0, 1, 2], True, 1, True, 1, 42)
WRECK = """
for _ in range(20): next(walker), next(count), add(100)
nodes.clear()
memory.execute('drop table t')
disk.rollback()
disk.execute('drop table t')
disk.commit()
import os
os.remove('data.db')
task.cancel()
import sys
sys.modules['random'] = None
"""


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


# -- nothing of one session in another -------------------------------------------------------------------------------------


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
        pid = keeper._guest.worker.pid

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
        before, files = mappings(pid), len(os.listdir(f"/proc/{pid}/fd")) + 1
        for _ in range(5):
            story()
        deadline = 200  # the worker hears of the last sessions' ends on its own time
        while deadline and (mappings(pid) > before + 40 or len(os.listdir(f"/proc/{pid}/fd")) > files):
            deadline -= 1
            keeper.run("import time\ntime.sleep(0.02)")
        assert mappings(pid) <= before + 40 and len(os.listdir(f"/proc/{pid}/fd")) <= files


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


# -- a guest that rewrote its own program -----------------------------------------------------------------------------------

FORGE = """
g = display.__self__
channel = g._channel
real = type(channel).send
class Forger:
    def __getattr__(self, name): return getattr(channel, name)
    def send(self, header, blobs=()):
        real(channel, header, blobs)
        if header.get('t') == 'done':
            %s
g._channel = Forger()
"""
FORGERIES = (
    "real(channel, {'t': 'ready'})",
    "real(channel, {'t': 'state', 'more': False}, [b'forged'])",
    "real(channel, {'t': 'state', 'more': True}, [b'x' * 100])",
    "real(channel, {'t': 'died', 'kind': 'memory', 'message': 'forged'})",
    "real(channel, {'t': 'out', 's': 1}, [b'late'])",
    "real(channel, {'t': 'done', 'id': header['id']})",
)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_frames_gain_nothing(executor: Executor, forgery: str) -> None:
    """Whatever a guest sends behind its answer, it meets its own session's end or past, as an error the library has a name for."""
    policy = Policy(limits=Limits(time=0.5))
    for ask in ("run", "fork", "snapshot", "rollback"):
        with executor.session(policy=policy) as session:
            session.run("x = [1]")
            session.run(FORGE % forgery)
            try:
                if ask == "run":
                    session.run("x")
                elif ask == "fork":
                    session.fork().close()
                elif ask == "snapshot":
                    executor.restore(session.snapshot()).close()
                else:
                    session.run(SPIN)
                session.run("x")
            except Exception as error:
                assert type(error).__module__ == "safeexec.errors", error
            if not session.closed:
                assert session.run("x").value in ([1], None)
    with executor.session() as other:
        assert other.run("1 + 1").value == 2


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


def test_an_answer_to_an_undone_call_is_no_answer_to_the_next(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    late.check(executor, monkeypatch)


# -- snapshots made to attack ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(in_process: Executor) -> Snapshot:
    with in_process.session() as session:
        session.run(
            "import os\nx = [1]\nopen('a', 'w').write('text')\nos.mkdir('d')\nopen('d/b', 'wb').write(bytes(5000))\n"
            "os.symlink('a', 'link')\nf = open('a')"
        )
        return session.snapshot()


def parts(image: Snapshot) -> tuple[dict[str, Any], bytes, bytes]:
    """Header; places and pages, one behind the other; contents."""
    state = snapshot.unpack(bytes(image), None).state
    length = int.from_bytes(state[:4], "little")
    header = json.loads(state[4 : 4 + length])
    rest = state[4 + length :]
    end = header["places"][1] + header["pages"]
    return header, rest[:end], rest[end:]


def forged(image: Snapshot, header: Any, written: bytes, contents: bytes) -> Snapshot:
    """A snapshot with another state in it, and every digest as it should be."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    state = len(text).to_bytes(4, "little") + text + written + contents
    return snapshot.pack(snapshot.unpack(bytes(image), None)._replace(state=state), None)


def placed(image: Snapshot, starts: list[int], lengths: list[int], data: bytes | None = None) -> Snapshot:
    """A snapshot whose memory differs elsewhere, by `data` if not by as many bytes as it says."""
    header, _, contents = parts(image)
    places = zlib.compress(struct.pack(f"<{len(starts) + len(lengths)}I", *starts, *lengths))
    pages = zlib.compress(bytes(sum(lengths) % 2**22) if data is None else data)
    header = change(header, places=[len(starts), len(places)], pages=len(pages))
    return forged(image, header, places + pages, contents)


def change(header: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**header, **fields}


def files(header: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**header, "files": {**header["files"], **fields}}


def nodes(header: dict[str, Any], *more: Any) -> dict[str, Any]:
    return files(header, nodes=[*header["files"]["nodes"], *more])


def linked(header: dict[str, Any], name: str, what: Any) -> dict[str, Any]:
    """With one more entry in the working directory."""
    described = [list(node) for node in header["files"]["nodes"]]
    described[header["files"]["working"]][3] = {**described[header["files"]["working"]][3], name: what}
    return files(header, nodes=described)


ATTACKS: dict[str, Any] = {
    "places of a wrong shape": lambda h: change(h, places=[1]),
    "places that are numbers": lambda h: change(h, places=7),
    "no places": lambda h: change(h, places=None),
    "too few places": lambda h: change(h, places=[h["places"][0] - 1, h["places"][1]]),
    "too many places": lambda h: change(h, places=[h["places"][0] + 1, h["places"][1]]),
    "places without end": lambda h: change(h, places=[2**40, h["places"][1]]),
    "less than no places": lambda h: change(h, places=[-1, h["places"][1]]),
    "places beyond the end": lambda h: change(h, places=[h["places"][0], 2**40]),
    "places that end before they begin": lambda h: change(h, places=[h["places"][0], -5]),
    "floating places": lambda h: change(h, places=[float(h["places"][0]), h["places"][1]]),
    "true places": lambda h: change(h, places=[True, h["places"][1]]),
    "a memory that is too small": lambda h: change(h, memory=65536),
    "a memory beyond the limit": lambda h: change(h, memory=2**32),
    "a memory beyond addresses": lambda h: change(h, memory=2**40),
    "a memory of odd size": lambda h: change(h, memory=h["memory"] + 1),
    "a negative memory": lambda h: change(h, memory=-65536),
    "no clock": lambda h: change(h, clock=None),
    "a clock of another kind": lambda h: change(h, clock="now"),
    "a clock before time": lambda h: change(h, clock=-1),
    "streams beyond the end": lambda h: change(h, pages=10**9),
    "a negative stream": lambda h: change(h, pages=-1),
    "contents beyond Limits.disk": lambda h: change(h, contents=2**40),
    "contents that are not there": lambda h: change(h, contents=h["contents"] + 1),
    "contents of no file": lambda h: change(h, contents=h["contents"] - 1),
    "no files": lambda h: change(h, files=None),
    "files of another kind": lambda h: change(h, files=[1]),
    "no nodes": lambda h: files(h, nodes=None),
    "a million nodes": lambda h: nodes(h, *[["d", 0, 0, {}, 5]] * 100_000),
    "a file of negative size": lambda h: nodes(h, ["f", 0, 0, -1, 5]),
    "a file of endless size": lambda h: nodes(h, ["f", 0, 0, 2**62, 5]),
    "a node of no kind": lambda h: nodes(h, ["b", 0, 0, 1, 5]),
    "a node that is none": lambda h: nodes(h, 7),
    "an unknown device": lambda h: nodes(h, ["c", 0, 0, "mem", 5]),
    "a device that is a list": lambda h: nodes(h, ["c", 0, 0, ["null"], 5]),
    "a mode with more in it": lambda h: nodes(h, ["d", 0o170000, 0, {}, 5]),
    "an inode beyond numbers": lambda h: nodes(h, ["d", 0, 0, {}, 2**64]),
    "a time before time": lambda h: nodes(h, ["d", 0, -1, {}, 5]),
    "a time beyond time": lambda h: nodes(h, ["d", 0, 2**70, {}, 5]),
    "a link to nothing": lambda h: nodes(h, ["l", 0, 0, "", 5]),
    "a link that is too long": lambda h: nodes(h, ["l", 0, 0, "x" * 5000, 5]),
    "a name with a slash": lambda h: linked(h, "../up", 0),
    "a name that goes up": lambda h: linked(h, "..", h["files"]["root"]),
    "a name that stays": lambda h: linked(h, ".", h["files"]["root"]),
    "no name": lambda h: linked(h, "", h["files"]["root"]),
    "a name with a NUL": lambda h: linked(h, "a\0b", h["files"]["root"]),
    "a name that is too long": lambda h: linked(h, "x" * 256, h["files"]["root"]),
    "a name of surrogates": lambda h: linked(h, "\ud800", h["files"]["root"]),
    "a directory in itself": lambda h: linked(h, "loop", h["files"]["working"]),
    "the root below itself": lambda h: linked(h, "loop", h["files"]["root"]),
    "a node that does not exist": lambda h: linked(h, "ghost", 10**6),
    "a node counted from the end": lambda h: linked(h, "ghost", -1),
    "a shared file that is not there": lambda h: linked(h, "ghost", "lib/../../etc/passwd"),
    "the host's files": lambda h: linked(h, "ghost", "/etc/passwd"),
    "a shared file by an empty name": lambda h: linked(h, "ghost", ""),
    "a root that is a file": lambda h: files(h, root=next(n for n, d in enumerate(h["files"]["nodes"]) if d[0] == "f")),
    "a root that is shared": lambda h: files(h, root="lib"),
    "a working directory that is shared": lambda h: files(h, working="lib"),
    "a working directory of nothing": lambda h: files(h, working=None),
    "a place that is no list": lambda h: files(h, cwd="sandbox"),
    "a place that is nowhere": lambda h: files(h, cwd=[]),
    "a place that begins elsewhere": lambda h: files(h, cwd=[["", h["files"]["working"]]]),
    "a place of endless length": lambda h: files(h, cwd=[["", h["files"]["root"]]] * 10**5),
    "a mask beyond its bits": lambda h: files(h, umask=0o7777),
    "too many descriptors": lambda h: files(h, descriptors=[[n, 0] for n in range(1000)]),
    "a descriptor twice": lambda h: files(h, descriptors=[[0, 0], [0, 0]]),
    "a negative descriptor": lambda h: files(h, descriptors=[[-1, 0], *h["files"]["descriptors"][1:]]),
    "a descriptor of nothing": lambda h: files(h, descriptors=[[9, 99], *h["files"]["descriptors"]]),
    "open files without descriptors": lambda h: files(h, open=h["files"]["open"] * 2),
    "a place in a file before its start": lambda h: files(h, open=[[*f[:3], -5, f[4]] for f in h["files"]["open"]]),
    "a place in a file beyond numbers": lambda h: files(h, open=[[*f[:3], 2**63, f[4]] for f in h["files"]["open"]]),
    "flags beyond their bits": lambda h: files(h, open=[[f[0], 2**40, *f[2:]] for f in h["files"]["open"]]),
    "a shared file open for writing": lambda h: files(
        h, open=[["lib/python314.zip", 1, *f[2:]] for f in h["files"]["open"]]
    ),
    "a cursor of another kind": lambda h: files(h, open=[[*f[:4], 5] for f in h["files"]["open"]]),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_state_is_refused(in_process: Executor, image: Snapshot, attack: str) -> None:
    header, written, contents = parts(image)
    with pytest.raises(SnapshotError):
        in_process.restore(forged(image, ATTACKS[attack](header), written, contents))


@pytest.mark.parametrize(
    ("starts", "lengths"),
    [
        ([2**32 - 128], [128]),
        ([0, 2**32 - 1], [1, 2**32 - 1]),
        ([0], [2**32 - 1]),
        ([0, 0], [128, 128]),
        ([128, 0], [128, 128]),
        ([0, 64], [128, 128]),
        ([0, 128], [0, 128]),
        ([0], [0]),
    ],
    ids=[
        "beyond the memory",
        "around the end",
        "longer than it",
        "twice",
        "backwards",
        "overlapping",
        "empty",
        "only empty",
    ],
)
def test_hostile_places_are_refused(
    in_process: Executor, image: Snapshot, starts: list[int], lengths: list[int]
) -> None:
    with pytest.raises(SnapshotError, match="pages"):
        in_process.restore(placed(image, starts, lengths))


@pytest.mark.parametrize("data", [b"", bytes(127), bytes(129), bytes(2**24)])
def test_pages_that_do_not_fit_their_places_are_refused(in_process: Executor, image: Snapshot, data: bytes) -> None:
    with pytest.raises(SnapshotError, match=r"too short|too long"):
        in_process.restore(placed(image, [4096], [128], data))


def test_hostile_state_is_refused_by_workers_too(workers: Executor, image: Snapshot) -> None:
    header, written, contents = parts(image)
    for attack in list(ATTACKS.values())[::6]:
        with pytest.raises(SnapshotError):
            workers.restore(forged(image, attack(header), written, contents))
    with workers.restore(image) as back:
        assert back.run("x").value == [1]


def test_more_streams_than_there_should_be(in_process: Executor, image: Snapshot) -> None:
    header, written, contents = parts(image)
    bomb = zlib.compress(bytes(2**28), 9)
    for made in (
        # A quarter gigabyte instead of the places, and of the pages.
        forged(image, change(header, places=[5, len(bomb)], pages=0), bomb, contents),
        forged(image, change(header, pages=len(bomb)), written[: header["places"][1]] + bomb, contents),
        forged(image, header, written, bomb),
        forged(image, header, written, contents + b"more"),
        forged(image, header, written[:-1] + b"\0", contents),
        forged(image, change(header, pages=0), written[: header["places"][1]], contents),
        forged(image, b"{", written, contents),
        forged(image, b"[" * 10_000, written, contents),
        forged(image, b"null", written, contents),
    ):
        with pytest.raises(SnapshotError):
            in_process.restore(made)
    whole = snapshot.unpack(bytes(image), None)
    for state in (b"", b"\xff\xff\xff\xff", whole.state[:100], b"\0\0\0\0"):
        with pytest.raises(SnapshotError):
            in_process.restore(snapshot.pack(whole._replace(state=state), None))


def test_limits_are_the_restoring_hosts(in_process: Executor) -> None:
    with in_process.session() as session:
        session.run("big = bytearray(50_000_000)\nopen('f', 'wb').write(bytes(5_000_000))")
        image = session.snapshot()
    for limits, message in ((Limits(memory=2**20), r"Limits\.memory"), (Limits(disk=2**20), r"Limits\.disk")):
        with pytest.raises(SnapshotError, match=message):
            in_process.restore(image, policy=Policy(limits=limits))
    policy = Policy(limits=Limits(output=100, value=5000, disk=6_000_000))
    with in_process.restore(image, policy=policy) as back:
        assert back.run("print('x' * 200)").truncated
        assert back.run("'x' * 10_000").truncated
        result = back.run("open('g', 'wb').write(bytes(2_000_000))")
        assert result.error is not None and result.error.type == "OSError"


def test_snapshot_of_another_image_is_refused(executor: Executor, image: Snapshot) -> None:
    contents = snapshot.unpack(bytes(image), None)
    with pytest.raises(SnapshotError, match="another version"):
        executor.restore(snapshot.pack(contents._replace(engine=contents.engine[:-1] + "x"), None))


def test_quotas_are_counted_anew(in_process: Executor, image: Snapshot) -> None:
    with in_process.restore(image) as back:
        guest = back._guest
        assert isinstance(guest, WasmGuest)
        files_of = guest._host.files
        assert files_of.used == 4 + 5000 + len("a") and files_of.inodes == 4
        # Closing what is in every fresh tree gives nothing back that was not taken.
        back.run(
            "import os\nfor _ in range(100): os.close(os.open('/dev/null', 0)), os.listdir('/'), os.listdir('/tmp')"
        )
        assert files_of.inodes == 4


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_state_is_refused_or_harmless(
    in_process: Executor, image: Snapshot, data: st.DataObject
) -> None:
    """Whatever stands in the header: an error that says so, or a session that still runs within its limits. Never anything else."""
    header, written, contents = parts(image)
    place: Any = header
    for _ in range(data.draw(st.integers(0, 6))):
        if isinstance(place, dict) and place:
            key: Any = data.draw(st.sampled_from(sorted(place)))
        elif isinstance(place, list) and place:
            key = data.draw(st.integers(0, len(place) - 1))
        else:
            break
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            junk = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.floats()
            place[key] = data.draw(junk | st.lists(junk, max_size=4) | st.dictionaries(st.text(max_size=3), junk))
            break
        place = place[key]
    try:
        back = in_process.restore(forged(image, header, written, contents))
    except SnapshotError:
        return
    with back:
        result = back.run("import os\n(x, sorted(os.listdir('/sandbox')))")
        assert result.error is None or result.error.kind in ("exception", "crash")
        if result.ok and not back.closed:
            back.files.list()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=300), st.integers(0, 10**7))
def test_hostile_memory_stays_the_guests_own(in_process: Executor, image: Snapshot, junk: bytes, where: int) -> None:
    """Linear memory with anything written into it: the guest may crash, the host and other sessions do not notice."""
    memory = parts(image)[0]["memory"]
    block = (junk * (4096 // len(junk) + 1))[:4096]
    made = placed(image, [where % (memory // 4096) * 4096], [4096], block)
    try:
        with in_process.restore(made, policy=FAST) as back:
            back.run("x = 1")
    except Exception as error:
        assert type(error).__module__.startswith("safeexec.")
    assert in_process.run("1 + 1").value == 2


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
