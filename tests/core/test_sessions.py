"""Sessions and executors: interrupts at any moment, closing while running, forks of the host, what is left behind."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import safeexec
from safeexec import Executor, Limits, Policy, PolicyError, Result, Session, SessionBusy, SessionClosed, dropped
from safeexec.testing.base import assert_closed, eventually
from safeexec.testing.lifecycle import children, descriptors
from tests.core.scripted import Peer, ScriptedBackend, threads_named
from tests.support.plain import PlainBackend


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(PlainBackend(), policy=Policy(limits=Limits(time=20))) as made:
        yield made


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


STEPS = (
    "x += 1\nx",
    "y = sum(range(20_000))\nx += 1\nx",
    "import asyncio\nawait asyncio.sleep(0.001)\nx += 1\nx",
    "print('a' * 3000)\nx += 1\nx",
    "r = tool(5)\nx += 1\nx",
    "import asyncio\nawait asyncio.gather(*[tool.aio(i) for i in range(3)])\nx += 1\nx",
    "import time\ntime.sleep(0.002)\nx += 1\nx",
    "try:\n    z = [i for i in range(30_000)]\nfinally:\n    w = 1\nx += 1\nx",
)


def test_interrupts_at_two_hundred_random_moments(executor: Executor) -> None:
    """Each step either counts or says that it was interrupted; a session that could not be kept says that it is closed."""
    chance = random.Random(7)

    def fresh() -> Session:
        made = executor.session({"tool": lambda n: n}, {"x": 0})
        made.run("import asyncio, time")  # an interrupted import leaves the package in pieces: that is Python's own way
        return made

    session = fresh()
    stop = threading.Event()
    replaced = interrupted = 0

    def pester() -> None:
        while not stop.wait(chance.random() * 0.006):
            session.interrupt()

    thread = in_thread(pester)
    try:
        for _ in range(200):
            before = None
            result = session.run(chance.choice(STEPS))
            if result.error is None:
                assert type(result.value) is int
                before = result.value
            else:
                assert result.error.type in ("KeyboardInterrupt", "RuntimeError", "CancelledError"), result.error
                interrupted += 1
            if session.closed:
                assert_closed(session)
                session = fresh()
                replaced += 1
            elif before is not None:
                assert session.policy is not None
    finally:
        stop.set()
        thread.join(10)
    assert interrupted > 0 and replaced < 20
    # A late signal may still arrive: then this step is the one that is interrupted.
    assert any(session.run("6 * 7").value == 42 for _ in range(2))
    session.close()


def test_a_counter_is_never_lost_between_interrupts(executor: Executor) -> None:
    with executor.session(variables={"x": 0}) as session:
        counted = 0
        for turn in range(40):
            thread = in_thread(session.interrupt) if turn % 2 else None
            result = session.run("x += 1\nx")
            if thread is not None:
                thread.join(10)
            if result.ok:
                assert result.value in (counted + 1, counted + 2)
                counted = result.value
            else:
                counted = counted if session.run("x").value == counted else counted + 1
        assert session.run("x").value == counted


@pytest.mark.parametrize("end", ["close", "kill"])
def test_ending_at_random_moments_from_other_threads(executor: Executor, end: str) -> None:
    chance = random.Random(11)
    for _ in range(8):
        session = executor.session({"tool": lambda n: n}, {"x": 0})
        go = threading.Event()
        pause = chance.random() * 0.02

        def finish(session: Any = session, go: Any = go, pause: float = pause) -> None:
            go.wait(10)
            threading.Event().wait(pause)
            getattr(session, end)()

        threads = [in_thread(finish), in_thread(finish)]
        go.set()
        with pytest.raises(SessionClosed):
            while True:
                result = session.run(chance.choice(STEPS))
                if result.error is not None:
                    assert result.error.kind == "crash" and "while the step ran" in result.error.message
        for thread in threads:
            thread.join(10)
        assert_closed(session)
    assert eventually(lambda: not threads_named("safeexec-close"))


def test_session_is_busy_while_it_runs_and_free_afterwards(executor: Executor) -> None:
    inside, release = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        release.wait(10)

    with executor.session([hold]) as session:
        thread = in_thread(lambda: session.run("hold()"))
        assert inside.wait(10)
        for use in (
            lambda: session.run("1"),
            lambda: session.variables["x"],
            lambda: session.files.list(),
            lambda: session.files.read("x"),
        ):
            with pytest.raises(SessionBusy):
                use()
        release.set()
        thread.join(10)
        assert session.run("1").value == 1


def test_session_after_a_time_out_says_why_it_is_closed(executor: Executor) -> None:
    with executor.session(policy=Policy(limits=Limits(time=0.2))) as session:
        result = session.run(
            "print('kept')\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass"
        )
        assert result.error is not None and result.error.kind == "time" and result.stdout == "kept\n"
        with pytest.raises(SessionClosed, match=r"Limits\.time"):
            session.run("1")
        with pytest.raises(SessionClosed):
            session.variables["x"]


def test_time_limit_shorter_than_the_start_lets_sessions_start() -> None:
    with Executor(PlainBackend(), policy=Policy(limits=Limits(time=0.01))) as executor, executor.session() as session:
        assert session.run("1").value == 1


def test_keyboard_interrupt_in_the_waiting_thread_ends_the_session() -> None:
    """Ctrl-C arrives in the thread that waits in run(): here an exchange that raises it."""

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.wait_for_the_end()

    backend = ScriptedBackend(behave)
    with Executor(backend) as executor:
        session = executor.session()
        guest = backend.guests[0]

        def exchange(*_: Any) -> None:
            raise KeyboardInterrupt

        guest.exchange = exchange  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            session.run("1")
        assert_closed(session)
        assert "kill" in guest.events
    assert eventually(lambda: not threads_named("scripted") and not threads_named("safeexec-close"))


def test_callback_may_close_the_session(executor: Executor) -> None:
    session = executor.session()
    result = session.run("print('x')\nwhile True:\n    pass", on_output=lambda _: session.close())
    assert result.error is not None and result.error.kind == "crash"
    assert_closed(session)


def test_callback_may_interrupt_the_session(executor: Executor) -> None:
    with executor.session() as session:
        result = session.run("print('x')\nwhile True:\n    pass", on_output=lambda _: session.interrupt())
        assert result.error is not None and result.error.type == "KeyboardInterrupt"


def test_executor_closed_twice_and_used_afterwards() -> None:
    executor = Executor(PlainBackend())
    session = executor.session()
    for _ in range(2):
        executor.close()
    assert_closed(session)
    with pytest.raises(SessionClosed):
        executor.run("1")


def test_executor_closed_while_its_sessions_run() -> None:
    executor = Executor(PlainBackend(), policy=Policy(limits=Limits(time=20)))
    begun = threading.Barrier(4)
    results: list[Result] = []

    def work() -> None:
        session = executor.session()
        results.append(session.run("print('x')\nwhile True:\n    pass", on_output=lambda _: begun.wait(10)))

    threads = [in_thread(work) for _ in range(3)]
    begun.wait(10)
    executor.close()
    for thread in threads:
        thread.join(10)
    assert len(results) == 3 and all(r.error is not None and r.error.kind == "crash" for r in results)


def test_dropped_sessions_leave_nothing(executor: Executor) -> None:
    executor.session().run("1")
    gc.collect()
    before, below = descriptors(), children()
    for _ in range(4):
        executor.session().run("1")
    gc.collect()
    assert eventually(lambda: descriptors() <= before and children() <= below)


def test_a_session_that_is_collected_amid_a_lock_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector runs at any line of any thread, also of one that holds what ending the guest would wait for."""
    lock, ended = threading.Lock(), threading.Event()
    backend = PlainBackend()
    start = backend.start

    def started(policy: Policy) -> Any:
        guest = start(policy)
        close = guest.close

        def locked() -> None:
            with lock:
                close()
            ended.set()

        monkeypatch.setattr(guest, "close", locked)
        return guest

    monkeypatch.setattr(backend, "start", started)
    with Executor(backend) as executor:
        executor.session().run("1")

        def collect() -> None:
            with lock:
                gc.collect()

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive() and ended.wait(10)


