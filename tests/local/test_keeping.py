"""When a session's state is kept on local, and what there is to go back to before that: by effect, with the language wall off."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy, Session
from safeexec.testing.base import eventually
from safeexec_backends._hardening import copies, libc
from tests.local.cells import children, ended, family, guest_of, settled
from tests.local.conftest import FAST
from tests.support.undone import CRASH, SPIN

pytestmark = pytest.mark.skipif(os.name != "posix" or not hasattr(os, "pidfd_open"), reason="n/a: Linux's processes")


def no_ticks(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the host has no time to have a state kept."""
    monkeypatch.setattr(guest_of(session), "_rest", lambda now: None)


def test_a_state_is_kept_when_the_next_request_comes(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    no_ticks(session, monkeypatch)
    session.run("x = [1]")
    assert len(family(session)) == 2  # who watches, and who runs
    assert session.run("x.append(2)\n" + CRASH).rolled_back
    assert session.run("x").value == [1] and len(family(session)) == 3


def test_a_state_is_kept_while_nothing_is_asked(session: Session) -> None:
    session.run("x = [1]")
    assert eventually(lambda: len(family(session)) == 3)
    assert session.run("x.append(2)\n" + CRASH).rolled_back and session.run("x").value == [1]


def test_a_session_that_is_closed_after_its_step_was_never_copied(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = executor.session(policy=FAST)
    no_ticks(session, monkeypatch)
    session.run("x = 1")
    pidfds = [os.pidfd_open(pid) for pid, _ in family(session).values()]
    asked: list[bytes] = []
    monkeypatch.setattr(guest_of(session), "_order", asked.append)
    session.close()
    assert len(pidfds) == 2 and all(ended(fd, 0) for fd in pidfds) and asked == []
    for fd in pidfds:
        os.close(fd)


@pytest.mark.parametrize("end", [SPIN, CRASH])
def test_a_beginning_too_large_to_be_made_again_is_kept(executor: Executor, end: str) -> None:
    """The first step finds out whether it was; where that step ends by itself in time, nobody has asked yet."""
    with executor.session(variables={"data": b"x" * 300_000, "n": [1]}, policy=FAST) as session:
        assert session.run("n.append(2)\n" + end).rolled_back
        assert session.run("len(data), n").value == (300_000, [1])


def test_a_state_is_gone_back_to_after_one_that_could_not_be_kept(session: Session) -> None:
    session.run("import threading\ngo = threading.Event()\nthread = threading.Thread(target=go.wait)\nthread.start()")
    settled(session)
    session.run("go.set()\nthread.join()\nx = [1]")
    assert session.run("x.append(2)\n" + SPIN).rolled_back and session.run("x").value == [1]


def test_the_beginning_is_made_again(executor: Executor) -> None:
    """What the host put into a session before its first step is what it put there, whatever became of it since, here or there."""
    data = [1]
    policy = Policy(limits=Limits(time=0.8), env={"WHO": "me"}, files={"f.txt": b"file"})
    with executor.session({"double": lambda n: 2 * n}, {"data": data}, policy=policy) as session:
        session.files.write("more/g.txt", b"more")
        session.variables["late"] = {"a": (1, 2)}
        data.append(2)
        look = "import os\n(data, late, double(4), os.environ['WHO'], open('f.txt').read(), open('more/g.txt').read(), sorted(os.listdir('.')))"
        wreck = "import os, shutil\ndata.append(3)\nlate.clear()\ndouble = None\nos.remove('f.txt')\nshutil.rmtree('more')\nopen('h', 'w').close()\n"
        for end in (CRASH, SPIN, CRASH):
            assert session.run(wreck + end).rolled_back
            assert len(family(session)) == 2
        found = session.run(look)
        assert found.value == ([1], {"a": (1, 2)}, 8, "me", "file", "more", ["f.txt", "more"])
        assert session.run("data.append(4)\n" + CRASH).rolled_back and session.run("data").value == [1]


def test_what_is_large_is_kept_and_not_sent_again(executor: Executor) -> None:
    with executor.session(variables={"large": "x" * 2**20}, policy=FAST) as session:
        assert len(settled(session)) == 3
        assert session.run("large = 1\n" + CRASH).rolled_back and session.run("len(large)").value == 2**20


def test_a_request_that_changes_nothing_leaves_the_beginning_what_it_is(executor: Executor) -> None:
    with executor.session(variables={"x": [1]}, policy=FAST) as session:
        assert session.variables["x"] == [1] and not session.files.list() and len(family(session)) == 2
        assert session.run("x.append(2)\n" + CRASH).rolled_back and session.variables["x"] == [1]


def test_a_module_that_the_host_adds_is_not_of_the_beginning(session: Session) -> None:
    """It runs code, which may not come to the same twice."""
    session.add_module("tools", "import random\nnumber = random.random()")
    number = session.run("import tools\ntools.number").value
    assert session.run(CRASH).rolled_back and session.run("import tools\ntools.number").value == number


def test_steps_that_end_before_their_copy_has_come_to_rest(session: Session) -> None:
    """The copy was made; that its maker ended is no reason to lose it."""
    for number in range(25):
        session.run(f"x = {number}")
        assert session.run("import os\nos._exit(1)").rolled_back
        assert session.run("x").value == number


def _full(stream: Any) -> int:
    sent = 0
    try:
        while True:
            sent += stream.send(b"\0" * 4096, 0x40)  # MSG_DONTWAIT
    except BlockingIOError:
        return sent


def test_a_guest_that_reads_nothing_stops_no_clock(executor: Executor) -> None:
    """The word to keep its state is given by the thread that looks after everybody's time."""
    with executor.session(policy=Policy(limits=Limits(time=20))) as hostile, executor.session(policy=FAST) as other:
        hostile.run("x = 1")
        settled(hostile)
        guest = guest_of(hostile)
        guest._signal(19)
        assert _full(guest._socket) > 0
        guest._want()
        tick = threading.Thread(target=guest._rest, args=(time.monotonic(),), daemon=True)
        tick.start()
        tick.join(10)
        assert not tick.is_alive()
        result = other.run(SPIN)
        assert result.error is not None and result.error.kind == "time" and result.rolled_back


def test_a_copy_that_is_asked_for_while_the_granted_one_comes_to_rest_is_refused(session: Session) -> None:
    """And the one that was granted is not lost by it."""
    session.run(
        "import gc, os\nfrom safeexec_backends._hardening import copies, seccomp\nfrom safeexec_backends.local.runner import CellGuest\n"
        "tid = next(one._tid for one in gc.get_objects() if isinstance(one, CellGuest))\n"
        "def more(tid):\n    found = 0\n    for _ in range(3):\n        try:\n            if copies.copy(seccomp.KEEP, tid) == 0: os._exit(0)\n            found += 1\n"
        "        except OSError: pass\n    return found"
    )
    for number in range(8):
        found = session.run(f"x = {number}\nmore(tid)")
        assert found.value == 0 and session.run("tid > 0").value is True, found.error
        assert len(settled(session)) == 3
        assert session.run("x = None\n" + CRASH).rolled_back and session.run("x").value == number


def test_a_signal_does_not_keep_an_answer_from_being_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ends interrupts whatever the watching process does just then."""
    calls: list[str] = []

    def interrupted(real: Callable[..., int]) -> Callable[..., int]:
        def call(name: str, *arguments: Any) -> int:
            calls.append(name)
            if len(calls) < 3:
                raise InterruptedError(4, "interrupted")
            return 0

        return call

    monkeypatch.setattr(libc, "syscall", interrupted(libc.syscall))
    listener = copies.Listener.__new__(copies.Listener)
    listener.fd = 99
    assert listener.agree(copies.Question(1, 2, True, 0, 0)) and len(calls) == 3


def test_one_step_alone_has_nobody_who_watches_over_it(executor: Executor) -> None:
    """Nothing of it will be undone. Whoever asks for that by name has it all the same."""
    look = "import os\nos.getpid()"
    for _ in range(2):
        assert executor.run(look).value == 1
        assert executor.run(look, policy=Policy(rollback="errors")).value > 1
        with executor.session() as session:
            assert session.run(look).value > 1
    assert executor.run(SPIN, policy=Policy(rollback="limits", limits=Limits(time=0.3))).error is not None


def test_two_kinds_of_cells_are_made_ahead(executor: Executor) -> None:
    def spares() -> set[int]:
        backend: Any = executor._backend
        return children(backend._zygote._process.pid)

    def taken() -> bool:
        before = spares()
        with executor.session() as one, executor.session(policy=Policy(rollback="never")) as other:
            first: Any = one._guest
            second: Any = other._guest
            return {first.pid, second.pid} == before

    assert eventually(taken, 20)  # not while what programs may import is still imported, for which they are made anew
