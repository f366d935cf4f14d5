"""Code that the server runs: whose turn it is, who still listens, what waits for whom."""

from __future__ import annotations

import json
import threading
import tracemalloc
from typing import Any

import pytest

from safeexec import SessionBusy, SessionClosed
from safeexec.serve import machine as machines
from safeexec.serve.interpreter import _Waiting
from safeexec.serve.machine import Abandoned, Execution, ExecutorMachine
from safeexec.testing.base import eventually
from tests.remote.served import Served


def test_a_value_that_has_no_decimal_digits_is_shown(served: Served) -> None:
    sandbox, token = served.create()
    (found,) = [line for line in served.execute("[10 ** 5000]", sandbox, token) if line["type"] == "result"]
    assert found["text"].startswith("[0x")
    served.app.end(sandbox)


def test_executions_of_one_context_take_turns(served: Served) -> None:
    """What one has in its environment is not the other's, and neither is refused."""
    sandbox, token = served.create()
    code = "import os, time\ntime.sleep(0.05)\nos.environ.get('WHO')"
    said: list[str] = []

    def work(who: str) -> None:
        env = {"env_vars": {"WHO": who}} if who else {}
        lines = served.execute(code, sandbox, token, **env)
        said.append(
            who
            + ":"
            + str([line.get("text") or line.get("value") for line in lines if line["type"] in ("result", "error")])
        )

    threads = [threading.Thread(target=work, args=(who,)) for who in ("a", "b", "", "")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [":[]", ":[]", """a:["'a'"]""", """b:["'b'"]"""]
    served.app.end(sandbox)


def test_not_without_end_wait_for_one_context(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks and goes away leaves a thread each time."""
    monkeypatch.setattr(machines, "MOST_WAITING", 2)
    machine = ExecutorMachine(served.executor)
    begun, go_on = threading.Event(), threading.Event()

    def hold(piece: Any) -> None:
        begun.set()
        assert go_on.wait(20)

    def work(on_output: Any = lambda piece: None) -> None:
        machine.execute(None, "print(1)", on_output, {})

    threads = [threading.Thread(target=work, args=(hold,)), threading.Thread(target=work)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    context = machine._context(None)
    assert eventually(lambda: len(context._waiting) == 2)
    with pytest.raises(SessionBusy):
        work()
    go_on.set()
    for thread in threads:
        thread.join()
    work()
    machine.close()


def test_an_execution_that_nobody_waits_for_does_not_begin(served: Served) -> None:
    machine = ExecutorMachine(served.executor)
    begun, go_on = threading.Event(), threading.Event()
    said: list[str] = []

    def hold(piece: Any) -> None:
        begun.set()
        assert go_on.wait(20)

    def gone(execution: Execution) -> None:
        with pytest.raises(Abandoned):
            machine.execute(None, "came = 1", lambda piece: None, {}, execution)
        said.append("gone")

    first = threading.Thread(target=lambda: machine.execute(None, "print(1)", hold, {}))
    first.start()
    assert begun.wait(10)
    execution = Execution()
    second = threading.Thread(target=gone, args=(execution,))
    second.start()
    try:
        context = machine._context(None)
        assert eventually(lambda: len(context._waiting) == 2)
        execution.abandon()
        second.join(10)
        assert said == ["gone"] and len(context._waiting) == 1, "its place is free before its turn would have come"
    finally:
        go_on.set()
        first.join()
    gone(execution)
    assert machine.execute(None, "'came' in globals()", lambda piece: None, {}).value is False
    machine.close()


def test_a_client_that_waits_hears_what_comes_after_a_silence(sandbox: Any) -> None:
    lines: list[str] = []
    code = "import time\ntime.sleep(2.2)\nprint('late')\ntime.sleep(1.2)\n7"
    done = sandbox.run_code(code, on_stdout=lambda message: lines.append(message.line), timeout=8)
    assert done.text == "7" and lines == ["late\n"]


def test_a_client_that_only_listens_hears_the_end(served: Served) -> None:
    """Half a connection closed is no client gone."""
    sandbox, token = served.create()
    body = json.dumps({"code": "import time\ntime.sleep(2.5)\n7"}).encode()
    head = (
        f"POST /execute HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: {sandbox}\r\nX-Access-Token: {token}\r\n"
        f"E2b-Sandbox-Port: 49999\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = served.everything(head.encode() + body)
    assert b'"text": "7"' in answer and b"end_of_execution" in answer
    served.app.end(sandbox)


def test_a_sandbox_that_has_ended_runs_nothing_more(served: Served) -> None:
    machine = ExecutorMachine(served.executor)
    assert machine.execute(None, "1 + 1", lambda piece: None, {}).value == 2
    machine.close()
    for call in (
        lambda: machine.execute(None, "1", lambda piece: None, {}),
        lambda: machine.add_context("x"),
        lambda: machine.read("x"),
    ):
        with pytest.raises(SessionClosed):
            call()
    assert not machine._sessions


def test_output_that_waits_for_a_slow_client_takes_what_it_has_and_no_more() -> None:
    waiting = _Waiting()
    tracemalloc.start()
    try:
        for _ in range(200_000):
            waiting.output("stdout", "x")
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    waiting.output("stderr", "e")
    waiting.put(None)
    assert taken < 4_000_000
    assert waiting.get(1)["text"] == "x" * 200_000 and waiting.get(1)["text"] == "e" and waiting.get(1) is None  # type: ignore[index]
    waiting.output("stdout", "a")
    assert waiting.get(1)["text"] == "a"  # type: ignore[index]
    waiting.output("stdout", "b")
    assert waiting.get(1)["text"] == "b"  # type: ignore[index]


def test_server_is_well_after_all_that(served: Served) -> None:
    served.check()
