"""Steps that are undone in a container, and guests that would rather not be."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec import Executor, GuestError, Limits, Policy, PolicyError, Result, Session
from safeexec.testing import same
from safeexec.testing.base import eventually
from safeexec_backends.docker import DockerBackend, orders, returning
from tests.support import histories, unread
from tests.support import undone as programs

MIB = 2**20
SPIN = "while True:\n    pass"
CRASH = "import os\nos._exit(3)"
FAST = Policy(limits=Limits(time=0.5))
BOUND = 30.0
"""Seconds, far above what going back may take: that a host waits at all must not depend on how busy the machine is."""


@pytest.fixture(scope="module")
def executor(docker_url: str) -> Iterator[Executor]:
    with Executor("docker", pool=2) as made:
        yield made


@pytest.fixture
def session(executor: Executor) -> Iterator[Session]:
    with executor.session(policy=Policy(limits=Limits(time=20))) as made:
        yield made


def processes(session: Session) -> list[str]:
    """What runs in the session's container, as the daemon sees it."""
    guest: Any = session._guest
    found = guest._client.api.top(guest.id, ps_args="-eo pid,args")
    return [" ".join(row[1:]) for row in found["Processes"]]


def gone(guest: Any) -> None:
    """The daemon knows nothing of its container any more."""
    assert eventually(lambda: not guest._client.api.containers(all=True, filters={"id": guest.id}), 20)


def lost(session: Session, result: Result, why: str) -> GuestError:
    """The session ended since there was no way back, and says why."""
    assert result.error is not None and not result.rolled_back and session.closed
    assert why in str(session._closed), session._closed
    gone(session._guest)
    return result.error


# -- what comes back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (CRASH, "crash"),
        ("import os\nos.abort()", "crash"),
        ("import os\nos.kill(os.getpid(), 9)", "crash"),
        ("import os\nos.kill(os.getpid(), 19)", "time"),
        ("import os\nos.closerange(0, 1000)\n" + SPIN, "crash"),
        ("import os\nos.write(1, b'x' * 100)\nos.close(3)\nos.close(4)\nos.close(5)\n" + SPIN, "crash"),
        ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n" + SPIN, "time"),
        ("import threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()\n" + SPIN, "time"),
        ("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])", "time"),
        ("import os\nif os.fork() == 0:\n    while True: os.write(1, b'x' * 60000)\nos.wait()", "output"),
        ("x = []\nwhile True:\n    x.append(bytes(10**6))", "memory"),
        ("import os\nwhile True:\n    os.write(os.memfd_create('x'), bytes(2**20))", "memory"),
        ("import os\nif os.fork() == 0:\n    while True: pass\nos._exit(1)", "crash"),
    ],
)  # fmt: skip
def test_whatever_ends_a_step_it_never_was(executor: Executor, code: str, kind: str) -> None:
    policy = Policy(limits=Limits(time=0.7 if kind == "time" else 20, memory=64 * MIB, output=100_000))
    with executor.session({"tool": lambda: 5}, policy=policy) as session:
        session.run("x = [1]\nopen('kept', 'w').write('one')")
        for _ in range(2):
            result = session.run("x = 2\nopen('kept', 'w').write('two')\n" + code)
            assert result.error is not None and (result.error.kind, result.rolled_back) == (kind, True), result
            after = session.run("print('own')\n(x, open('kept').read(), tool())")
            assert (after.value, after.stdout) == (([1], "one", 5), "own\n")


def test_the_first_step_is_undone_and_the_second(session: Session) -> None:
    for _ in range(3):
        assert session.run("x = 1\n" + CRASH).rolled_back
        assert session.run("'x' in globals()").value is False
        assert session.run(CRASH).rolled_back


def test_random_numbers_and_fork_handlers_come_back_untouched(session: Session) -> None:
    """A copy is made past everyone's handlers: none may be called in it, and none may reseed it."""
    session.run("import os, random\ncalls = []\nos.register_at_fork(before=lambda: calls.append(1))\nrandom.seed(1)")
    expected = session.run("state = random.getstate()\n[random.random() for _ in range(3)]").value
    assert session.run("random.setstate(state)").ok
    assert session.run("random.random()\n" + CRASH).rolled_back
    assert session.run("([random.random() for _ in range(3)], calls)").value == (expected, [])


