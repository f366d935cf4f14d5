"""What a branch of a local session does to its siblings and to its limits, with the language wall off; judged by effect."""

from __future__ import annotations

import os

import pytest

from safeexec import Executor, Limits, Policy, Session
from safeexec.testing.base import eventually
from safeexec_backends.local import returning
from tests.local.cells import family
from tests.local.conftest import FAST
from tests.support.undone import CRASH

pytestmark = pytest.mark.skipif(os.name != "posix" or not hasattr(os, "pidfd_open"), reason="n/a: Linux's processes")

COUNT = (
    "import threading\ngate = threading.Event()\nstarted = []\ntry:\n    for _ in range(50):\n        t = threading.Thread(target=gate.wait, daemon=True)\n"
    "        t.start()\n        started.append(t)\nexcept RuntimeError:\n    pass\ncount = len(started)\ngate.set()\nfor t in started: t.join()\ncount"
)


@pytest.mark.parametrize("limit", [1, 2, 8])
def test_the_number_of_threads_is_each_ones_own(executor: Executor, limit: int) -> None:
    def threads(one: Session) -> bool:
        """A thread that was joined a moment ago may not be gone yet."""
        found = one.run(COUNT).value
        assert found <= limit
        return bool(found >= limit - 1)

    with executor.session(policy=Policy(limits=Limits(processes=limit))) as trunk:
        trunk.run("x = 1")
        branches = [trunk.fork() for _ in range(12)]
        for number, branch in enumerate(branches):
            assert branch.run(f"x = {number}").ok
        for one in (branches[3], trunk, branches[11], branches[0]):
            assert eventually(lambda one=one: threads(one))  # type: ignore[misc]
            assert one.run(CRASH).rolled_back
            assert eventually(lambda one=one: threads(one))  # type: ignore[misc]
        for branch in branches[1:]:
            branch.close()
        assert eventually(lambda: threads(branches[0])) and eventually(lambda: threads(trunk))
        branches[0].close()


def test_memory_is_each_ones_own(executor: Executor) -> None:
    with executor.session(policy=Policy(limits=Limits(memory=64 * 2**20, time=5))) as trunk:
        trunk.run("kept = bytearray(20 * 2**20)")
        branches = [trunk.fork() for _ in range(4)]
        for branch in branches:
            assert branch.run("more = bytearray(30 * 2**20)").ok
        for branch in branches:
            assert (
                branch.run("most = bytearray(30 * 2**20)").rolled_back and branch.run("len(more)").value == 30 * 2**20
            )
            branch.close()


HARM = """
import os, signal, resource, ctypes, platform
done = []
for pid in range(-5, 80):
    if pid in (0, os.getpid()):
        continue
    for number in (9, 15, 18, 2, 0):
        if number == 9:
            continue
        try: done.append(('kill', pid, number, os.kill(pid, number)))
        except OSError: pass
    for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC):
        try: done.append(('prlimit', pid, resource.prlimit(pid, kind, (1, 1))))
        except (OSError, ValueError): pass
libc = ctypes.CDLL(None, use_errno=True)
tgkill = 234 if platform.machine() == 'x86_64' else 131
for pid in range(1, 80):
    if pid != os.getpid() and libc.syscall(tgkill, pid, pid, 15) == 0:
        done.append(('tgkill', pid))
done
"""


def test_a_branch_cannot_touch_the_others_processes(trunk: Session) -> None:
    trunk.run("x = [1]")
    with trunk.fork() as branch, trunk.fork() as third:
        third.run("x.append(3)")
        assert branch.run(HARM).value == []
        for pid in range(2, 30):
            result = branch.run(f"import os\nif os.getpid() != {pid}: os.kill({pid}, 9)")
            assert result.ok or result.rolled_back
        assert trunk.run("x").value == [1] and third.run("x").value == [1, 3]


SCAN = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.access.argtypes, libc.sbrk.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_void_p
def there(address):
    ctypes.set_errno(0)
    libc.access(address, 0)
    return ctypes.get_errno() != 14
