"""Code that left the language, or lies of its past: what it gains from the copies of its process, judged by effect."""

from __future__ import annotations

import os

import pytest

from safeexec import Executor, Limits, Policy, Session
from safeexec.testing.base import eventually
from safeexec_backends.local import returning
from tests.local.cells import ended, family, settled
from tests.local.conftest import FAST
from tests.support.undone import CRASH, SPIN

pytestmark = pytest.mark.skipif(os.name != "posix" or not hasattr(os, "pidfd_open"), reason="n/a: Linux's processes")

CLONE = """
import ctypes, os, platform, signal
libc = ctypes.CDLL(None, use_errno=True)
def clone(flags, tid=None):
    libc.syscall.restype = ctypes.c_long
    pid = libc.syscall(ctypes.c_long(56 if platform.machine() == 'x86_64' else 220), ctypes.c_ulong(flags), None, None, None, None)
    if pid == 0:
        while True: pass
    return pid if pid > 0 else -ctypes.get_errno()
"""


def test_no_process_can_be_started_by_the_session(session: Session) -> None:
    session.run(CLONE)
    flags = (17, 0x01200011, 0x01208011, 0x8011, 0x4111, 0x100, 0x11)
    assert session.run(f"[clone(f) < 0 for f in {flags}]\n").value == [True] * len(flags)
    assert session.run("try:\n    os.fork()\nexcept OSError as error:\n    print(error.errno)").stdout == "1\n"
    found = settled(session)
    assert len(found) == 3 and sorted(state for _, state in found.values())[-1] == "T"
    assert session.run(CRASH).rolled_back


def test_a_thread_cannot_take_the_copy_that_was_granted(executor: Executor) -> None:
    """A thread left behind asks all the time; the copy is for the thread that answers the host alone."""
    with executor.session(policy=Policy(limits=Limits(time=3))) as session:
        session.run(CLONE)
        session.run(
            "import threading, time\nwon = []\ndef ask():\n    end = time.monotonic() + 1\n    while time.monotonic() < end:\n"
            "        pid = clone(0x01208011)\n        if pid > 0: won.append(pid)\n"
            "import _thread\n_thread._count = lambda: 0\nthreading.Thread(target=ask, daemon=True).start()"
        )
        for _ in range(20):
            # It lied about its threads, and a copy may hang on a lock that one of them held: then the session ends.
            if not session.run("1").ok:
                assert session.closed
                return
        assert session.run("won").value == []
        assert len(settled(session)) <= 3


def test_the_watching_process_cannot_be_reached(session: Session) -> None:
    code = (
        "import os, signal, resource\ndone = []\nfor pid in (1, 0, -1, -os.getpid()):\n"
        "    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGCHLD, 0):\n        try:\n            os.kill(pid, number)\n"
        "            done.append((pid, int(number)))\n        except OSError:\n            pass\n"
        "try:\n    resource.prlimit(1, resource.RLIMIT_NOFILE, (1, 1))\n    done.append('prlimit')\nexcept OSError:\n    pass\n"
        "for name in ('/proc/1/mem', '/proc/1/fd/3'):\n    if os.path.exists(name): done.append(name)\ndone"
    )
    assert session.run("x = 1").ok and session.run(code).value == []
    assert session.run(CRASH).rolled_back and session.run(code).value == []


def test_whoever_sends_a_kill_is_ended_himself(session: Session) -> None:
    """A SIGKILL that nobody here sent can then be taken for the kernel's, when memory runs out."""
    session.run("import os, signal\nx = [1]")
    for pid in ("os.getpid()", "os.getpid() + 1", "2", "12345"):
        result = session.run(f"x.append(2)\nos.kill({pid}, signal.SIGKILL)")
        assert result.rolled_back and result.error is not None and "seccomp" in result.error.message
    assert session.run("x").value == [1]


def test_a_session_cannot_signal_its_checkpoint(session: Session) -> None:
    session.run("import os, signal\nx = [1]")
    code = (
        "done = []\nfor number in (signal.SIGTERM, signal.SIGCONT, signal.SIGINT, signal.SIGHUP, 0):\n    for pid in range(2, 60):\n"
        "        if pid != os.getpid():\n            try: done.append(os.kill(pid, number))\n            except PermissionError: pass\ndone"
    )
    for _ in range(2):
        assert session.run(code).value == []
        assert session.run("x.append(2)\n" + CRASH).rolled_back and session.run("x").value == [1]


def test_a_process_signals_itself_and_its_threads(session: Session) -> None:
    code = (
        "import os, signal, threading\nseen = []\nsignal.signal(signal.SIGUSR1, lambda *_: seen.append(1))\nos.kill(os.getpid(), signal.SIGUSR1)\n"
        "signal.raise_signal(signal.SIGUSR1)\nsignal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)\n"
        "t = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))\nt.start()\nt.join()\nlen(seen)"
    )
    for _ in range(2):
        assert session.run(code).value == 4
        assert session.run(CRASH).rolled_back