@pytest.mark.parametrize("ruin", list(programs.RUINS))
def test_files_come_back(session: Session, ruin: str) -> None:
    result = session.run(programs.TREE)
    assert result.ok, result.error
    assert session.run(programs.RUINS[ruin] + "\n" + CRASH).rolled_back
    look = (
        "after = tree()\n{n: (before.get(n), after.get(n)) for n in {*before, *after} if before.get(n) != after.get(n)}"
    )
    assert session.run(look).value == {}


def test_open_files_and_the_event_loop_come_back(session: Session) -> None:
    session.run("import asyncio\nf = open('f', 'w+')\nf.write('0123456789')\nf.seek(4)\nawait asyncio.sleep(0)")
    assert session.run("f.read()\nf.truncate(0)\nawait asyncio.sleep(0)\n" + CRASH).rolled_back
    assert session.run("await asyncio.sleep(0.001)\nf.read()").value == "456789"


def test_errors_undo_where_they_are_to(executor: Executor) -> None:
    with executor.session(policy=Policy(rollback="errors")) as session:
        session.run("x = 1")
        assert session.run("x = 2\n1 / 0").rolled_back and session.run("x").value == 1
    with executor.session() as session:
        session.run("x = 1")
        assert not session.run("x = 2\n1 / 0").rolled_back and session.run("x").value == 2


def test_output_in_flight_is_nobodys_after_it(executor: Executor) -> None:
    """A frame cut off in the middle, output in the pipes, and half a megabyte that the host never read."""
    with executor.session({"echo": lambda text: text}, policy=FAST) as session:
        session.run("import os, stat\nx = 1")
        code = "for n in range(3, 20):\n    try:\n        if stat.S_ISSOCK(os.fstat(n).st_mode): os.write(n, (2**24).to_bytes(4, 'little') + b'x' * 1000); break\n    except OSError: pass\n"
        assert session.run(code + SPIN).rolled_back
        assert session.run("os.write(1, b'not mine')\nos._exit(1)").rolled_back
        code = "import threading\nthreading.Thread(target=lambda: echo('y' * 500_000)).start()\n" + CRASH
        assert session.run(code).rolled_back
        after = session.run("echo(x)")
        assert (after.value, after.stdout, after.stderr) == (1, "", "")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    program=st.lists(st.sampled_from(programs.STEPS), min_size=1, max_size=8),
    fails=st.lists(st.booleans(), min_size=8, max_size=8),
    failures=st.lists(
        st.sampled_from([w for w in programs.WAYS_TO_FAIL if w != programs.SPIN]), min_size=8, max_size=8
    ),
)
def test_a_session_that_goes_back_is_the_session_that_does_not(
    executor: Executor, program: list[str], fails: list[bool], failures: list[str]
) -> None:
    policy = Policy(limits=Limits(time=60))
    control_policy = policy.replace(rollback="never")
    with executor.session(policy=control_policy) as control, executor.session(policy=policy) as traveller:
        assert control.run(programs.PROPERTY_START).ok and traveller.run(programs.PROPERTY_START).ok
        for step, fail, failure in zip(program, fails, failures, strict=False):
            if fail and step not in histories.RAISES:
                assert traveller.run(step + "\n" + failure).rolled_back
            mine, its = traveller.run(step), control.run(step)
            assert same(histories.outcome(mine), histories.outcome(its))
        assert same(traveller.run(programs.PROPERTY_LOOK).value, control.run(programs.PROPERTY_LOOK).value)


def test_a_step_may_end_before_its_checkpoint_lies_down(executor: Executor) -> None:
    """The copy still has the runner's connection then, and the host would wait for its end."""
    with executor.session(policy=Policy(limits=Limits(time=20))) as session:
        slow = "lambda fd: (sys._getframe(1).f_code.co_name == '_be_copied' and time.sleep(1), real(fd))"
        session.run(f"import os, sys, time\nreal = os.close\nos.close = {slow}")
        for _ in range(2):
            result = session.run(CRASH)
            assert result.error is not None and (result.error.kind, result.rolled_back) == ("crash", True), result


def test_a_child_of_the_session_is_never_taken_for_its_checkpoint(executor: Executor) -> None:
    """A lie about one that the keeper has not made itself changes nothing."""
    with executor.session(policy=Policy(limits=Limits(time=20))) as session:
        session.run(HAND + "x = 1")
        # Once the keeper has heard of the real one: who takes that word away before it was heard has lied to his own harm.
        code = "import time\nmine = past._checkpoint\nwhile mine and open(f'/proc/{mine}/oom_score_adj').read() != '0\\n': time.sleep(0.001)\n"
        code += "pid = os.fork()\nif pid == 0:\n    while True: signal.pause()\nsay(b'k', 9, pid)\npast.kept.value = 9 << 24 | pid\nx = 2\n"
        for _ in range(2):
            result = session.run(code + CRASH)
            assert result.rolled_back, result.error
            assert session.run("x").value == 1


