"""Runs that outlive their process, and agents that branch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safeexec import Limits, NotSupported, Policy
from safeexec_agent import AgentError, CodeAgent, ScriptedModel
from tests.agent.conftest import Make, code

FIRST = [code("numbers = (n * n for n in range(10))\ntotal = next(numbers) + next(numbers)\ntotal")]
SECOND = [code("total += next(numbers)\ntotal"), code("final_answer(total + next(numbers))")]


class Fails(Exception):
    pass


def dying(replies: list[str]) -> Any:
    """A model that answers so often, and then takes the run down."""
    left = iter(replies)

    def model(messages: Any, **_: Any) -> str:
        reply = next(left, None)
        if reply is None:
            raise Fails
        return reply

    return model


def test_run_goes_on_in_another_agent_with_the_live_state(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Exception):  # noqa: B017 - whatever the model raised, as the loop wraps it
        make(dying(FIRST), on="wasm").run("sum up", resume=path)
    assert path.stat().st_mode & 0o777 == 0o600
    agent = make(SECOND, on="wasm")
    assert agent.run("sum up", resume=path) == 14
    assert [step.step_number for step in agent.memory.actions][:1] == [
        1
    ] and "total += next" in agent.memory.return_full_code()
    assert not path.exists()


def test_a_killed_process_is_continued_by_a_fresh_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    program = """
import os, sys
from safeexec_agent import CodeAgent, ScriptedModel
replies = eval(sys.argv[2])
def model(messages, **_):
    if not replies:
        os.kill(os.getpid(), 9)
    return replies.pop(0)
with CodeAgent([], model, sandbox="wasm", sandbox_options={"workers": 0}, verbosity_level=0) as agent:
    print(agent.run("sum up", resume=sys.argv[1]))
"""
    first = subprocess.run([sys.executable, "-c", program, path, repr(FIRST)], capture_output=True, timeout=100)
    assert first.returncode == -9, first.stderr
    second = subprocess.run(
        [sys.executable, "-c", program, path, repr(SECOND)], capture_output=True, text=True, timeout=100
    )
    assert second.stdout == "14\n", second.stderr


def test_where_nothing_can_be_written_down_the_model_is_told(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Exception):  # noqa: B017
        make(dying([code("x = 1")])).run("task", resume=path)
    agent = make([code("x"), code("final_answer(2)")])
    assert agent.run("task", resume=path) == 2
    assert "sandbox was new" in (agent.memory.actions[1].observations or "")


def test_a_process_that_was_killed_while_it_wrote_keeps_nobody_from_going_on(make: Make, tmp_path: Path) -> None:
    """The one that takes the run up has the same process id, in a container: what the first left must not be in its way."""
    path = tmp_path / "run.json"
    (tmp_path / f".run.json.{os.getpid()}.part").write_text("half of it")
    assert make([code("x = 1"), code("final_answer(x + 1)")]).run("task", resume=path) == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"format": "other"}', '{"format": "safeexec-run-1"}', "\x00\xff"]
)
def test_file_that_is_no_run_is_refused(make: Make, tmp_path: Path, content: str) -> None:
    path = tmp_path / "run"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(AgentError, match="not a run"):
        make([code("final_answer(1)")]).run("task", resume=path)


def test_run_of_another_task_and_tampered_sessions_are_refused(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Exception):  # noqa: B017
        make(dying([code("x = 1")]), on="wasm").run("task", resume=path)
    with pytest.raises(AgentError, match="another task"):
        make([code("final_answer(1)")], on="wasm").run("another", resume=path)
    data = json.loads(path.read_text())
    data["session"] = data["session"][:-40] + "A" * 40
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="damaged"):
        make([code("final_answer(1)")], on="wasm").run("task", resume=path)


def test_branches_of_an_agent_go_their_own_ways(make: Make) -> None:
    agent = make([code("x = [1]\nfinal_answer(0)")], on="wasm")
    agent.run("prepare")
    answers = []
    for number in (2, 3):
        with agent.branch() as branch:
            branch.model = ScriptedModel([code(f"x.append({number})\nfinal_answer(sum(x))")])
            answers.append(branch.run("go on", reset=False))
            assert len(branch.memory.steps) > len(agent.memory.steps)
    assert answers == [3, 4]
    agent.model = ScriptedModel([code("final_answer(x)")])
    assert agent.run("look", reset=False) == [1]


def test_branch_where_the_sandbox_cannot(make: Make) -> None:
    class Cannot(CodeAgent):
        pass

    agent = make([code("final_answer(0)")])
    agent.run("prepare")
    if agent.executor.isolation["rollback"].active:
        pytest.skip("n/a: this sandbox forks")
    with pytest.raises(NotSupported):
        agent.branch()


def test_observation_of_a_step_that_was_undone_names_the_calls_that_were_made(make: Make) -> None:
    def send(text: str) -> str:
        "Send a mail.\n\nArgs:\n    text: what to send"
        return "sent"

    from safeexec_agent import tool

    policy = Policy(limits=Limits(time=0.5))
    replies = [code("x = 1"), code("send('hello')\nx = 2\nwhile True:\n    pass"), code("final_answer(x)")]
    agent = make(replies, [tool(send)], on="wasm", policy=policy)
    assert agent.run("task") == 1
    told = agent.memory.actions[1].observations or ""
    assert "as they were before this step" in told and "calls of send were made" in told


def test_best_of_n_example() -> None:
    example = Path(__file__).parents[2] / "examples" / "agent" / "best_of.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[-4:]
    assert lines[-1] == "best: start with the nearest, then undo crossings"
    assert [line.split()[0] for line in lines[:3]] == ["70.29", "41.94", "39.17"]