def test_the_number_of_processes_is_not_the_sessions_to_set(session: Session) -> None:
    session.run("import os, resource\nx = [1]")
    code = (
        "done = []\nfor pid in (None, 0, os.getpid(), *range(1, 20)):\n    for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_AS):\n        try:\n"
        "            if pid is None:\n                if kind == resource.RLIMIT_NPROC: done.append(resource.setrlimit(kind, (1000, 1000)))\n"
        "            elif pid or kind == resource.RLIMIT_NPROC:\n                done.append(resource.prlimit(pid, kind, (10, 10)))\n        except (OSError, ValueError): pass\ndone"
    )
    assert session.run(code).value == []


def test_a_session_that_wakes_its_checkpoint_gains_nothing(executor: Executor) -> None:
    with executor.session(policy=FAST) as session:
        session.run("import os, signal\nx = [1]")
        wake = "for pid in range(2, 50):\n    if pid != os.getpid():\n        try: os.kill(pid, signal.SIGCONT)\n        except OSError: pass\n"
        session.run("x.append(2)\n" + wake)
        assert len(settled(session)) <= 3
        result = session.run("x.append(3)\n" + CRASH)
        if result.rolled_back:
            assert session.run("x").value == [1, 2]
        else:
            assert session.closed


HOSTILE = """
import os, sys
from safeexec_backends._hardening import open_files
def turn():
    global go
    go = True
open_files.OpenFiles.restore = lambda *a: {what}
"""