# -- what is not kept, and says so --------------------------------------------------------------------------------------

LASTING = {
    "a thread": "import threading\ngo = threading.Event()\nthreading.Thread(target=go.wait, daemon=True).start()",
    "a process": "import subprocess, sys\np = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
    "an orphan": "import os, time\nif os.fork() == 0:\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)\nos.wait()",
}


@pytest.mark.parametrize("what", LASTING)
def test_a_session_that_leaves_something_running_is_not_kept_and_says_so(session: Session, what: str) -> None:
    assert session.run(LASTING[what]).ok and session.run("1").ok
    why = "a thread that an earlier" if what == "a thread" else "a process that an earlier"
    lost(session, session.run(CRASH), why)


def test_once_it_has_ended_a_session_is_kept_again(session: Session) -> None:
    session.run(LASTING["a thread"])
    session.run("go.set()\nfor t in threading.enumerate():\n    if t is not threading.main_thread(): t.join()")
    session.run(LASTING["a process"])
    session.run("p.kill()\np.wait()\nx = 1")
    assert session.run("x = 2\n" + CRASH).rolled_back and session.run("x").value == 1


def test_a_session_that_holds_more_than_there_is_room_for_is_not_kept(executor: Executor) -> None:
    """Its pages may exist twice: no step may have less than its limit for that, so what is large is not copied."""
    policy = Policy(limits=Limits(memory=128 * MIB, time=20))
    with executor.session(policy=policy) as session:
        assert session.run("big = bytearray(b'x') * (100 << 20)").ok
        assert session.run("for i in range(0, len(big), 4096): big[i] = 1").ok, "what it holds can be written to"
        lost(session, session.run(CRASH), "more than can be kept")
    with executor.session(policy=policy) as session:
        session.run("big = bytearray(b'x') * (24 << 20)")
        assert session.run("for i in range(0, len(big), 4096): big[i] = 1\n" + CRASH).rolled_back
        assert session.run("set(big) == {ord('x')}").value is True


def test_never_keeps_none(executor: Executor) -> None:
    with executor.session(policy=Policy(rollback="never")) as session:
        session.run("x = 1")
        assert len(processes(session)) == 2, "the init and the guest"
        result = session.run(CRASH)
        assert not result.rolled_back and session.closed


def test_one_step_keeps_none(executor: Executor) -> None:
    assert executor.run("import os\nlen([n for n in os.listdir('/proc') if n.isdigit()])").value == 2


class Elsewhere(DockerBackend):
    """A daemon that sees none of this machine's files."""

    _files_shared = False


def test_where_it_cannot_be_it_is_said() -> None:
    policy = Policy()
    with Executor(Elsewhere(policy), policy=policy) as made:
        wall = made.isolation["rollback"]
        assert not wall.active and "stream of the daemon's" in wall.reason
        with pytest.raises(PolicyError, match="rollback"):
            made.session(policy=Policy(rollback="limits"))
        with made.session() as session:
            assert session.run("1 + 1").value == 2 and not session.run(CRASH).rolled_back and session.closed


def test_a_session_with_a_network_keeps_none(executor: Executor) -> None:
    with pytest.raises(PolicyError, match="network"):
        executor.session(policy=Policy(network=("example.org",), rollback="limits"))
    with Executor("docker", policy=Policy(network=("example.org",))) as made:
        assert not made.isolation["rollback"].active and "network" in made.isolation["rollback"].reason


# -- limits hold for all of it ------------------------------------------------------------------------------------------


def test_children_of_a_failed_step_are_gone_before_the_next(session: Session) -> None:
    for code in ("import os, time\nfor _ in range(5):\n    if os.fork() == 0: time.sleep(600)\n",
                 "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: time.sleep(0.001)\n    os._exit(0)\n"):  # fmt: skip
        result = session.run(code + CRASH)
        assert result.rolled_back and result.error is not None and "exit code 3" in result.error.message
        assert session.run("len([n for n in __import__('os').listdir('/proc') if n.isdigit()])").value <= 5
        assert eventually(lambda: len(processes(session)) <= 4), "the init, the keeper, the checkpoint, the runner"


