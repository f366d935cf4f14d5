"""The adapter for smolagents, driven by its own CodeAgent."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from smolagents import CodeAgent, Tool, tool
from smolagents.local_python_executor import InterpreterError
from smolagents.models import ChatMessage, MessageRole, Model

from safeexec import Executor, Limits, Policy
from safeexec.integrations.smolagents import SafeexecExecutor


class Scripted(Model):
    """Answers with the next of its replies and keeps what it was shown."""

    def __init__(self, *replies: str) -> None:
        super().__init__(model_id="scripted")
        self.replies = list(replies)
        self.seen: list[str] = []

    def generate(self, messages: Any, **_: Any) -> ChatMessage:
        self.seen.append(str(messages))
        code = self.replies.pop(0)
        return ChatMessage(role=MessageRole.ASSISTANT, content=f"Thought: go on.\n<code>\n{code}\n</code>")


@pytest.fixture(params=["wasm", "local"])
def executor(request: pytest.FixtureRequest) -> Iterator[SafeexecExecutor]:
    made = SafeexecExecutor(request.param, policy=Policy(limits=Limits(time=5)))
    yield made
    made.cleanup()


def agent(executor: SafeexecExecutor, model: Model, tools: Any = (), **more: Any) -> CodeAgent:
    return CodeAgent(tools=list(tools), model=model, executor=executor, verbosity_level=0, **more)


@tool
def price(item: str, count: int = 1) -> float:
    """What an item costs.

    Args:
        item: its name
        count: how many
    """
    return {"tea": 2.5, "cake": 4.0}[item] * count


def test_the_agent_calls_tools_of_the_host_and_ends_with_its_answer(executor: SafeexecExecutor) -> None:
    model = Scripted("total = price('tea', count=2)\nprint('so far', total)", "final_answer(total + price('cake'))")
    assert agent(executor, model, [price]).run("What do two teas and a cake cost?") == 9.0
    assert "so far 5.0" in model.seen[1]


def test_state_given_to_the_run_arrives_and_lives_on(executor: SafeexecExecutor) -> None:
    model = Scripted("doubled = [2 * n for n in numbers]", "final_answer(doubled)")
    assert agent(executor, model).run("Double them", additional_args={"numbers": [1, 2, 3]}) == [2, 4, 6]


def test_the_value_of_a_last_assignment_is_shown_as_smolagents_shows_it(executor: SafeexecExecutor) -> None:
    model = Scripted("x = 6 * 7", "final_answer(x)")
    agent(executor, model).run("compute")
    assert "Last output from code snippet:\\n42" in model.seen[1]


def test_an_error_names_the_line_and_keeps_what_was_printed(executor: SafeexecExecutor) -> None:
    model = Scripted("print('before')\nprices = {}\nprices['tea']", "final_answer('sorry')")
    ran = agent(executor, model)
    assert ran.run("try") == "sorry"
    step = ran.memory.steps[1]
    assert "Code execution failed at line 'prices['tea']' due to: KeyError" in str(step.error)
    assert "before" in step.observations


def test_no_handler_swallows_or_changes_the_answer(executor: SafeexecExecutor) -> None:
    code = "try:\n    final_answer(1)\nexcept BaseException:\n    pass\ntry:\n    final_answer(2)\nexcept BaseException:\n    pass"
    assert agent(executor, Scripted(code)).run("answer") == 1


def test_a_managed_agent_runs_on_the_host_and_is_called_from_the_sandbox(executor: SafeexecExecutor) -> None:
    with SafeexecExecutor("wasm") if executor.sandbox != "wasm" else _other() as inner:
        worker = CodeAgent(
            tools=[], model=Scripted("final_answer('the capital is Oslo')"), executor=inner, name="geographer",
            description="Knows countries.", verbosity_level=0,
        )  # fmt: skip
        manager = agent(
            executor, Scripted("found = geographer(task='Norway?')\nfinal_answer(found)"), managed_agents=[worker]
        )
        assert "the capital is Oslo" in manager.run("ask")


def _other() -> SafeexecExecutor:
    return SafeexecExecutor("local")


def test_a_step_without_end_becomes_an_error_and_the_agent_goes_on(executor: SafeexecExecutor) -> None:
    quick = SafeexecExecutor(executor.sandbox, policy=Policy(limits=Limits(time=0.5)))
    try:
        ran = agent(quick, Scripted("while True: pass", "final_answer(price('tea'))"), [price])
        assert ran.run("loop") == 2.5
        assert "TimeoutError" in str(ran.memory.steps[1].error)
    finally:
        quick.cleanup()


def test_the_host_is_out_of_reach(executor: SafeexecExecutor, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("canary-8241")
    model = Scripted(
        f"print(open({str(secret)!r}).read())", "import os\nprint(dict(os.environ))", "final_answer('done')"
    )
    ran = agent(executor, model)
    ran.run("steal")
    assert ran.memory.steps[1].error is not None
    assert "canary-8241" not in str([step.observations for step in ran.memory.steps[1:]])
    assert str(tmp_path.parent) not in str(ran.memory.steps[2].observations)


def test_terminal_escapes_do_not_reach_the_log(executor: SafeexecExecutor) -> None:
    executor.send_tools({})
    assert executor("print('\\x1b]52;c;aGk=\\x07')").logs == "\\x1b]52;c;aGk=\\x07\n"


def test_tools_are_sent_again_to_a_session_that_replaces_a_lost_one(executor: SafeexecExecutor) -> None:
    executor.send_tools({"price": price})
    executor.send_variables({"budget": 10})
    assert executor("budget - price('tea')").output == 7.5
    with executor.sessions.turn() as session:
        session.kill()
    assert executor("budget - price('cake')").output == 6.0


def test_a_tool_that_is_not_plain_fails_with_a_reason(executor: SafeexecExecutor) -> None:
    class Strange(Tool):  # type: ignore[misc]
        name = "strange"
        description = "Returns what cannot travel."
        inputs: ClassVar[dict[str, Any]] = {}
        output_type = "any"

        def forward(self) -> Any:
            return object()

    executor.send_tools({"strange": Strange()})
    with pytest.raises(InterpreterError, match="not plain data"):
        executor("strange()")


def test_an_executor_is_truthy_and_found_by_its_entry_point() -> None:
    (entry,) = importlib.metadata.entry_points(group="smolagents.executors", name="safeexec")
    made = entry.load()(["math"], None, sandbox="local")
    try:
        assert bool(made)
        made.send_tools({})
        assert made("import math\nmath.floor(2.5)").output == 2
    finally:
        made.cleanup()


@pytest.mark.parametrize("sandbox", ["wasm", "local"])
def test_the_party_of_the_course_is_planned_by_smolagents_own_agent(sandbox: str) -> None:
    """Search, menu, caterer and theme as tools of the host, a date of the sandbox's own, an answer of several parts; as in the agents course."""
    searched: list[str] = []

    class Theme(Tool):  # type: ignore[misc]
        name = "superhero_party_theme_generator"
        description = "Invents a theme for a party of heroes."
        inputs: ClassVar[dict[str, Any]] = {"category": {"type": "string", "description": "classic or villains"}}
        output_type = "string"

        def forward(self, category: str) -> str:
            return {"villains": "The Rogues' Ball: masks until midnight"}.get(category, "no theme")

    @tool
    def suggest_menu(occasion: str) -> str:
        """What to serve.

        Args:
            occasion: what is celebrated
        """
        return {"formal": "four courses with wine"}.get(occasion, "what there is")

    @tool
    def catering_service_tool(query: str) -> str:
        """The caterer with the best marks.

        Args:
            query: what is wanted
        """
        marks = {"Pennyworth & Daughters": 4.9, "Crime Alley Diner": 3.1}
        return max(marks, key=lambda name: marks[name])

    @tool
    def web_search(query: str) -> str:
        """Searches the web.

        Args:
            query: for what
        """
        searched.append(query)
        return "- The Penguin's Waltz\n- Two Faces, One Coin\n- The Penguin's Waltz"

    model = Scripted(
        "theme = superhero_party_theme_generator(category='villains')\nfound = web_search(query='villain masquerade music')\nprint(theme)",
        "import re\nsongs = list(dict.fromkeys(re.findall(r'- (.+)', found)))\nprint(songs)",
        "import datetime\nready = datetime.datetime(2026, 1, 1, 18, 0) + sum((datetime.timedelta(minutes=m) for m in (30, 60, 45, 45)), datetime.timedelta())\n"
        "print(ready.strftime('%H:%M'))",
        "final_answer({'theme': theme.split(':')[0], 'songs': songs, 'menu': suggest_menu(occasion='formal'),\n"
        "              'caterer': catering_service_tool(query='ball'), 'ready': ready.strftime('%H:%M')})",
    )
    with SafeexecExecutor(sandbox) as executor:
        tools = [web_search, suggest_menu, catering_service_tool, Theme()]
        ran = agent(executor, model, tools, additional_authorized_imports=["datetime"])
        assert ran.run("Plan our villain masquerade.") == {
            "theme": "The Rogues' Ball",
            "songs": ["The Penguin's Waltz", "Two Faces, One Coin"],
            "menu": "four courses with wine",
            "caterer": "Pennyworth & Daughters",
            "ready": "21:00",
        }
    assert searched == ["villain masquerade music"]


