"""Steps that are undone on local: by effect, with the language wall off, so that whatever Python can do can be tried."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec import Executor, Limits, Policy, PolicyError, Session
from safeexec.backend import GuestDied
from safeexec.testing import same
from safeexec_backends.local import LocalBackend, returning
from safeexec_backends.local.returning import ReturningGuest
from tests.local.conftest import FAST
from tests.local.test_walls_lifetime import ended, wait_until
from tests.support import histories, late, unread

pytestmark = pytest.mark.skipif(os.name != "posix" or not hasattr(os, "pidfd_open"), reason="n/a: Linux's processes")

SPIN = "while True:\n    pass"
CRASH = "import os\nos._exit(1)"
ENDS = (
    SPIN,
    "import os\nos.abort()",
    "x = []\nwhile True: x.append(bytearray(2**22))",
    "while True: print('x' * 100000)",
)


def guest_of(session: Session) -> ReturningGuest:
    guest = session._guest
    assert isinstance(guest, ReturningGuest)
    return guest


def family(session: Session) -> dict[int, tuple[int, str]]:
    """The processes of a cell: their ids inside to their ids outside and states."""
    first = guest_of(session).pid
    found = {}
    for entry in os.listdir("/proc"):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            inside = Path(f"/proc/{entry}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()
        except (OSError, ValueError):
            continue
        if entry.isdigit() and (int(entry) == first or fields[1] == str(first)):
            found[int(inside[-1])] = (int(entry), fields[0])
    return found


def end_keeper(session: Session) -> None:
    """Kill the process that watches, and with it all others."""
    pidfd = os.pidfd_open(guest_of(session).pid)
    os.kill(guest_of(session).pid, signal.SIGKILL)
    assert ended(pidfd)
    os.close(pidfd)


def settled(session: Session) -> dict[int, tuple[int, str]]:
    """The same, once the checkpoint was taken and the one before is gone."""
    guest_of(session)._await_checkpoint()
    assert wait_until(lambda: len(family(session)) <= 3)
    return family(session)


LIVE = """
import sqlite3, asyncio, itertools, random
memory = sqlite3.connect(':memory:')
memory.execute('create table t (n)')
memory.execute('insert into t values (1)')
disk = sqlite3.connect('data.db')
disk.execute('create table t (n)')
disk.commit()
disk.execute('insert into t values (1)')
def walk():
    for n in range(100):
        yield n
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
    await asyncio.sleep(0.001)
    return await task
(next(walker), next(count), add(1), memory.execute('select count(*) from t').fetchone()[0], disk.in_transaction,
 disk.execute('select count(*) from t').fetchone()[0], await finish())
"""
SEEN = (1, 6, 4, 1, True, 1, 42)
WRECK = """
import asyncio, os, sys
for _ in range(20): next(walker), next(count), add(100)
memory.execute('drop table t')
disk.rollback()
disk.execute('drop table t')
disk.commit()
task.cancel()
async def wait():
    await asyncio.sleep(0.001)
try:
    await wait()
except BaseException:
    pass
sys.modules['random'] = None
"""


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


def test_answers_that_are_not_read_hold_nobody_up(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "_UNREAD", 0.5)
    unread.check(executor)


SAYS_MEMORY = unread.FORGE.replace(
    "'id': number}", "'id': number, 'error': {'kind': 'memory', 'type': 'MemoryError', 'message': '', 'traceback': ''}}"
)


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

TREE = """
import os
def tree():
    found = {}
    for root in ('/sandbox', '/tmp'):
        device = os.stat(root).st_dev
        for folder, folders, files in os.walk(root):
            # An interpreter whose library lies below /tmp has it mounted there.
            folders[:] = [name for name in folders if os.lstat(os.path.join(folder, name)).st_dev == device]
            for name in folders + files:
                path = os.path.join(folder, name)
                info = os.lstat(path)
                found[repr(path)] = (oct(info.st_mode), info.st_mtime_ns, info.st_nlink if not os.path.isdir(path) else 0,
                    os.readlink(path) if os.path.islink(path) else open(path, 'rb').read() if os.path.isfile(path) else b'')
    return found