def test_a_bomb_is_put_out(executor: Executor) -> None:
    with executor.session(policy=Policy(limits=Limits(time=1.0, processes=24))) as session:
        session.run("x = 1")
        bomb = "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n    try:\n        os.fork()\n    except OSError: pass"
        for _ in range(2):
            started = monotonic()
            result = session.run("x = 2\n" + bomb)
            assert result.rolled_back and monotonic() - started < BOUND
            assert session.run("x").value == 1
            assert eventually(lambda: len(processes(session)) <= 4)


def test_full_disk_is_emptied(executor: Executor) -> None:
    fill = "import os\nfor folder in ('/sandbox', '/tmp', '/dev/shm'):\n    try:\n        for n in range(10**6): open(f'{folder}/{n}', 'wb').write(bytes(2**20))\n    except OSError: pass\n"
    with executor.session(policy=Policy(limits=Limits(disk=8 * MIB, time=30))) as session:
        session.run("open('mine', 'wb').write(b'x' * (2 << 20))")
        for end in (CRASH, "os.remove('mine')\n" + CRASH):
            assert session.run(fill + end).rolled_back
            assert session.run("open('mine', 'rb').read() == b'x' * (2 << 20)").value is True
            assert session.run("open('/tmp/more', 'wb').write(bytes(2**20))").value == MIB


def test_flood_while_it_goes_back(session: Session) -> None:
    """A child goes on writing, everywhere it can, while its parent is undone."""
    session.run("x = 1")
    code = "import os\nif os.fork() == 0:\n    while True:\n        for n in range(1, 20):\n            try:\n                os.set_blocking(n, False); os.write(n, b'x' * 60000)\n            except OSError: pass\n"
    for _ in range(2):
        assert session.run(code + CRASH).rolled_back, session._closed
        after = session.run("print('own')\nx")
        assert (after.value, after.stdout, after.stderr) == (1, "own\n", "")


def test_undoing_leaves_nothing_behind(session: Session) -> None:
    session.run("x = 1")
    assert session.run(CRASH).rolled_back
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    inside = session.run("import os, threading\nlen(os.listdir('/proc/self/fd'))").value
    for _ in range(15):
        assert session.run(CRASH).rolled_back
    assert eventually(lambda: threading.active_count() <= threads)
    assert len(os.listdir("/proc/self/fd")) < descriptors + 15, "the daemon's client has a few of its own"
    assert session.run("len(os.listdir('/proc/self/fd'))").value <= inside
    assert eventually(lambda: len(processes(session)) <= 4)


def test_checkpoints_that_follow_at_once_are_all_taken(session: Session) -> None:
    for n in range(60):
        session.run(f"n = {n}")
    assert session.run("n = -1\n" + CRASH).rolled_back and session.run("n").value == 59


def test_where_the_kernel_does_not_count_processes_they_are_looked_for(session: Session) -> None:
    session.run("import gc\npast = next(o for o in gc.get_objects() if type(o).__name__ == 'Past')\npast._counts = []")
    for n in range(20):
        session.run(f"n = {n}")
    assert session.run("len(past._former)").value <= 4
    assert session.run("n = -1\n" + CRASH).rolled_back and session.run("n").value == 19
    assert session.run(LASTING["a process"]).ok
    lost(session, session.run(CRASH), "a process that an earlier")


# -- hostile guests -----------------------------------------------------------------------------------------------------

PIDS = """
import os, signal
def pids():
    return [int(n) for n in os.listdir('/proc') if n.isdigit() and int(n) not in (1, os.getpid())]
keeper = os.getppid()
"""


def ends(session: Session, code: str) -> None:
    """The step is reported, and the session is over, within a bound."""
    started = monotonic()
    result = session.run(code)
    assert result.error is not None and not result.rolled_back and session.closed
    assert monotonic() - started < BOUND
    gone(session._guest)


def test_a_session_that_kills_its_keeper_is_over(session: Session) -> None:
    session.run(PIDS)
    ends(session, "os.kill(keeper, 9)\n" + SPIN)


def test_a_session_that_kills_its_checkpoint_has_none(session: Session) -> None:
    session.run(PIDS)
    code = "for pid in pids():\n    if pid != keeper: os.kill(pid, 9)\n"
    assert session.run(code).ok and session.run("1 + 1").value == 2, "and gets another after the step"
    ends(session, code + CRASH)