def test_trouble_with_one_dropped_guest_keeps_no_other_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: said.append(str(args.exc_value)))
    ended: list[int] = []

    class Dropped:
        def __init__(self, number: int) -> None:
            self.number = number

        def kill(self) -> None:
            if self.number == 1:
                raise OSError("trouble")

        def close(self) -> None:
            ended.append(self.number)

    for number in range(4):
        dropped.end(Dropped(number))  # type: ignore[arg-type]
    assert eventually(lambda: sorted(ended) == [0, 1, 2, 3]) and said == ["trouble"]
    assert eventually(lambda: not dropped._busy.locked())


@pytest.mark.parametrize("code", [5, None, b"1", ["1"]])
def test_code_must_be_text(executor: Executor, code: Any) -> None:
    with executor.session() as session, pytest.raises(TypeError):
        session.run(code)


def test_code_beyond_a_header_is_refused_and_the_session_goes_on(executor: Executor) -> None:
    with executor.session() as session:
        with pytest.raises(safeexec.LimitExceeded):
            session.run("#" * 9_000_000)
        assert session.run("1").value == 1


@pytest.mark.parametrize("policy", [Limits(), {"limits": Limits()}, {}, "wasm"], ids=repr)
def test_what_is_no_policy_is_refused_wherever_one_is_taken(executor: Executor, policy: Any) -> None:
    for take in (
        lambda: safeexec.run("1", sandbox="local", policy=policy),
        lambda: executor.session(policy=policy),
        lambda: executor.run("1", policy=policy),
    ):
        with pytest.raises(PolicyError, match=rf"must be a safeexec\.Policy, not {type(policy).__name__}"):
            take()
    assert executor.run("1").value == 1