def test_arrays_and_pictures_arrive_as_the_libraries_own() -> None:
    imports = ["numpy", "PIL.*"]
    with SafeexecExecutor("local", additional_authorized_imports=imports) as executor:
        model = Scripted("import numpy as np\ntable = np.eye(2)", "final_answer(answer=table * 3)")
        answer = agent(executor, model).run("make a table")
        assert type(answer).__name__ == "ndarray" and answer.tolist() == [[3.0, 0.0], [0.0, 3.0]]
        assert "array([[1., 0.]" in model.seen[1] or "[[1. 0.]" in model.seen[1]


def test_more_imports_leave_the_policy_as_it_is() -> None:
    with Executor("local", policy=Policy(limits=Limits(time=0.7), imports=("math",))) as shared:
        executor = SafeexecExecutor(shared, additional_authorized_imports=["json"])
        executor.send_tools({})
        assert executor("import math, json\njson.dumps(math.floor(2.5))").output == "2"
        with pytest.raises(InterpreterError, match="base64"):
            executor("import base64")
        with pytest.raises(InterpreterError, match=r"0\.7"):
            executor("while True: pass")
        executor.cleanup()
        assert shared.run("1").value == 1


def test_the_session_ends_with_the_agent() -> None:
    executor = SafeexecExecutor("local")
    with agent(executor, Scripted("final_answer(1)")) as ran:
        ran.run("answer")
        with executor.sessions.turn() as session:
            assert not session.closed
    assert session.closed