top = libc.sbrk(0) & ~4095
word = bytes(reversed(b'z4k9x7q2' * 16))
pages = [a for a in range(top - 2**25, top, 4096) if there(a)]
(len(pages) > 100, sum(word in ctypes.string_at(a, 4096) for a in pages) > 8)
"""


@pytest.mark.parametrize("stepped", [False, True])
def test_what_a_branch_wrote_is_not_in_the_memory_of_its_trunk(trunk: Session, stepped: bool) -> None:
    """Not even in that of a process that is made where the files of all are kept, to begin before the first step."""
    if stepped:
        trunk.run("1")
    with trunk.fork() as branch:
        branch.run("open('secret', 'w').write('2q7x9k4z' * 50_000)")
        branch.run("1")
        assert branch.run(SCAN).value[0]
        assert trunk.run(SCAN).value == (True, False)
        trunk.run(CRASH)
        assert trunk.run(SCAN).value == (True, False)


def test_what_a_branch_does_to_shared_descriptors_is_its_own_trouble(trunk: Session) -> None:
    """Open files of before the fork are one object for the kernel: their places, their flags."""
    trunk.run("import os, fcntl, socket\nf = open('f', 'w+b', buffering=0)\nf.write(b'0123456789')\nf.seek(3)")
    with trunk.fork() as branch:
        branch.run(
            "fcntl.fcntl(f, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)\nf.seek(9)\nos.ftruncate(f.fileno(), 1)\n"
            "for fd in range(3, 64):\n    try:\n        s = socket.socket(fileno=fd)\n        s.setsockopt(socket.SOL_SOCKET, 16, 1)\n        s.setblocking(False)\n"
            "        s.detach()\n    except OSError: pass"
        )
        assert trunk.run("(f.read(2), fcntl.fcntl(f, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK))").value == (
            b"34",
            0,
        )
        branch.run("import os\nos.closerange(3, 256)")
        assert trunk.run("f.read(1)").value == b"5"


def test_a_branch_that_closes_or_floods_everything_hurts_itself(trunk: Session) -> None:
    trunk.run("import os, socket\nx = 1")
    for harm in (
        "for fd in range(3, 64):\n    try: socket.socket(fileno=fd).shutdown(2)\n    except OSError: pass",
        "for _ in range(10**6):\n    os.write(3, b'x' * 100_000)",
        "os.closerange(3, 256)",
    ):
        with trunk.fork() as branch:
            result = branch.run(harm)
            assert branch.closed or not result.ok or branch.run("x").value == 1
            assert trunk.run("x").value == 1


def test_a_branch_that_does_not_wake_as_it_should_ends_with_its_kin(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that left the language's limits before the fork is in both. It can end them, and everything ends."""
    monkeypatch.setattr(returning, "_ANSWER", 0.5)
    for what in ("exec('while True: pass')", "os._exit(0)", "1 / 0"):
        with executor.session(policy=FAST) as trunk:
            trunk.run(
                f"import os\nfrom safeexec_backends._hardening import open_files\nopen_files.OpenFiles.restore = lambda *a: {what}"
            )
            branch = trunk.fork()
            assert not branch.run("1").ok and branch.closed
            branch.close()
        assert eventually(lambda: not family(trunk))


NO_ROOM = """
import os, resource, sys
copies = sys.modules['safeexec_backends._hardening.copies']
def wake_up(self, files):
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    copies.ask(2, self._tid)
    os._exit(0)
sys.modules['safeexec_backends.local.runner'].CellGuest._wake_up = wake_up
"""


SPINS = """
import sys
sys.modules['safeexec_backends.local.runner'].CellGuest._wake_up = lambda *_: exec('while True: pass')
"""


@pytest.mark.parametrize(
    "change",
    [pytest.param(NO_ROOM, id="takes no channel"), pytest.param(SPINS, id="does not wake", marks=pytest.mark.slow)],
)
def test_a_branch_that_cannot_come_back_ends_alone(trunk: Session, change: str) -> None:
    """It left the language's limits after it was made: whoever watches over all of them, and what it came of, have nothing to do with that."""
    trunk.run("x = 1")
    with trunk.fork() as branch, trunk.fork() as third:
        branch.run(change)
        assert branch.run("1").ok and trunk.run("x").value == 1
        assert not branch.run("x").ok and branch.closed
        assert (trunk.run("x").value, third.run("x").value) == (1, 1)