def test_a_keeper_that_is_stopped_holds_nobody_up(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "_ANSWER", 1.5)
    with executor.session(policy=FAST) as session:
        session.run(PIDS)
        ends(session, "os.kill(keeper, signal.SIGSTOP)\n" + SPIN)


def test_a_keeper_that_is_behind_is_not_taken_for_the_sessions_own_processes(session: Session) -> None:
    """Checkpoints that it has yet to end are no processes that a step left running."""
    session.run(PIDS + "x = 0\nos.kill(keeper, signal.SIGSTOP)")
    for n in range(1, 4):
        assert session.run(f"x = {n}").ok
    assert session.run("x = 99\nos.kill(keeper, signal.SIGCONT)\n" + CRASH).rolled_back, session._closed
    assert session.run("x").value == 3


def test_a_keeper_cannot_be_reached_but_by_signals(session: Session) -> None:
    session.run(PIDS)
    code = "found = []\nfor n in os.listdir(f'/proc/{keeper}/fd'):\n    try:\n        os.close(os.open(f'/proc/{keeper}/fd/{n}', os.O_RDWR)); found.append(os.readlink(f'/proc/{keeper}/fd/{n}'))\n    except OSError: pass\n[f for f in found if 'socket' in f]"
    assert session.run(code).value == []
    assert session.run("os.killpg(0, 0)").ok and session.run("os.getpgid(keeper) != os.getpgid(0)").value is True


HAND = (
    PIDS
    + """
import gc, socket, stat, struct, sys
past = next(o for o in gc.get_objects() if type(o).__name__ == 'Past')
sibling = lambda: sys.modules['safeexec_copies'].copy(sys.modules['safeexec_copies'].PARENT)
def say(kind, number, value):
    for n in range(3, 40):
        try:
            end = socket.socket(fileno=os.dup(n))
            if end.type == socket.SOCK_SEQPACKET:
                end.send(struct.pack('<cqq', kind, number, value))
                return end
        except OSError:
            pass
"""
)


@pytest.mark.parametrize(
    "lie",
    [
        "say(b'k', 2**62, os.getpid())",
        "say(b'k', 2, 1)",
        "say(b'k', 2, keeper)",
        "say(b'k', 3, 2**62)",
        "say(b'k', -1, -1)",
        "say(b'm', 2, 77)",
        "for _ in range(1000): say(b'?', 1, 1)",
        "end = say(b'?', 1, 1)\nfor _ in range(50): end.sendmsg([b'w' * 17], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('5i', *[0] * 5))])",
        "say(b'?', 0, 0).shutdown(2)",
        "pid = os.fork()\nif pid == 0:\n    while True: signal.pause()\nsay(b'k', 2, pid)",
        "pid = sibling()\nif pid == 0:\n    while True: signal.pause()\nsay(b'k', 2, pid)",
        "pid = sibling()\nif pid == 0:\n    while True: signal.pause()\nsay(b'k', 9, pid)",
        "past.kept.value = 2**64 - 1",
        "past.kept.value = 0",
        "past.kept.value = 9 << 24 | keeper",
        "past.kept.value = 9 << 24 | os.getpid()",
        "pid = sibling()\nif pid == 0:\n    while True: past.kept.value += 1\npast.kept.value = 9 << 24 | pid",
    ],
)  # fmt: skip
def test_a_guest_that_lies_of_its_checkpoint_harms_itself_alone(
    executor: Executor, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returning, "_ANSWER", 2.0)
    with executor.session(policy=Policy(limits=Limits(time=2))) as session:
        session.run(HAND)
        started = monotonic()
        result = session.run(f"x = 1\n{lie}\n{CRASH}")
        assert monotonic() - started < BOUND
        assert result.error is not None and result.error.kind in ("crash", "time", "protocol")
        if not session.closed:
            assert session.run("print('own')\n1 + 1").value in (2, None)
    assert executor.run("1 + 1").value == 2


