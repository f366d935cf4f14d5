"""The loop: what the model is told of each step, and how a run ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from safeexec import Limits, Policy, PolicyError, ToolError
from safeexec_agent import (
    ActionStep,
    AgentBusy,
    AgentError,
    AgentInterrupted,
    ChatMessage,
    CodeAgent,
    Delta,
    FinalAnswerStep,
    ModelError,
    PlanningStep,
    ScriptedModel,
    SystemPromptStep,
    TaskStep,
    TokenUsage,
    tool,
)
from safeexec_agent.bridge import SandboxTool
from tests.agent.conftest import SANDBOXES, Make, code


def told(agent: CodeAgent, request: int = -1) -> str:
    """The last message of one of the model's requests."""
    return str(agent.model.requests[request][-1].text)


@pytest.mark.parametrize("on", SANDBOXES)
def test_steps_share_a_session_and_the_answer_ends_the_run(make: Make, on: str) -> None:
    agent = make([code("x = 20\nprint('set')\nx + 1"), code("final_answer(x * 2)\nx = 0")], on=on)
    assert agent.run("Compute.") == 40
    kinds = [type(step) for step in agent.memory.steps]
    assert kinds == [TaskStep, ActionStep, ActionStep, FinalAnswerStep]
    assert isinstance(agent.memory.system_prompt, SystemPromptStep)
    first, second = agent.memory.actions
    assert first.observations == "set\nValue: 21" and first.code_action == "x = 20\nprint('set')\nx + 1"
    assert first.timing.duration > 0 and first.token_usage is not None
    assert second.is_final_answer and second.action_output == 40
    assert agent.session.variables["x"] == 20
    assert told(agent) == "Observation:\nset\nValue: 21"
    assert [m.role for m in agent.model.requests[1]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("on", SANDBOXES)
@pytest.mark.parametrize(
    "program",
    [
        "try:\n    final_answer('first')\nexcept Exception:\n    final_answer('second')",
        "try:\n    final_answer('first')\nexcept BaseException:\n    final_answer('second')",
        "try:\n    final_answer('first')\nfinally:\n    final_answer('second')",
        "try:\n    final_answer('first')\nexcept BaseException:\n    raise ValueError('changed')",
        "import contextlib\nwith contextlib.suppress(BaseException):\n    final_answer('first')\nfinal_answer('second')",
        "await final_answer.aio('first')\nfinal_answer('second')",
        "answer = ['first']\ntry:\n    final_answer(answer[0])\nexcept BaseException:\n    answer[0] = 'second'",
        "def f():\n    try:\n        return final_answer('first')\n    finally:\n        return 5\nf()\nfinal_answer('second')",
    ],
)
def test_no_handler_swallows_or_changes_the_final_answer(make: Make, on: str, program: str) -> None:
    agent = make([code(program)], on=on)
    assert agent.run("Answer.") == "first"
    assert len(agent.memory.actions) == 1


def test_code_that_goes_on_for_ever_after_its_answer_is_stopped(make: Make) -> None:
    program = "while True:\n    try:\n        final_answer('done')\n        while True: pass\n    except BaseException:\n        pass"
    assert make([code(program)], on="wasm").run("Answer.") == "done"


def test_a_failed_step_is_explained_with_its_line(make: Make) -> None:
    agent = make([code("a = 1\nb = a / 0"), code("final_answer(a)")])
    assert agent.run("Divide.") == 1
    assert "Error: ZeroDivisionError: division by zero (line 2 of your code)" in told(agent)
    error = agent.memory.actions[0].error
    assert error is not None and (error.type, error.kind, error.line) == ("ZeroDivisionError", "exception", 2)


@pytest.mark.parametrize(
    ("program", "limits", "hint"),
    [
        ("while True: pass", {"time": 0.3}, "A step may run 0.3 s"),
        ("x = 'a' * 10**10", {}, "MiB of memory"),
        ("for _ in range(10**9): print('x' * 1000)", {"output": 1000}, "Print only what you need"),
        ("import requests", {}, "Only what the first message lists can be imported, such as colorama"),
        ("serch('x')", {}, "The functions there are: look, final_answer"),
        ("exit()", {}, "Do not call exit()"),
        ("open('/etc/passwd')", {}, "will not"),
    ],
)
def test_every_failure_has_a_hint_to_act_on(make: Make, program: str, limits: Any, hint: str) -> None:
    policy = Policy(limits=Limits(**{"time": 5.0, "wall": None, **limits}))
    agent = make(
        [code("y = 7"), code(program), code("final_answer(1)")],
        [look],
        policy=policy,
        additional_authorized_imports=["colorama"],
    )
    assert agent.run("Try.") == 1
    assert hint in told(agent)
    if "while" in program:
        assert "as they were before this step" in told(agent)


@pytest.mark.parametrize("on", SANDBOXES)
@pytest.mark.parametrize(
    "lose",
    [
        "final_answer = look = 5",
        "del final_answer, look",
        "import math as look\ndef f():\n    global final_answer\n    final_answer = look\nf()",
    ],
)
def test_functions_that_the_code_gave_away_are_there_again(make: Make, on: str, lose: str) -> None:
    agent = make(
        [
            code(lose),
            code("x = look('star')"),
            code("x = look('star')"),
            code("y = 1\nfinal_answer(x)"),
            code("final_answer(x)"),
        ],
        [look],
        on=on,
    )
    assert agent.run("Look.") == "a star"
    actions = agent.memory.actions
    assert [step.error is None for step in actions] == [True, False, True, False, True]
    assert "gave look to a value" in told(agent, 2) and "gave final_answer to a value" in told(agent)


def test_a_tool_that_runs_in_the_sandbox_is_there_again_too(make: Make) -> None:
    source = "class Look(Tool):\n    name = 'look'\n    description = 'd'\n    inputs = {}\n    output_type = 'any'\n    def forward(self):\n        return 'seen'\n"
    theirs = SandboxTool("look", "d", {}, "any", source)
    agent = make([code("look = 5"), code("look()"), code("final_answer(look())")], [theirs])
    assert agent.run("Look.") == "seen"


def test_a_value_that_is_no_function_is_nobodys_function(make: Make) -> None:
    agent = make([code("look('a')\n(5)(6)"), code("final_answer(1)")], [look])
    assert agent.run("Look.") == 1 and "is the function again" not in told(agent)


def test_an_argument_that_has_no_decimal_digits_is_told_as_what_it_is(make: Make) -> None:
    agent = make([code("final_answer(n % 7)")])
    assert agent.run("Count.", additional_args={"n": 10**5000}) == 10**5000 % 7
    assert "n = <int object>" in told(agent)


@tool
def look(thing: str) -> str:
    """Looks.

    Args:
        thing: What to look at.
    """
    return f"a {thing}"


def test_a_lost_session_is_replaced_and_the_model_is_told(make: Make) -> None:
    agent = make(
        [code("y = 7"), code("while True: pass"), code("print(given, 'y' in globals())"), code("final_answer(given)")],
        policy=Policy(limits=Limits(time=0.3), rollback="never"),
    )
    assert agent.run("Try.", additional_args={"given": [1, 2]}) == [1, 2]
    assert "starts anew" in told(agent, 2)
    assert "The variables given are there again" in told(agent, 2)
    assert told(agent, 3).startswith("Observation:\n(The sandbox was new in this step")
    assert "[1, 2] False" in told(agent, 3)


def test_a_reply_without_code_is_answered_with_how_to_write_it(make: Make) -> None:
    agent = make(["The answer is 4.", code("final_answer(4)")])
    assert agent.run("What is 2 + 2?") == 4
    assert "There is no code in your answer" in told(agent) and "final_answer(" in told(agent)
    assert agent.memory.actions[0].error is not None and agent.memory.actions[0].error.type == "ParseError"


def test_the_same_failure_again_is_pointed_out_and_then_ends_the_run(make: Make) -> None:
    agent = make([*[code("1 / 0")] * 9, "It cannot be done."], max_steps=20)
    result = agent.run("Divide.", return_full_result=True)
    assert result.state == "stuck" and len(agent.memory.actions) == 5
    assert "the same failure for the 4. time" in agent.model.requests[4][-1].text
    # After the fifth the model is asked for an answer in words, once.
    assert len(agent.model.requests) == 6 and result.output == code("1 / 0")


def test_steps_run_out_and_the_model_answers_from_what_it_has(make: Make) -> None:
    agent = make([code("1"), code("2"), "I only got to 2."])
    result = agent.run("Count.", max_steps=2, return_full_result=True)
    assert (result.state, result.output) == ("max_steps", "I only got to 2.")
    assert "steps are used up" in told(agent)
    assert isinstance(result.steps[-1], FinalAnswerStep)


def test_a_token_budget_ends_the_run_without_another_request(make: Make) -> None:
    replies = [ChatMessage("assistant", code(str(n)), TokenUsage(600, 10)) for n in range(5)]
    agent = make(ScriptedModel(replies), token_budget=1000)
    result = agent.run("Spend.", return_full_result=True)
    assert (result.state, result.output, len(agent.model.requests)) == ("token_budget", None, 2)
    assert result.token_usage == TokenUsage(1200, 20)


def test_before_step_may_refuse(make: Make) -> None:
    seen: list[str] = []

    def ask(step: ActionStep) -> Any:
        seen.append(step.code_action or "")
        return {1: False, 2: "not that file"}.get(step.step_number, True)

    agent = make([code("x = 1"), code("x = 2"), code("final_answer('x' in globals())")], before_step=ask)
    assert agent.run("Try.") is False
    assert "did not let this code run. " in told(agent, 1) and "did not let this code run: not that file" in told(
        agent, 2
    )
    assert seen == ["x = 1", "x = 2", "final_answer('x' in globals())"]


def test_final_answer_checks_send_the_model_back(make: Make) -> None:
    def positive(answer: Any) -> bool:
        return bool(answer > 0)

    def known(answer: Any, memory: Any, agent: CodeAgent) -> bool:
        if answer != agent.session.variables["right"]:
            raise AssertionError(f"{answer} is not what was computed in {len(memory.actions)} steps")
        return True

    agent = make(
        [code("right = 3\nfinal_answer(-1)"), code("final_answer(2)"), code("final_answer(right)")],
        final_answer_checks=[positive, known],
    )
    assert agent.run("Answer.") == 3
    assert "not accepted: the check 'positive' failed" in told(agent, 1)
    assert "AssertionError: 2 is not what was computed in 1 steps" in told(agent, 2)


def test_callbacks_see_steps(make: Make) -> None:
    seen: list[Any] = []
    agent = make(
        ["a plan", code("1"), code("final_answer(2)")],
        planning_interval=5,
        step_callbacks={
            ActionStep: [lambda step: seen.append(step.step_number), lambda step, agent: seen.append(agent.max_steps)],
            PlanningStep: lambda step: seen.append(step.plan),
        },
    )
    agent.run("Count.")
    assert seen == ["a plan", 1, 20, 2, 20]
    only: list[int] = []
    make([code("final_answer(1)")], step_callbacks=[lambda step: only.append(step.step_number)]).run("Count.")
    assert only == [1]


def test_plans_are_made_every_few_steps(make: Make) -> None:
    agent = make(["plan one", code("1"), code("2"), "plan two", code("final_answer(3)")], planning_interval=2)
    assert agent.run("Count.") == 3
    assert [s.plan for s in agent.memory.steps if isinstance(s, PlanningStep)] == ["plan one", "plan two"]
    assert "Steps left: 18." in told(agent, 3)


def test_additional_args_and_images(make: Make) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"0" * 20
    agent = make([code("final_answer(sum(numbers))")])
    assert agent.run("Sum.", additional_args={"numbers": [1, 2]}, images=[png]) == 3
    parts = agent.model.requests[0][1].content
    assert parts[0]["text"].endswith("numbers = [1, 2]") and parts[1]["image_url"]["url"].startswith(
        "data:image/png;base64,iVBO"
    )
    with pytest.raises(TypeError, match="plain data"):
        make([code("final_answer(1)")]).run("Sum.", additional_args={"numbers": object()})
    with pytest.raises(AgentError, match="PNG"):
        make([code("final_answer(1)")]).run("Look.", images=[b"BM"])


def test_reset_false_goes_on(make: Make) -> None:
    agent = make(
        [code("x = 5\nfinal_answer(x)"), code("final_answer(x + extra)"), code("final_answer('x' in globals())")]
    )
    assert agent.run("First.") == 5
    assert agent.run("Second.", reset=False, additional_args={"extra": 1}) == 6
    assert [m.text for m in agent.model.requests[1] if "task" in m.text][1:3] == [
        "New task:\nFirst.",
        "New task:\nSecond.\n\nThese variables are there:\nextra = 1",
    ]
    assert agent.run("Third.") is False
    assert len(agent.memory.steps) == 3


def test_stream_gives_steps_as_they_come(make: Make) -> None:
    agent = make(["the plan", code("1"), code("final_answer(2)")], planning_interval=9)
    events = agent.run("Count.", stream=True)
    assert isinstance(next(events), PlanningStep)
    assert len(agent.model.requests) == 1
    assert [type(e) for e in events] == [ActionStep, ActionStep, FinalAnswerStep]
    agent = make([code("final_answer(2)")], stream_outputs=True)
    pieces: list[str] = []
    agent.observers.append(lambda event, **about: pieces.append(about["text"]) if event == "delta" else None)
    assert [type(e) for e in agent.run("Count.", stream=True)] == [Delta, ActionStep, FinalAnswerStep]
    assert len(pieces) > 3 and "".join(pieces) == code("final_answer(2)")


def test_a_stream_that_is_dropped_frees_the_agent(make: Make) -> None:
    agent = make([code("1"), code("final_answer(2)")])
    events = agent.run("Count.", stream=True)
    next(events)
    with pytest.raises(AgentBusy):
        agent.run("Again.")
    del events
    gc.collect()
    assert agent.run("Again.") == 2


def test_interrupt_stops_a_running_step(make: Make) -> None:
    agent = make([code("print('started')\nwhile True: pass"), code("final_answer(1)")])
    agent.observers.append(
        lambda event, **about: threading.Thread(target=agent.interrupt).start() if event == "output" else None
    )
    with pytest.raises(AgentInterrupted):
        agent.run("Loop.")
    assert agent.memory.actions[0].error is not None and agent.memory.actions[0].error.type == "AgentInterrupted"
    assert agent.run("Again.") == 1


def test_interrupt_before_the_model_answers(make: Make) -> None:
    class Slow(ScriptedModel):
        def generate(self, *args: Any, **kwargs: Any) -> ChatMessage:
            agent.interrupt()
            return super().generate(*args, **kwargs)

    agent = make(Slow([code("final_answer(1)")]))
    with pytest.raises(AgentInterrupted):
        agent.run("Loop.")
    assert agent.memory.actions[0].code_action is None


def test_arun_and_its_cancellation(make: Make) -> None:
    async def main() -> None:
        agent = make([code("final_answer(1)"), code("print('x')\nwhile True: pass")])
        assert await agent.arun("Count.") == 1
        running = asyncio.Event()
        loop = asyncio.get_running_loop()
        agent.observers.append(
            lambda event, **about: loop.call_soon_threadsafe(running.set) if event == "output" else None
        )
        task = asyncio.create_task(agent.arun("Loop."))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not agent._lock.locked(), "the run had not ended when the cancellation did"
        other = make([code("1"), code("final_answer(2)")])
        assert [type(e) async for e in await other.arun("Count.", stream=True)] == [
            ActionStep,
            ActionStep,
            FinalAnswerStep,
        ]

    asyncio.run(main())


def test_a_model_that_fails_raises_and_is_in_the_memory(make: Make) -> None:
    agent = make([code("1")])
    with pytest.raises(ModelError, match="no reply number 2"):
        agent.run("Count.")
    last = agent.memory.actions[-1]
    assert last.error is not None and last.error.type == "ModelError" and last.code_action is None


def test_structured_outputs(make: Make) -> None:
    agent = make(['{"thought": "easy", "code": "final_answer(4)"}'], use_structured_outputs=True)
    assert agent.run("2 + 2?") == 4
    agent = make(
        ["no json", '{"thought": "t", "code": "```python\\nfinal_answer(5)\\n```"}'], use_structured_outputs=True
    )
    assert agent.run("2 + 3?") == 5
    assert "Answer with a JSON object" in told(agent)


@pytest.mark.parametrize("on", SANDBOXES)
def test_helpers_are_modules_in_the_sandbox(make: Make, on: str, tmp_path: Path) -> None:
    path = tmp_path / "utils.py"
    path.write_text(
        "import re\n\x0c\n\x0c\ndef clean_text(text):\n    return re.sub(r'\\s+', ' ', text).strip()\n\nif __name__ == '__main__':\n    1 / 0\n"
    )
    agent = make([code("from utils import clean_text\nfinal_answer(clean_text('  a   b '))")], on=on, helpers=[path])
    assert agent.run("Clean.") == "a b"
    assert "utils" in agent.system_prompt
    with pytest.raises(ValueError, match="one file"):
        make([], helpers=[asyncio])


def test_what_a_library_imports_is_not_held_to_the_rule_for_the_models_code(make: Make, tmp_path: Path) -> None:
    (tmp_path / "lib.py").write_text(
        "import fractions\ncolorsys = __import__('colorsys')\ndef late():\n    return __import__('getopt').__name__\n"
    )
    program = "import lib\nprint(lib.late())\ntry:\n    __import__('colorsys')\nexcept ImportError:\n    final_answer('refused')"
    agent = make([code(program)], on="wasm", helpers=[tmp_path / "lib.py"], policy=Policy(imports=("math",)))
    assert agent.run("Import.") == "refused"


def test_displays_and_files_are_told(make: Make) -> None:
    program = "class H:\n    def _repr_html_(self): return '<b>x</b>'\nopen('a.txt', 'w').write('hi')\ndisplay(H())"
    agent = make([code(program), code("final_answer(open('a.txt').read())")], on="wasm")
    assert agent.run("Write.") == "hi"
    step = agent.memory.actions[0]
    assert [sorted(d.data) for d in step.displays] == [["text/html"]] and step.files == ["a.txt"]
    assert "Display 1: text/html" in told(agent) and "Files written: a.txt (2 bytes)" in told(agent)


def test_output_is_cut_for_the_model(make: Make) -> None:
    agent = make([code("print('a' * 5000)\n'b' * 5000"), code("final_answer(1)")], max_print_outputs_length=1000)
    agent.run("Print.")
    assert len(told(agent)) < 2200 and "4000 characters are left out" in told(agent)


def test_wrong_arguments_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="code can call"):
        make([], name="web agent")
    with pytest.raises(ValueError, match="name and description"):
        make([], managed_agents=[make([])])
    with pytest.raises(ToolError, match="two tools"):
        make([], [look, look])
    with pytest.raises(ValueError, match="list of names"):
        make([], additional_authorized_imports="numpy")
    with pytest.raises(ValueError, match="task"):
        make([]).run("  ")
    for model in (None, "gpt-4o"):
        with pytest.raises(ValueError, match="model must be a model"):
            make(model)
    for tools in (None, print, 5):
        with pytest.raises(ToolError, match="a list of tools"):
            make([], tools)
    for name in ("step_callbacks", "final_answer_checks"):
        with pytest.raises(ValueError, match=f"{name} must be a list"):
            make([], **{name: print})
    for templates in ({"sytem_prompt": "x"}, {"managed_agent": {"task": "x"}}):
        with pytest.raises(ValueError, match="not one of system_prompt"):
            make([], prompt_templates=templates)
    with pytest.raises(PolicyError, match="not Limits"):
        make([], policy=Limits())
    with pytest.raises(AgentError, match="as bytes"):
        make([code("final_answer(1)")]).run("Look.", images=["picture.png"])
    with pytest.raises(ValueError, match="code_block_tags"):
        make([], code_block_tags="xml")
    with pytest.raises(PolicyError):
        make([], policy=Policy(limits=Limits(time=1)).replace(imports=("not a name",)))


def test_imports_are_the_default_and_what_was_added(make: Make) -> None:
    agent = make(
        [code("import fractions, colorsys\nfinal_answer(1)")],
        policy=Policy(imports=("math",)),
        additional_authorized_imports=["fractions"],
        on="wasm",
    )
    assert agent.authorized_imports == ("math", "fractions", "fractions.*")
    with pytest.raises(ModelError):
        agent.run("Import.")
    assert agent.memory.actions[0].error is not None and "colorsys" in agent.memory.actions[0].error.message


def test_close_frees_and_running_again_starts_anew() -> None:
    with CodeAgent(
        [], ScriptedModel([code("final_answer(1)"), code("final_answer(2)")]), sandbox="local", verbosity_level=0
    ) as agent:
        assert agent.run("One.") == 1
        session, executor = agent.session, agent.executor
        agent.close()
        assert session.closed
        assert agent.run("Two.") == 2
        assert agent.executor is not executor
    assert agent._executor is None
