"""Managed agents: another agent's run as a tool, in whatever sandbox."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from safeexec_agent import AgentInterrupted, ScriptedModel
from safeexec_agent.models import ChatMessage
from tests.agent.conftest import Make, code


@pytest.mark.parametrize(("manager_on", "worker_on"), [("local", "wasm"), ("wasm", "local"), ("wasm", "wasm")])
def test_worker_in_another_sandbox_answers_with_plain_data(make: Make, manager_on: str, worker_on: str) -> None:
    worker = make(
        [code("final_answer({'n': base * 2, 'raw': b'x'})")], on=worker_on, name="worker", description="Doubles."
    )
    manager = make(
        [code("got = worker('Double it.', additional_args={'base': 21})\nfinal_answer((got['n'], got['raw']))")],
        on=manager_on,
        managed_agents=[worker],
    )
    assert manager.run("Use the worker.") == (42, b"x")
    assert "You are 'worker'" in worker.model.requests[0][1].text and "Double it." in worker.model.requests[0][1].text
    assert "Use the worker." not in "".join(m.text for m in worker.model.requests[0]), (
        "a worker sees nothing of its manager"
    )


def test_an_answer_that_is_not_plain_is_refused_where_it_is_given(make: Make) -> None:
    worker = make(
        [code("import re\nfinal_answer(re.compile('a'))"), code("final_answer('a')")],
        name="worker",
        description="Compiles.",
    )
    manager = make([code("final_answer(worker('x'))")], managed_agents=[worker])
    assert manager.run("Go.") == "a"
    assert "pass plain data" in (worker.memory.actions[0].observations or "")


def test_a_workers_failure_is_an_error_in_the_managers_code(make: Make) -> None:
    worker = make([], name="worker", description="Fails.")
    manager = make([code("worker('x')"), code("final_answer('sorry')")], managed_agents=[worker])
    assert manager.run("Go.") == "sorry"
    assert "ModelError" in (manager.memory.actions[0].observations or "")


def test_calls_at_the_same_time_take_turns(make: Make) -> None:
    inside, most = [0], [0]

    class Watched(ScriptedModel):
        def generate(self, *args: Any, **kwargs: Any) -> ChatMessage:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            try:
                return super().generate(*args, **kwargs)
            finally:
                inside[0] -= 1

    worker = make(Watched([code("final_answer(1)")] * 3), name="worker", description="Ones.")
    program = "import asyncio\nfinal_answer(sum(await asyncio.gather(*(worker.aio('x') for _ in range(3)))))"
    assert make([code(program)], managed_agents=[worker]).run("Go.") == 3
    assert most == [1]


def test_interrupting_the_manager_interrupts_the_worker(make: Make) -> None:
    worker = make([code("print('on')\nwhile True: pass")], name="worker", description="Loops.", on="wasm")
    manager = make([code("worker('x')")], managed_agents=[worker])
    worker.observers.append(
        lambda event, **about: threading.Thread(target=manager.interrupt).start() if event == "output" else None
    )
    with pytest.raises(AgentInterrupted):
        manager.run("Go.")
    with worker._lock:  # the worker's run, which the manager's interrupt ended too
        assert worker.memory.actions[0].error is not None


def test_closing_the_manager_closes_the_worker(make: Make) -> None:
    worker = make([code("final_answer(1)")], name="worker", description="Ones.")
    with make([code("final_answer(worker('x'))")], managed_agents=[worker]) as manager:
        manager.run("Go.")
        session = worker.session
    assert session.closed