os.makedirs('a/b/c')
open('a/one', 'w').write('one')
open('a/b/two', 'wb').write(bytes(range(256)) * 5000)
os.symlink('../one', 'a/b/link')
os.symlink('/nowhere', 'dangling')
os.link('a/one', 'twin')
os.chmod('a/one', 0o600)
open('/tmp/three', 'w').write('3')
open(b'odd\\xff', 'w').close()
open('executable', 'w').close()
os.chmod('executable', 0o755)
with open('sparse', 'wb') as file:
    file.truncate(30_000_000)
    file.seek(10_000_000)
    file.write(b'middle')
before = tree()
"""
RUINS = {
    "removed": "import shutil\nfor name in os.listdir('.'):\n    shutil.rmtree(name) if os.path.isdir(name) and not os.path.islink(name) else os.remove(name)\nos.remove('/tmp/three')",
    "overwritten": "for name in ('a/one', 'a/b/two', '/tmp/three', 'executable'): open(name, 'w').write('changed')",
    "exchanged": "os.rename('a/one', 'x')\nos.rename('a/b/two', 'a/one')\nos.rename('x', 'a/b/two')",
    "other kinds": "os.remove('a/one')\nos.mkdir('a/one')\nos.remove('twin')\nos.symlink('a', 'twin')\nimport shutil\nshutil.rmtree('a/b')\nopen('a/b', 'w').write('x')",
    "links out": "import shutil\nshutil.rmtree('a')\nos.symlink('/usr', 'a')\nos.remove('executable')\nos.symlink('/dev/null', 'executable')",
    "hard links": "os.remove('executable')\nos.link('twin', 'executable')\nopen('executable', 'w').write('x')",
    "modes": "os.chmod('a/one', 0)\nos.chmod('a/b', 0)\nos.chmod('/tmp/three', 0o777)\nos.chmod('.', 0o500)",
    "times": "for name in before: os.utime(eval(name), (1, 1), follow_symlinks=False)",
    "with more": "for n in range(300): open('more%d' % n, 'w').write('x' * 1000)\nos.makedirs('/'.join('d' * 400))",
    "one of two names": "os.remove('a/one')\nopen('twin', 'w').write('other')",
    "deep": "for _ in range(400):\n    os.mkdir('d' * 100)\n    os.chdir('d' * 100)\nos.chmod('..', 0)",
    "odd names": "open(b'\\xff\\xfe\\n', 'w').close()\nos.rename(b'odd\\xff', b'\\xfeodd')\nos.mkdir('…')",
    "full": "try:\n    open('fill', 'wb').write(bytes(2**30))\nexcept (OSError, MemoryError):\n    pass\nos.remove('a/b/two')",
    "mapped": "import mmap\nf = open('a/b/two', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nm[5:10] = b'.....'",
    "where it is": "os.chdir('a/b/c')\nos.rmdir('/sandbox/a/b/c')",
}  # fmt: skip


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


# -- attacks ---------------------------------------------------------------------------------------------------------------

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
        assert wait_until(lambda: not family(session))
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
        assert wait_until(lambda: len(family(session)) == 2, 20)


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
        assert wait_until(lambda: sorted(s for _, s in family(session).values()) == ["S", "T", "T"])
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
    line = guest_of(session)._keeper
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

STEPS = (*histories.STEPS, "kept.write(str(x))", "kept.seek(x % 7)")
PROPERTY_START = histories.START + "kept = open('kept', 'w+')\n"
PROPERTY_LOOK = "kept.flush()\n" + histories.look("kept.tell()", "open('kept').read()")
WAYS_TO_FAIL = (
    SPIN,
    CRASH,
    "import os\nos.abort()",
    "items.clear()\ntable.clear()\nkept.truncate(0)\nos = None\n" + CRASH,
)


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
