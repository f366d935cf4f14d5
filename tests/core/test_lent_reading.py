"""A row of quick tool calls is read by the thread that runs them: what that must not change."""

from __future__ import annotations

import contextvars
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from safeexec import EndStep, Executor, Limits, Policy, threads
from safeexec.backend import StreamGuest
from safeexec.loan import Loan
from safeexec.testing.base import eventually
from tests.core.scripted import Peer, ScriptedBackend
from tests.support.plain import PlainBackend

ROW = "for i in range(20):\n    quick(i)\n"


def quick(n: int) -> int:
    return n + 1


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(PlainBackend()) as made:
        yield made


@pytest.fixture
def loans(monkeypatch: pytest.MonkeyPatch) -> list[Loan]:
    """Every loan of the test. Tools count as quick however busy the machine is."""
    made: list[Loan] = []
    original = StreamGuest.lend

    def lend(self: StreamGuest, *arguments: Any) -> Loan | None:
        loan = original(self, *arguments)
        assert loan is not None
        made.append(loan)
        return loan

    monkeypatch.setattr(StreamGuest, "lend", lend)
    monkeypatch.setattr("safeexec.broker._QUICK", 30.0)
    # A thread that is not given the processor for two milliseconds is no tool that takes long.
    monkeypatch.setattr("safeexec.loan._PATIENCE", 0.05)
    return made


