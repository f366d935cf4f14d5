"""Steps that are undone on local: by effect, with the language wall off, so that whatever Python can do can be tried."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec import Executor, Limits, Policy, PolicyError, Session
from safeexec.backend import GuestDied
from safeexec.testing import same
from safeexec_backends.local import LocalBackend
from safeexec_backends.local.returning import ReturningGuest
from tests.local.cells import end_keeper, ended, guest_of, settled
from tests.local.conftest import FAST
from tests.support import histories, late, unread
from tests.support.alive import LIVE, LOOK, SEEN, WRECK
from tests.support.undone import (
    CRASH,
    ENDS,
    PROPERTY_LOOK,
    PROPERTY_START,
    RUINS,
    SAYS_MEMORY,
    SPIN,
    STEPS,
    TREE,
    WAYS_TO_FAIL,
)

pytestmark = pytest.mark.skipif(os.name != "posix" or not hasattr(os, "pidfd_open"), reason="n/a: Linux's processes")


def test_everything_alive_comes_back(session: Session) -> None:
    assert session.run(LIVE).ok
    for end in ENDS:
        assert session.run(WRECK + end).rolled_back, end
    assert session.run(LOOK).value == SEEN


def test_it_comes_back_again_and_again(session: Session) -> None:
    session.run("x = [1]")
    for number in range(12):
        assert session.run("x.append('lost')\n" + CRASH).rolled_back
        assert session.run(f"x.append({number})\nlen(x)").value == number + 2


def test_the_first_step_is_undone(session: Session) -> None:
    for _ in range(3):
        assert session.run("y = 1\n" + CRASH).rolled_back
    assert session.run("'y' in globals()").value is False


def test_random_numbers_come_back(session: Session) -> None:
    session.run("import random, os\nstate = random.getstate()")
    assert session.run("random.random()\n" + CRASH).rolled_back
    assert session.run("random.getstate() == state").value is True


def test_answers_that_are_not_read_hold_nobody_up(executor: Executor) -> None:
    unread.check(executor)


def test_answers_that_only_the_checkpoint_could_read_hold_nobody_up(executor: Executor) -> None:
    """It has the channel of the process that it was copied from, which nobody reads any more when that one is ended."""
    with executor.session({"large": unread.large}, policy=Policy(limits=Limits(time=5))) as session:
        session.run("calls = 6")
        session.run("import os\nos.dup2(3, 50)")
        session.run("x = 1")
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(session.run(SAYS_MEMORY)), daemon=True)
        thread.start()
        thread.join(30)
        assert results and results[0].rolled_back and session.run("x").value == 1


def test_why_a_step_died_is_told_by_the_kernel(session: Session) -> None:
    session.run("import os, signal, ctypes")
    for code, words in (
        ("os._exit(7)", "exit code 7"),
        ("ctypes.string_at(8)", "SIGSEGV"),
        ("ctypes.CDLL(None).ptrace(0, 0, 0, 0)", "seccomp"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "seccomp"),
        ("for fd in range(256):\n    try: os.close(fd)\n    except OSError: pass", ""),
    ):
        result = session.run(code)
        assert result.error is not None and result.error.kind == "crash" and words in result.error.message
        assert result.rolled_back and session.run("1 + 1").value == 2


def test_errors_undo_where_they_are_to(executor: Executor) -> None:
    with executor.session(policy=Policy(rollback="errors")) as session:
        session.run("x = [1]\nopen('f', 'w').write('1')")
        assert session.run("x.append(2)\nopen('f', 'w').write('2')\n1 / 0").rolled_back
        assert session.run("(x, open('f').read())").value == ([1], "1")


def test_never_keeps_one_process(executor: Executor) -> None:
    with executor.session(policy=Policy(rollback="never")) as session:
        session.run("x = 1")
        assert session.run("import os\nos.getpid()").value == 1
        assert not session.run(CRASH).rolled_back and session.closed


def test_step_killed_while_it_waits_for_a_tool_is_undone(executor: Executor) -> None:
    gate = threading.Event()
    policy = Policy(limits=Limits(time=0.4, wall=0.5))
    with executor.session({"slow": lambda: gate.wait(10) and None}, policy=policy) as session:
        session.run("x = [1]")
        code = "x.append(2)\nwhile True:\n    try:\n        slow()\n    except BaseException:\n        pass"
        result = session.run(code)
        gate.set()
        assert result.rolled_back and session.run("x").value == [1]


def test_large_frames_in_flight_concern_nobody_after_it(executor: Executor) -> None:
    """A step killed amid a frame, and one that left half a megabyte unread."""
    with executor.session({"echo": lambda text: text}, policy=FAST) as session:
        session.run("import os\nx = 1")
        assert session.run("os.write(3, (2**24).to_bytes(4, 'little') + b'x' * 1000)\n" + SPIN).rolled_back
        code = "import threading\nthreading.Thread(target=lambda: echo('y' * 500_000)).start()\n" + CRASH
        assert session.run(code).rolled_back
        assert session.run("echo(x)").value == 1


# -- files ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ruin", RUINS)
def test_files_come_back(executor: Executor, ruin: str) -> None:
    with executor.session(policy=Policy(limits=Limits(time=10))) as session:
        result = session.run(TREE)
        assert result.ok, result.error
        assert session.run(RUINS[ruin] + "\n" + CRASH).rolled_back
        result = session.run(
            "after = tree()\n{n: (before.get(n), after.get(n)) for n in {*before, *after} if before.get(n) != after.get(n)}"
        )
        assert result.value == {} and result.files == ()


def test_what_is_written_through_a_mapping_is_kept_too(session: Session) -> None:
    session.run("import mmap\nf = open('f', 'w+b')\nf.write(bytes(3_000_000))\nf.flush()\nm = mmap.mmap(f.fileno(), 0)")
    session.run("m[2_000_000] = 7")
    assert session.run("m[2_000_000] = 9\nm[5] = 1\n" + CRASH).rolled_back
    assert session.run("(m[2_000_000], m[5], open('f', 'rb').read()[2_000_000])").value == (7, 0, 7)


def test_open_files_and_their_places_come_back(session: Session) -> None:
    session.run(
        "import os, tempfile\nf = open('a', 'w+')\nf.write('abcdef')\nf.seek(2)\nos.mkdir('d')\nos.chdir('d')\n"
        "open('x', 'w').write('in d')\ngone = open('gone', 'w+')\ngone.write('still')\ngone.flush()\nos.remove('gone')\n"
        "half = open('half', 'w+b', buffering=0)\nhalf.write(b'0123456789')\nhalf.seek(4)\nlog = open('log', 'a')\n"
        "log.write('one.')\nlog.flush()\nnameless = tempfile.TemporaryFile()\nnameless.write(b'temporary')\nnameless.flush()"
    )
    wreck = (
        "half.read()\nhalf.truncate(0)\nf.close()\ngone.seek(0)\ngone.truncate()\ngone.close()\nlog.write('lost')\n"
        "log.flush()\nos.remove('log')\nos.remove('half')\nopen('half', 'w').write('another')\nnameless.write(b'more')\n"
        "nameless.seek(0)\nnameless.write(b'xxx')\nnameless.flush()\nos.chdir('/')\nimport shutil\nshutil.rmtree('/sandbox/d')\n"
    )
    for end in (CRASH, SPIN):
        assert session.run(wreck + end).rolled_back
    look = (
        "gone.seek(0)\nnameless.seek(0)\nlog.write('two')\nlog.flush()\n"
        "(f.read(2), f.tell(), gone.read(), os.getcwd(), half.read(), open('log').read(), nameless.read(), open('x').read())"
    )
    assert session.run(look).value == ("cd", 4, "still", "/sandbox/d", b"456789", "one.two", b"temporary", "in d")


def test_what_cannot_be_kept_of_files_is_said_and_the_session_goes_on(session: Session) -> None:
    """Folders so deep that they have no path."""
    session.run("import os\nhere = os.getcwd()\nx = [1]")
    assert session.run("for _ in range(50):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\nos.chdir(here)").ok
    assert session.run("x.append(2)\nx").value == [1, 2]
    assert not session.run(CRASH).rolled_back and "files" in str(session._closed)


def test_as_many_files_as_there_may_be(executor: Executor) -> None:
    with executor.session(policy=Policy(limits=Limits(time=20))) as session:
        code = "import os\ntry:\n    for n in range(20_000): os.symlink('x', str(n))\nexcept OSError:\n    pass\nn"
        count = session.run(code).value
        assert session.run("for name in os.listdir('.')[::2]: os.remove(name)\n" + CRASH).rolled_back
        assert session.run("len(os.listdir('.'))").value == count > 10_000


def test_files_that_are_all_hole_are_kept_and_take_no_room(session: Session) -> None:
    session.run("for n in range(200):\n    with open(str(n), 'wb') as f: f.truncate(60_000_000)")
    assert session.run("import os\nfor n in range(200): os.remove(str(n))\n" + CRASH).rolled_back
    assert session.run("import os\n(os.path.getsize('199'), os.stat('199').st_blocks)").value == (60_000_000, 0)


# -- what cannot be kept ---------------------------------------------------------------------------------------------------


def test_a_session_with_threads_is_not_kept_and_says_so(session: Session) -> None:
    session.run("import threading\nstop = threading.Event()\nx = [1]")
    session.run("t = threading.Thread(target=stop.wait, daemon=True)\nt.start()")
    result = session.run("x.append(2)\n" + CRASH)
    assert not result.rolled_back and session.closed and "thread" in str(session._closed)


def test_once_its_threads_ended_a_session_is_kept_again(session: Session) -> None:
    session.run("import threading\nstop = threading.Event()\nx = [1]")
    session.run("t = threading.Thread(target=stop.wait, daemon=True)\nt.start()")
    assert session.run("x.append(2)\nstop.set()\nt.join()\nx").value == [1, 2]
    assert session.run("x.append(3)\n" + CRASH).rolled_back and session.run("x").value == [1, 2]


def test_a_file_without_a_name_that_is_too_large_is_not_kept(session: Session) -> None:
    session.run("import tempfile\nf = tempfile.TemporaryFile()\nf.write(bytes(20_000_000))\nf.flush()")
    assert not session.run(CRASH).rolled_back and "files" in str(session._closed)


def test_a_session_with_a_network_ends(executor: Executor) -> None:
    policy = Policy(network=("example.org",), limits=Limits(time=0.3))
    with executor.session(policy=policy) as session:
        assert not session.run(SPIN).rolled_back and session.closed
    with pytest.raises(PolicyError, match="network"):
        executor.session(policy=Policy(network=("example.org",), rollback="limits"))


@pytest.mark.parametrize("wall", ["pid_namespace", "mount_namespace", "user_namespace"])
def test_without_the_walls_that_hold_copies_together_there_is_none(wall: str) -> None:
    with Executor("local", policy=FAST, _language="full", _deny=[wall]) as executor:
        found = executor.isolation["rollback"]
        assert not found.active and "namespace" in found.reason
        with executor.session() as session:
            session.run("x = 1")
            assert not session.run(CRASH).rolled_back and session.closed


# -- nothing is left -------------------------------------------------------------------------------------------------------


def test_close_ends_every_process_and_descriptor(executor: Executor) -> None:
    executor.run("1")
    before = set(os.listdir("/proc/self/fd"))
    for ending in ("x = 1", CRASH, SPIN):
        session = executor.session(policy=FAST)
        session.run("x = 1")
        session.run(ending)
        session.run("x")
        pidfds = [os.pidfd_open(pid) for pid, _ in settled(session).values()]
        assert len(pidfds) >= 2
        session.close()
        assert all(ended(fd, 0) for fd in pidfds)
        for fd in pidfds:
            os.close(fd)
    assert set(os.listdir("/proc/self/fd")) == before


def test_undoing_leaves_nothing_behind(session: Session) -> None:
    def held() -> tuple[int, int]:
        return len(settled(session)), len(os.listdir("/proc/self/fd"))

    session.run("x = 1")
    session.run(CRASH)
    session.run("x")
    before = held()
    for _ in range(20):
        assert session.run(CRASH).rolled_back
        session.run("x")
    assert held() == before == (3, before[1])


def test_killing_a_session_from_another_thread_ends_it(executor: Executor) -> None:
    session = executor.session(policy=Policy())
    session.run("x = 1")
    pidfds = [os.pidfd_open(pid) for pid, _ in settled(session).values()]
    threading.Timer(0.2, session.kill).start()
    assert not session.run(SPIN).rolled_back and session.closed
    session.close()
    assert all(ended(fd) for fd in pidfds)
    for fd in pidfds:
        os.close(fd)


def test_death_of_the_watching_process_ends_the_session(session: Session) -> None:
    session.run("x = 1")
    end_keeper(session)
    assert session.run("1").error is not None and session.closed


@contextmanager
def started(**options: Any) -> Iterator[ReturningGuest]:
    backend = LocalBackend(Policy(), _language="full", **options)
    try:
        guest = backend.start(Policy())
        assert isinstance(guest, ReturningGuest)
        yield guest
    finally:
        backend.close()


def request(guest: ReturningGuest, header: dict[str, Any]) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []
    guest.exchange(({"id": 1, **header}, []), lambda frame: (seen.append(frame[0]), frame[0].get("t") == "done")[1])
    return seen[-1]


def test_nobody_runs_code_in_the_process_that_watches() -> None:
    """Also where it was not asked for a checkpoint yet; and there is no way back to before one was."""
    code = "import os, socket\na, b = socket.socketpair()\ntry:\n    socket.send_fds(a, [b'x'], [0])\nexcept OSError as e:\n    x = e.errno\n[x, os.getpid() > 1]"
    with started() as guest:
        request(guest, {"t": "init"})
        assert request(guest, {"t": "run", "code": code})["v"] == [1, True]
        with pytest.raises(GuestDied, match="checkpoint"):
            guest.rollback()
    with started() as guest:
        request(guest, {"t": "init"})
        guest.checkpoint()
        assert request(guest, {"t": "run", "code": code})["v"] == [1, True]
    with started() as guest:
        request(guest, {"t": "init"})
        request(guest, {"t": "run", "code": "x = 1"})
        guest.checkpoint()
        guest.kill()
        guest.rollback()
        assert request(guest, {"t": "run", "code": "x"})["v"] == 1


def test_checkpoints_that_follow_at_once_are_waited_for() -> None:
    with started() as guest:
        request(guest, {"t": "init"})
        for number in range(5):
            guest.checkpoint()
            guest.checkpoint()
            request(guest, {"t": "run", "code": f"x = {number}"})
        for number in range(10):
            guest.checkpoint()
            guest.kill()
            guest.rollback()
            assert request(guest, {"t": "run", "code": "x += 1\nx"})["v"] == number + 5


def test_a_hostile_length_on_the_line_to_the_keeper_is_impossible(session: Session) -> None:
    """The line is a socket that no process of the session has: what comes over it is the keeper's."""
    session.run("x = 1")
    line = guest_of(session)._line.socket
    assert isinstance(line, socket.socket)
    inode = os.fstat(line.fileno()).st_ino
    inodes = session.run(
        "import os\nfound = []\nfor fd in range(256):\n    try: found.append(os.fstat(fd).st_ino)\n    except OSError: pass\nfound"
    ).value
    assert inode not in inodes and inode + 1 not in inodes[3:4]


def test_an_answer_to_an_undone_call_is_no_answer_to_the_next(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    late.check(executor, monkeypatch)


# -- properties ------------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    program=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8),
    fails=st.lists(st.booleans(), min_size=8, max_size=8),
    failures=st.lists(st.sampled_from(WAYS_TO_FAIL), min_size=8, max_size=8),
)
def test_a_session_that_goes_back_is_the_session_that_does_not(
    executor: Executor, program: list[str], fails: list[bool], failures: list[str]
) -> None:
    policy = Policy(limits=Limits(time=0.3))
    with executor.session(policy=Policy(rollback="never")) as control, executor.session(policy=policy) as traveller:
        assert control.run(PROPERTY_START).ok and traveller.run(PROPERTY_START).ok
        for step, fail, failure in zip(program, fails, failures, strict=False):
            if fail and step not in histories.RAISES:
                assert traveller.run(step + "\n" + failure).rolled_back
            mine, its = traveller.run(step), control.run(step)
            if mine.rolled_back:  # a busy machine: 300 ms were not enough
                mine = traveller.run(step)
            assert same(histories.outcome(mine), histories.outcome(its))
        assert same(traveller.run(PROPERTY_LOOK).value, control.run(PROPERTY_LOOK).value)