def test_a_guest_that_answers_in_the_keepers_place_is_believed_nothing(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on under the checkpoint's name and answers what it likes: it gets its own session's steps, and they are checked like any."""
    monkeypatch.setattr(returning, "_ANSWER", 2.0)
    forged = (
        HAND
        + """
def serve(end):
    said, fds, _, _ = socket.recv_fds(end, 17, 1)
    os.write(fds[0], b'\\1')
    body = b'{"t": "done", "id": 1, "v": "forged"}'
    os.write(fds[0], struct.pack('<II', len(body) + 4, len(body)) + body)
    while True: signal.pause()
"""
    )
    with executor.session(policy=Policy(limits=Limits(time=2))) as session:
        assert session.run(forged).ok
        # The state before this step has the number 2. A child of its own is nobody that the keeper would wake.
        code = "pid = sibling()\nif pid == 0:\n    serve(say(b'?', 0, 0))\nsay(b'm', 3, 0)\nsay(b'k', 2, pid)\n"
        result = session.run(code + CRASH)
        assert result.error is not None
        if not session.closed:
            after = session.run("x = 1\n'mine'")
            assert after.value is None and after.error is not None and after.error.kind in ("protocol", "crash", "time")
        assert session.closed


def test_a_checkpoint_that_does_not_want_to_come_back_ends_the_session(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returning, "_ANSWER", 1.5)
    for what in ("lambda *a: __import__('time').sleep(600)", "lambda *a: 1 / 0", "lambda *a: __import__('os').abort()"):
        with executor.session(policy=FAST) as session:
            session.run(f"import sys\nsys.modules['safeexec_open_files'].OpenFiles.restore = {what}")
            ends(session, CRASH)


def test_news_of_another_life_is_no_news(executor: Executor) -> None:
    """A keeper that says too much, and what was true before it went back."""
    with executor.session(policy=FAST) as session:
        session.run("x = 1")
        guest: Any = session._guest
        assert session.run(CRASH).rolled_back
        said = [(0, orders.OUT_OF_MEMORY, 137), (7, orders.ENDED, 0), (1, 99, 5), (1, orders.ENDED, 4)]
        guest._direct.hear = lambda deadline: said.pop(0)
        error = session.run(CRASH).error
        assert error is not None and (error.kind, "exit code 4" in error.message) == ("crash", True)


def test_answers_that_are_not_read_hold_nobody_up(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "_UNREAD", 0.5)
    unread.check(executor)


def test_answers_that_came_too_late_end_nobody(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was sending one found the connection gone, asked for the reason, and ended the session that had gone back."""
    monkeypatch.setattr(returning, "_NEWS", 0.2)
    with executor.session({"large": unread.large}, policy=Policy(limits=Limits(time=20))) as session:
        session.run("calls = 6")
        session.run("x = 1")
        assert session.run(programs.SAYS_MEMORY).rolled_back
        until = monotonic() + 0.6
        while monotonic() < until:
            assert session.run("x").value == 1


def test_news_without_end_are_not_listened_to_for_ever(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest can write into its keeper's memory, and make it say the same thing faster than the host reads."""
    monkeypatch.setattr(returning, "_NEWS", 0.5)
    with executor.session(policy=FAST) as session:
        session.run("x = 1")
        guest: Any = session._guest
        heard = itertools.count()
        guest._direct.hear = lambda deadline: (7, 99, 5) if next(heard) < 10**7 else None
        assert session.run(CRASH).error is not None
        assert next(heard) < 10**7


@pytest.mark.parametrize("end", [Session.kill, Session.close])
def test_ending_it_from_another_thread_while_it_goes_back(executor: Executor, end: Callable[[Session], None]) -> None:
    with executor.session(policy=FAST) as session:
        never = "OpenFiles.restore = lambda *a: time.sleep(600)"
        session.run(f"import sys, time\nsys.modules['safeexec_open_files'].{never}")
        guest: Any = session._guest
        going = threading.Event()
        real = guest._go_back

        def go_back(*ends: Any) -> None:
            real(*ends)
            going.set()

        guest._go_back = go_back
        results: list[Result] = []
        thread = threading.Thread(target=lambda: results.append(session.run(CRASH)))
        thread.start()
        assert going.wait(20)
        end(session)
        thread.join(returning._ANSWER * 2)
        assert not thread.is_alive() and session.closed and not results[0].rolled_back
        gone(guest)


def test_an_interrupt_that_comes_before_its_step_is_kept_for_it(executor: Executor) -> None:
    """Whoever reads the host's orders changes when the first checkpoint is taken; a word that came just before must not be lost."""
    for _ in range(5):
        with executor.session() as session:
            guest: Any = session._guest
            real = guest.exchange

            def exchange(frame: Any, on_frame: Any, guest: Any = guest, real: Any = real) -> None:
                guest._direct.interrupt(frame[0]["id"])
                real(frame, on_frame)

            guest.exchange = exchange
            error = session.run(SPIN).error
            assert error is not None and error.type == "KeyboardInterrupt"