@pytest.mark.parametrize("variables", [["x"], 5, "x", [("x", 1)]], ids=repr)
def test_variables_that_are_no_mapping_are_refused(executor: Executor, variables: Any) -> None:
    with pytest.raises(TypeError, match="mapping of names to values"):
        executor.session(variables=variables)


@pytest.mark.parametrize(
    "fields",
    [
        {"limits": 5}, {"imports": "math"}, {"imports": 5}, {"imports": ("not a module",)}, {"imports": ("os; x",)}, {"imports": ("*.x",)},
        {"packages": "msgpack"}, {"network": "host"}, {"network": (5,)}, {"require": "seccomp"}, {"env": {"A=B": "x"}}, {"env": {"": "x"}},
        {"env": {"A": "\0"}}, {"env": {"A": 5}}, {"env": []}, {"rollback": "always"}, {"files": []}, {"files": {"a": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_malformed_policies_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=next(iter(fields))):
        Policy(**fields)


@pytest.mark.parametrize(
    "name", ["time", "wall", "tool_time", "memory", "output", "value", "disk", "processes", "tool_calls"]
)
@pytest.mark.parametrize("value", [-1, "5", True, float("nan"), float("inf"), [1]], ids=repr)
def test_malformed_limits_are_refused(name: str, value: Any) -> None:
    with pytest.raises(PolicyError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize("env", [{"NAME": 1}, {"NAME": "a\0b"}, {"NA=ME": "1"}, {"": "1"}, {3: "1"}], ids=repr)
def test_an_environment_that_cannot_be_is_refused_with_the_rule(env: Any) -> None:
    with pytest.raises(PolicyError, match="names and values are strings, without NUL, the name without '='"):
        Policy(env=env)


def test_policy_is_immutable_and_copies_what_it_is_given() -> None:
    env, imports = {"A": "1"}, ["math"]
    policy = Policy(env=env, imports=imports)
    env["B"] = "2"
    imports.append("os")
    assert policy.env == {"A": "1"} and policy.imports == ("math",)
    with pytest.raises(AttributeError):
        policy.imports = ()  # type: ignore[misc]
    assert policy.replace(imports=None).imports is None and policy.imports == ("math",)


FORK = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from safeexec import Executor
from tests.support.plain import PlainBackend
executor = Executor(PlainBackend())
session = executor.session({"tool": lambda n: n + 1}, {"x": 1})
assert session.run("tool(x)").value == 2  # the watchdog and a worker thread exist now
pid = os.fork()
if pid == 0:
    status = 1
    try:
        with Executor(PlainBackend()) as own, own.session({"tool": lambda n: n * 2}) as mine:
            assert mine.run("tool(21)").value == 42
            status = 0
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert session.run("x += 1\\ntool(x)").value == 3
executor.close()
print("survived")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="n/a: no fork here")
def test_fork_of_the_host_process() -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", FORK, root], capture_output=True, text=True, timeout=60)
    assert done.stdout == "survived\n", done.stderr


FORK_ENDS = """
import gc, os, sys
sys.path.insert(0, sys.argv[1])
import safeexec
from safeexec import Executor
from tests.support.plain import PlainBackend
how, sandbox = sys.argv[2:]
executor = Executor(PlainBackend() if sandbox == "plain" else sandbox)
session = executor.session({"tool": lambda n: n + 1}, {"x": 1})
assert session.run("tool(x)").value == 2
pid = os.fork()
if pid == 0:
    said = ""
    if how == "forget":
        del session, executor
        gc.collect()
        os._exit(0)
    if how == "exit":
        sys.exit(0)
    if how == "close":
        session.interrupt()
        session.kill()
        session.close()
        executor.close()
        os._exit(0)
    for attempt in (lambda: session.run("x = 5"), lambda: session.variables["x"], lambda: executor.session(), lambda: executor.run("1")):
        try:
            attempt()
        except safeexec.SafeExecError as error:
            said += str(error)
    os._exit(said.count("survive a fork"))
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert code == (4 if how == "use" else 0), code
assert session.run("x += 1\\ntool(x)").value == 3
executor.close()
print("survived")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="n/a: no fork here")
@pytest.mark.parametrize("how", ["forget", "exit", "close", "use"])
def test_forked_child_of_the_host_neither_uses_nor_ends_its_parents_sessions(how: str) -> None:
    """It has the connections too: to shut one there, or to have a container removed, was the end of the parent's session."""
    command = [sys.executable, "-c", FORK_ENDS, str(Path(__file__).parents[2]), how, "plain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "survived\n", done.stderr


def test_host_that_exits_with_open_sessions_ends_at_once() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1])\nfrom safeexec import Executor\nfrom tests.support.plain import PlainBackend\ns = Executor(PlainBackend()).session()\nprint(s.run('import os; os.getpid()').value)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parents[2])], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0 and done.stderr == ""
    pid = int(done.stdout)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())


def test_a_session_is_closed_while_a_step_runs_where_no_thread_can_be_started(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.12 starts none when it ends; a hook of the end that raised left all other sessions as they were."""
    session = executor.session()
    closed = threading.Event()
    close = session._guest.close
    monkeypatch.setattr(session._guest, "close", lambda: (close(), closed.set()))
    errors: list[str] = []

    def run() -> None:
        result = session.run("import time\ntime.sleep(60)")
        errors.append(result.error.kind if result.error is not None else "none")

    thread = in_thread(run)
    assert eventually(lambda: session._step is not None)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    session.close()
    assert closed.is_set()
    thread.join(10)
    assert errors == ["crash"]