def test_row_of_quick_calls_wakes_one_thread_for_all(
    executor: Executor, loans: list[Loan], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    original = threads.start
    monkeypatch.setattr(threads, "start", lambda work: (started.append(work), original(work)))
    result = executor.run("total = 0\nfor i in range(200):\n    total += quick(i)\ntotal", tools=[quick])
    assert result.value == sum(range(201)) and len(result.tool_calls) == 200
    (loan,) = loans
    assert loan.served == 200 - 3  # two to be known as quick, and the one that is lent with
    assert len(started) == 3


def test_few_calls_lend_nothing(executor: Executor, loans: list[Loan]) -> None:
    assert executor.run("quick(1) + quick(2)", tools=[quick]).value == 5
    assert loans == []


def test_output_stays_in_the_callers_thread_and_in_order(executor: Executor, loans: list[Loan]) -> None:
    seen: list[Any] = []

    def note(n: int) -> None:
        seen.append(n)

    def output(text: str) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append(str(text).strip())

    code = "for i in range(12):\n    note(i)\n    if i > 8:\n        print('after', i)"
    result = executor.run(code, tools=[note], on_output=output)
    assert result.ok and seen == [*range(9), 9, "after 9", 10, "after 10", 11, "after 11"]
    assert [loan.served for loan in loans] == [7, 0]  # what came back at once is not lent again in this step


def test_calls_at_once_go_on_while_the_one_that_was_read_waits(executor: Executor, loans: list[Loan]) -> None:
    together = threading.Barrier(3, timeout=20)

    def meet() -> int:
        return together.wait()

    code = ROW + "import asyncio\nsorted(await asyncio.gather(meet.aio(), meet.aio(), meet.aio()))"
    assert executor.run(code, tools=[quick, meet]).value == [0, 1, 2]
    assert [loan.ended for loan in loans] == [True]
    assert executor.run(code + "\n" + ROW, tools=[quick, meet]).ok
    assert len(loans) == 2  # one for each step: where a call took long, no more is lent


def test_hanging_tool_at_the_end_of_a_row_is_abandoned(executor: Executor, loans: list[Loan]) -> None:
    release, late = threading.Event(), threading.Event()

    def hang() -> str:
        release.wait(30)
        late.set()
        return "late"

    policy = Policy(limits=Limits(tool_time=0.1))
    with executor.session([quick, hang], policy=policy) as session:
        result = session.run(ROW + "try:\n    hang()\nexcept TimeoutError as e:\n    r = str(e)\nr")
        assert "tool_time" in result.value and loans[-1].ended
        release.set()
        assert late.wait(10)
        for n in range(20):  # neither its answer nor its thread comes between
            assert session.run(ROW + f"quick({n})").value == n + 1


def test_step_ends_in_time_whatever_a_tool_in_a_row_does(executor: Executor, loans: list[Loan]) -> None:
    release = threading.Event()
    policy = Policy(limits=Limits(time=5.0, wall=0.3))
    with executor.session({"quick": quick, "hang": lambda: release.wait(30)}, policy=policy) as session:
        result = session.run(ROW + "hang()")
        assert result.error is not None and result.error.kind == "time"
        assert not release.is_set() and loans[-1].ended
        release.set()


def test_step_that_computes_after_a_row_runs_out_of_time(executor: Executor, loans: list[Loan]) -> None:
    policy = Policy(limits=Limits(time=0.3))
    result = executor.run(ROW + "while True: pass", tools=[quick], policy=policy)
    assert result.error is not None and result.error.kind == "time"
    assert [loan.ended for loan in loans] == [False]  # its thread read to the end


def test_context_variables_reach_a_row_and_do_not_leak_within_it(executor: Executor, loans: list[Loan]) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("caller's")

    def read() -> str:
        found = variable.get()
        variable.set("the tool's")
        return found

    result = executor.run("{read() for i in range(20)}", tools=[read])
    assert result.value == {"caller's"} and loans[0].served == 17 and variable.get() == "caller's"


def test_calls_of_a_row_are_capped(executor: Executor, loans: list[Loan]) -> None:
    made: list[int] = []
    result = executor.run(
        "n = 0\ntry:\n    while True:\n        note(n)\n        n += 1\nexcept RuntimeError as e:\n    r = str(e)\nn, r",
        tools={"note": made.append},
        policy=Policy(limits=Limits(tool_calls=10)),
    )
    assert result.value[0] == 10 and "Limits.tool_calls" in result.value[1] and made == [*range(10)]
    assert loans


def test_tool_of_a_row_ends_the_step(executor: Executor, loans: list[Loan]) -> None:
    def last(n: int) -> None:
        if n == 10:
            raise EndStep

    with executor.session([last]) as session:
        result = session.run("try:\n    for i in range(20):\n        last(i)\nexcept Exception:\n    pass")
        assert result.ended and len(result.tool_calls) == 11 and loans
        assert session.run("1").value == 1


def test_tool_of_a_row_interrupts_and_closes(executor: Executor, loans: list[Loan]) -> None:
    def stop(n: int) -> None:
        if n == 10:
            session.interrupt()

    with executor.session([stop]) as session:
        result = session.run("for i in range(10**6):\n    stop(i)")
        assert result.error is not None and result.error.type == "KeyboardInterrupt" and loans
    session = executor.session({"end": lambda n: session.close() if n == 10 else None})
    result = session.run("for i in range(20):\n    end(i)")
    assert result.error is not None and "closed" in result.error.message and session.closed


def row(peer: Peer, count: int) -> int:
    """So many calls, each answered before the next; the number of the last."""
    for number in range(1, count + 1):
        peer.send({"t": "call", "id": number, "tool": "quick", "a": [number], "k": {}})
        header, _ = peer.reader.next()
        assert header["v"] == number + 1
    return count


@pytest.mark.parametrize(
    ("sent", "kind", "part"),
    [
        ({"t": "call", "id": 5, "tool": "quick", "a": [1], "k": {}}, "protocol", "out of order"),
        ({"t": "call", "id": 50, "tool": "quick", "a": 1, "k": {}}, "protocol", "malformed"),
        ({"t": "call", "id": 50, "tool": "quick", "a": [{"$": "nothing"}], "k": {}}, "protocol", "unknown kind"),
        ({"t": "strange"}, "protocol", "unknown kind"),
        ({"t": "done", "id": 1}, "protocol", "not made"),
        (b"\x04\x00\x00\x00\xff\xff\xff\xff", "protocol", "header"),
        (b"\xff\xff\xff\xff", "protocol", "allowed"),
        (b"", "crash", "the scripted guest hung up"),
    ],
)
def test_hostile_frames_in_a_row_end_the_session(loans: list[Loan], sent: Any, kind: str, part: str) -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        row(peer, 6)
        if isinstance(sent, dict):
            peer.send(sent)
        elif sent:
            peer.raw(sent)
        else:
            raise EOFError
        peer.wait_for_the_end()

    with Executor(ScriptedBackend(behave)) as executor, executor.session([quick]) as session:
        result = session.run("x")
        assert result.error is not None and (result.error.kind, session.closed) == (kind, True)
        assert part in result.error.message and len(result.tool_calls) == 6 and len(loans) == 1


def test_guest_that_goes_while_a_call_of_a_row_runs_is_said_to_have_gone(loans: list[Loan]) -> None:
    gone = threading.Event()

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        last = row(peer, 6)
        peer.send({"t": "call", "id": last + 1, "tool": "wait", "a": [], "k": {}})
        peer.stream.close()
        gone.set()

    tools = {"quick": quick, "wait": lambda: gone.wait(20)}
    with Executor(ScriptedBackend(behave)) as executor, executor.session(tools) as session:
        result = session.run("x")
        assert result.error is not None and result.error.message == "the scripted guest hung up"


def test_row_with_a_call_that_is_refused_after_the_guest_has_gone(loans: list[Loan]) -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        last = row(peer, 6)
        peer.send({"t": "call", "id": last + 1, "tool": "nobody", "a": [], "k": {}})
        peer.stream.close()

    with Executor(ScriptedBackend(behave)) as executor, executor.session([quick]) as session:
        result = session.run("x")
        assert result.error is not None and result.error.message == "the scripted guest hung up"


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="n/a: no signals to threads here")
@pytest.mark.parametrize("where", ["in the tool", "while the guest computes"])
def test_ctrl_c_in_a_row_leaves_no_reader_behind(executor: Executor, loans: list[Loan], where: str) -> None:
    main = threading.main_thread().ident
    assert main is not None
    release = threading.Event()

    def press(n: int) -> None:
        if n == 10:
            if where == "in the tool":
                signal.pthread_kill(main, signal.SIGINT)
                release.wait(20)
            else:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with executor.session([press]) as session:
        with pytest.raises(KeyboardInterrupt):
            session.run("for i in range(11):\n    press(i)\nwhile True: pass")
        (loan,) = loans
        release.set()
        assert session.closed and eventually(lambda: not loan._reading or not loan._back.empty())
    assert executor.run(ROW + "i", tools=[quick]).value == 19