@pytest.mark.parametrize("what", ["exec('while True: pass')", "os._exit(0)", "os.kill(os.getpid(), 19)", "1 / 0"])
def test_a_checkpoint_that_does_not_wake_as_it_should_ends_the_session(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(returning, "_ANSWER", 0.5)
    with executor.session(policy=FAST) as session:
        assert session.run(HOSTILE.format(what=what)).ok
        pidfds = [os.pidfd_open(pid) for pid, _ in settled(session).values()]
        assert not session.run(CRASH).rolled_back and session.closed
        assert all(ended(fd, 0) for fd in pidfds)
        for fd in pidfds:
            os.close(fd)


@pytest.mark.parametrize("what", ["lambda: exec('while True: pass')", "lambda: None", "lambda: os._exit(0)"])
def test_a_copy_that_does_not_stop_itself_ends_the_session(executor: Executor, what: str) -> None:
    """It was agreed to, and goes on instead of waiting: nothing of it is there once the session has ended."""
    with executor.session(policy=FAST) as session:
        session.run(
            f"import os, sys\ncopies = sys.modules['safeexec_backends._hardening.copies']\ncopies._rest = {what}"
        )
        step = session.run("1")
        found = family(session) if not session.closed else {}
        assert len(found) <= 4
        for _ in range(3):
            if not session.closed:
                step = session.run(CRASH)
        pidfds = [os.pidfd_open(pid) for pid, _ in family(session).values()] if not session.closed else []
        session.close()
        assert not step.ok and all(ended(fd, 0) for fd in pidfds)
        assert eventually(lambda: not family(session))
        for fd in pidfds:
            os.close(fd)


STRAY = """
import os, sys, time, threading, _thread
copies = sys.modules['safeexec_backends._hardening.copies']
real = copies.copy
_thread._count = lambda: 0
def stray():
    end = time.monotonic() + 15
    while time.monotonic() < end:
        with open('stray', 'a') as file: file.write('x')
    os._exit(0)
ordinary = copies.Copier.__call__
def evil(self, note):
    if not armed: return ordinary(self, note)
    flags, tid = 0x01208011, sys._getframe(1).f_locals['self']._tid
    {what}
armed = False
copies.Copier.__call__ = evil
"""
WAYS_TO_STAY = {
    # It asks for the one that it was granted again, as the kernel does for a process that was interrupted.
    "twice": "if real(flags, tid, note) == 0: stray()\n    return real(flags, tid, note)",
    # It ends, having used up so many ids that nobody looks for the copy where it is.
    "far": (
        "if real(flags, tid, note) == 0:\n        for _ in range(400):\n            made = threading.Thread(target=int)\n            made.start()\n            made.join()\n"
        "        open('ready', 'w').close()\n        stray()\n    while not os.path.exists('ready'): pass\n    os._exit(0)"
    ),
}


@pytest.mark.parametrize("way", WAYS_TO_STAY)
def test_a_copy_that_was_made_and_not_seen_does_not_stay(executor: Executor, way: str) -> None:
    """It would run between steps, survive their undoing, and write to the files of the session's branches."""
    with executor.session(policy=FAST) as trunk:
        trunk.run("x = 1")
        with trunk.fork() as branch:
            branch.run(STRAY.format(what=WAYS_TO_STAY[way]))
            branch.run("armed = True")
            branch.run("1") if not branch.closed else None
            assert trunk.run("import os\n(x, os.listdir('.'))").value == (1, [])
            assert len(settled(trunk)) <= 4
            assert sum(state == "R" for _, state in settled(trunk).values()) <= 1
            assert trunk.run("os.listdir('.')").value == []


@pytest.mark.slow
def test_a_copy_that_goes_on_while_its_session_rests_is_ended(executor: Executor) -> None:
    with executor.session(policy=FAST) as session:
        session.run(STRAY.format(what="return real(flags, tid, note) or stray()"))
        session.run("armed = True")
        assert eventually(lambda: len(family(session)) == 2, 20)


def test_the_descriptors_of_the_watching_process_are_not_the_sessions(session: Session) -> None:
    look = (
        "import os, stat\nkinds = []\nfor fd in range(3, 256):\n    try:\n        kinds.append(stat.S_IFMT(os.fstat(fd).st_mode) == stat.S_IFSOCK)\n"
        "    except OSError:\n        pass\nkinds"
    )
    assert session.run(look).value == [True]  # its channel
    assert session.run(CRASH).rolled_back and session.run(look).value == [True]


def test_what_a_session_writes_to_the_watching_process_is_noise(session: Session) -> None:
    session.run("import os, socket")
    for noise in ("b't' * 100_000", "b'o'", "os.urandom(5000)"):
        session.run(f"for fd in range(4, 20):\n    try: os.write(fd, {noise})\n    except OSError: pass")
    assert session.run("1 + 1").value == 2
    session.run(CRASH)
    assert session.closed or session.run("1 + 1").value == 2


def test_a_session_that_takes_what_its_copy_needs_only_loses_its_checkpoint(session: Session) -> None:
    session.run("import os\nx = [1]")
    session.run("os.closerange(4, 256)\nx.append(2)")
    result = session.run("x.append(3)\n" + CRASH)
    assert session.closed or (result.rolled_back and session.run("x").value == [1, 2])


def test_stopping_itself_does_not_outlive_the_clock(session: Session) -> None:
    session.run("import os, signal\nx = [1]")
    result = session.run("x.append(2)\nos.kill(os.getpid(), signal.SIGSTOP)\n" + SPIN)
    assert result.rolled_back and result.error is not None and result.error.kind == "time"
    assert session.run("x").value == [1]


def test_alarms_that_go_off_all_the_time_do_not_keep_a_session_from_being_kept(session: Session) -> None:
    """A signal makes the kernel begin a copy anew that was agreed to."""
    session.run(
        "import signal\ncount = 0\ndef tick(*_):\n    global count\n    count += 1\nsignal.signal(signal.SIGALRM, tick)"
    )
    session.run("x = []\nsignal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)")
    for number in range(30):
        assert session.run(f"x.append({number})\nlen(x)").value == number + 1
    assert session.run("x.clear()\n" + CRASH).rolled_back
    assert session.run("(len(x), count > 10)").value == (30, True)


def test_resting_sessions_stand_still(executor: Executor) -> None:
    with executor.session(policy=Policy(limits=Limits(time=5))) as session:
        session.run("x = 1")
        session.run("1")
        assert eventually(lambda: sorted(s for _, s in family(session).values()) == ["S", "T", "T"])
        assert session.run(CRASH).rolled_back and session.run("x").value == 1


def test_memory_limits_hold_for_every_copy(executor: Executor) -> None:
    with executor.session(policy=Policy(limits=Limits(memory=64 * 2**20, time=5))) as session:
        session.run("kept = bytearray(40 * 2**20)")
        for _ in range(3):
            result = session.run("more = bytearray(40 * 2**20)\n")
            assert result.error is not None and result.error.kind == "memory" and result.rolled_back
        assert session.run("len(kept)").value == 40 * 2**20


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_the_number_of_threads_is_what_the_policy_says(executor: Executor, processes: int) -> None:
    count = (
        "import threading\ngate = threading.Event()\nstarted = []\ntry:\n    for _ in range(50):\n        t = threading.Thread(target=gate.wait, daemon=True)\n"
        "        t.start()\n        started.append(t)\nexcept RuntimeError:\n    pass\ncount = len(started)\ngate.set()\nfor t in started: t.join()\ncount"
    )
    with executor.session(policy=Policy(limits=Limits(processes=processes))) as session:
        session.run("x = 1")
        for _ in range(2):
            assert session.run(count).value in (processes - 1, processes)
            assert session.run(CRASH).rolled_back
