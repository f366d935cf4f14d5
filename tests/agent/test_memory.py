"""The memory: messages within a budget, and runs as files."""

from __future__ import annotations

import io
import json
import resource
from datetime import date
from decimal import Decimal
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from rich.console import Console

from safeexec import Array, Opaque
from safeexec_agent import ActionStep, AgentError, AgentMemory, SystemPromptStep, TaskStep, Timing
from safeexec_agent.memory import tokens
from safeexec_agent.values import from_plain, to_plain
from tests.agent.conftest import Make, code


def memory(count: int, size: int) -> AgentMemory:
    steps: list[Any] = [TaskStep("the task")]
    for number in range(count):
        steps.append(
            ActionStep(number, Timing(0.0), model_output=f"reply {number}", observations=f"{number}:" + "o" * size)
        )
    return AgentMemory(SystemPromptStep("system"), steps)


def test_old_steps_are_shortened_then_left_out_and_the_last_stays() -> None:
    long = memory(30, 4000)
    everything = long.to_messages()
    assert len(everything) == 62
    for budget in (20_000, 5_000, 1_500):
        messages = long.to_messages(budget)
        assert tokens(messages) <= budget
        assert messages[0].text == "system" and messages[1].text.endswith("the task")
        assert messages[-1].text.startswith("Observation:\n29:") and messages[-1].text.count("o") > 4000
    assert "earlier steps are left out" in "".join(m.text for m in long.to_messages(1_500))
    assert long.to_messages(10**9) == everything and len(long.steps) == 31


def test_one_observation_larger_than_the_budget_is_cut() -> None:
    messages = memory(1, 100_000).to_messages(2_000)
    assert tokens(messages) < 2_500 and "left out" in messages[-1].text


def test_a_run_is_saved_and_gone_on_with(make: Make, tmp_path: Path) -> None:
    agent = make(
        ["plan", code("print('\\x1b]0;x\\x07')\n(1, {2.5, 3})"), code("1/0"), code("final_answer({'a': b'x'})")],
        planning_interval=9,
    )
    agent.run("Do.", images=[b"\x89PNG\r\n\x1a\n"])
    path = tmp_path / "run.json"
    agent.save(path)
    text = path.read_text()
    assert text.isascii() and "\x1b" not in text
    other = make([code("final_answer(9)")])
    other.load(path)
    assert other.memory.to_messages() == agent.memory.to_messages()
    assert other.memory.actions[0].action_output == (1, {2.5, 3})
    assert other.memory.actions[1].error == agent.memory.actions[1].error
    assert other.memory.token_usage() == agent.memory.token_usage()
    assert other.run("More.", reset=False) == 9
    assert "New task:\nDo." in other.model.requests[0][1].text


def test_a_save_that_has_no_room_costs_nothing_that_was_saved(make: Make, tmp_path: Path) -> None:
    agent = make([code("final_answer('x' * 50_000)"), code("final_answer('y' * 50_000)")])
    path = tmp_path / "run.json"
    agent.run("Do.")
    agent.save(path)
    before = path.read_bytes()
    agent.run("Do.")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))  # as on a disk that is full
    try:
        with pytest.raises(OSError):
            agent.save(path)
        with pytest.raises(OSError):
            agent.save(tmp_path / "other.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    agent.save("/dev/null")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    "data",
    [
        [], {}, {"format": 99}, {"format": 1, "system_prompt": 5, "steps": []}, {"format": 1, "system_prompt": "", "steps": [{"kind": "evil"}]},
        {"format": 1, "system_prompt": "", "steps": [{"kind": "task", "task": "x", "other": 1}]},
        {"format": 1, "system_prompt": "", "steps": [{"kind": "final", "output": {"$type": "os.system"}}]},
        {"format": 1, "system_prompt": "", "steps": [{"kind": "action", "step_number": 1, "timing": "x"}]},
        {"format": 1, "system_prompt": "", "steps": [{"kind": "final", "output": {"$type": "Fraction", "numerator": 1, "denominator": 0}}]},
        {"format": 1, "system_prompt": "", "steps": [{"kind": "final", "output": {"$type": "Decimal", "value": "x"}}]},
    ],
)  # fmt: skip
def test_a_file_that_is_no_run_is_refused(make: Make, tmp_path: Path, data: Any) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data))
    with pytest.raises(AgentError, match="not a saved run"):
        make([]).load(path)


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_a_file_that_is_no_json_is_refused(make: Make, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(AgentError, match="not a saved run"):
        make([]).load(tmp_path / "run.json")


@pytest.mark.parametrize(
    "value",
    [None, 2**80, float("inf"), 1 + 2j, "\ud800", b"x", (1, [2]), {1: {2}}, {"$type": 1}, range(3), date(2026, 1, 2), Decimal("1.5"), frozenset("a"),
     Array("<i4", (1,), b"\1\0\0\0"), Opaque("T", "r")],
)  # fmt: skip
def test_values_survive_a_file(value: Any) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(value)))) == value


_ALIKE = [{"$type": "int", "hex": hex(n * (2**61 - 1))} for n in range(1, 25_000)]
_LONG = [{"$type": "int", "hex": "f" * 1_000_000 + end} for end in "1d"]


@pytest.mark.parametrize(
    "value",
    [
        {"$type": "set", "items": _ALIKE},
        {"$type": "frozenset", "items": [{"$type": "tuple", "items": [each]} for each in _ALIKE]},
        {"$type": "dict", "items": [[each, 0] for each in _ALIKE]},
        {"$type": "Fraction", "numerator": _LONG[0], "denominator": _LONG[1]},
    ],
    ids=["set", "tuples", "dict", "fraction"],
)
def test_values_of_a_strangers_file_do_not_keep_whoever_reads_it(value: Any) -> None:
    """Numbers that all hash alike, and others of a million digits."""
    began = process_time()
    with pytest.raises(ValueError, match=r"collide|too many digits"):
        from_plain(value)
    assert process_time() - began < 2


def test_replay_and_visualize_print_everything_and_nothing_acts_on_the_terminal(make: Make) -> None:
    worker = make([], name="web_agent", description="Runs web searches for you. [red]\x1b[31m")
    agent = make(["the plan", code("print('\\x1b]52;c;eA==\\x07[bold]')"), code("final_answer('[link=x]\\x1b[2J')")], planning_interval=9,
                 managed_agents=[worker], additional_authorized_imports=["pandas"])  # fmt: skip
    agent.run("Print [red].")
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=False)
    agent.visualize(console)
    agent.replay(console=console)
    agent.replay(detailed=True, console=console)
    text = stream.getvalue()
    assert "\x1b" not in text and "\x07" not in text
    for part in ("Authorized imports: ['pandas']", "web_agent | CodeAgent", "final_answer", "Executing parsed code:", "the plan", "[red]", "[bold]",
                 "\\x1b]52", "Final answer: [link=x]\\x1b[2J", "Print [red]."):  # fmt: skip
        assert part in text, part
