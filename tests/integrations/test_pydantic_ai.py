"""The adapters for Pydantic AI, driven by its Agent with a function model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic_ai import Agent, BinaryContent, DeferredToolRequests, DeferredToolResults, Tool
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from safeexec.integrations.pydantic_ai import CodeMode, toolset


class Script:
    """A model that runs its programs one after the other, then answers with what it saw last."""

    def __init__(self, *programs: str) -> None:
        self.programs = list(programs)
        self.seen: list[str] = []
        self.tools: list[Any] = []

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.tools = info.function_tools
        last = messages[-1].parts[-1]
        self.seen.append(str(getattr(last, "content", "")))
        if self.programs:
            return ModelResponse(parts=[ToolCallPart("run_python", {"code": self.programs.pop(0)})])
        return ModelResponse(parts=[TextPart(self.seen[-1])])


@pytest.fixture(params=["wasm", "local"])
def tools(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = toolset(request.param)
    yield made
    made.sessions.close()


def test_state_belongs_to_the_conversation(tools: Any) -> None:
    def run(conversation: str, *programs: str) -> str:
        return (
            Agent(FunctionModel(Script(*programs)), toolsets=[tools])
            .run_sync("go", conversation_id=conversation)
            .output
        )

    assert run("one", "x = 41", "x + 1") == "value: 42"
    assert run("one", "x") == "value: 41"
    assert run("two", "'x' in globals()") == "value: False"


def test_an_error_is_shown_to_the_model_which_tries_again(tools: Any) -> None:
    script = Script("print('first')\n1 / 0", "'mended'")
    assert Agent(FunctionModel(script), toolsets=[tools]).run_sync("go").output == "value: 'mended'"
    assert "first" in script.seen[1] and "ZeroDivisionError" in script.seen[1]


@pytest.mark.parametrize("sandbox", ["wasm", "local"])
def test_code_mode_makes_functions_of_the_agents_tools(sandbox: str) -> None:
    mode = CodeMode(sandbox)
    script = Script("sum(weather(city=c) for c in ('Oslo', 'Rome'))", "weather(city=3)", "import math\nmath.floor(2.5)")
    agent = Agent(FunctionModel(script), capabilities=[mode])
    asked = []

    @agent.tool_plain
    def weather(city: str) -> int:
        """Degrees in a city."""
        asked.append(city)
        return {"Oslo": 4, "Rome": 18}[city]

    try:
        assert agent.run_sync("How warm?").output == "value: 2"
    finally:
        mode.sessions.close()
    assert [tool.name for tool in script.tools] == ["run_python"]
    assert "def weather(city): Degrees in a city." in script.tools[0].description
    assert script.seen[1] == "value: 22"
    assert asked == ["Oslo", "Rome"] and "valid string" in script.seen[2]


def test_a_tool_that_needs_an_approval_is_not_called_by_code() -> None:
    """It stays a tool of its own, whose calls the agent's loop holds back until somebody has agreed."""
    deleted: list[str] = []

    def delete(path: str) -> str:
        """Deletes a file."""
        deleted.append(path)
        return "gone"

    def script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        assert [tool.name for tool in info.function_tools] == ["delete", "run_python"]
        last = messages[-1].parts[-1]
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart("run_python", {"code": "delete(path='/')"})])
        if len(messages) == 3:
            assert "NameError" in str(last.content)  # type: ignore[union-attr]
            return ModelResponse(parts=[ToolCallPart("delete", {"path": "/tmp"}, "call")])
        return ModelResponse(parts=[TextPart(str(last.content))])  # type: ignore[union-attr]

    mode = CodeMode("local")
    tools = [Tool(delete, requires_approval=True)]
    agent: Agent[None, Any] = Agent(
        FunctionModel(script), tools=tools, capabilities=[mode], output_type=[str, DeferredToolRequests]
    )
    try:
        held = agent.run_sync("go")
        assert [call.tool_name for call in held.output.approvals] == ["delete"] and deleted == []
        agreed = DeferredToolResults(approvals={"call": True})
        answer = agent.run_sync(message_history=held.all_messages(), deferred_tool_results=agreed)
        assert answer.output == "gone" and deleted == ["/tmp"]
    finally:
        mode.sessions.close()


def test_pictures_are_passed_on_as_pictures(tools: Any) -> None:
    script = Script("class P:\n    def _repr_png_(self): return b'PNG'\nP()")
    answer = Agent(FunctionModel(script), toolsets=[tools]).run_sync("draw")
    parts: list[Any] = [part for message in answer.all_messages() for part in message.parts]
    shown = [part.content for part in parts if isinstance(getattr(part, "content", None), list)]
    pictures = [item for content in shown for item in content if isinstance(item, BinaryContent)]
    assert [(picture.data, picture.media_type) for picture in pictures] == [(b"PNG", "image/png")]


def test_calls_in_parallel_take_turns_and_tools_run_on_the_loop_of_the_agent() -> None:
    mode = CodeMode("local")
    loops: list[Any] = []

    def script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart("run_python", {"code": f"n = mark(n={n})"}) for n in range(4)])
        return ModelResponse(parts=[TextPart(str([part.content for part in messages[-1].parts]))])

    agent = Agent(FunctionModel(script), capabilities=[mode])

    @agent.tool_plain
    async def mark(n: int) -> int:
        """Notes where it runs."""
        loops.append(asyncio.get_running_loop())
        return n

    async def check() -> None:
        assert (await agent.run("go", conversation_id="c")).output == str(["(no output)"] * 4)
        assert loops == [asyncio.get_running_loop()] * 4

    try:
        asyncio.run(check())
    finally:
        mode.sessions.close()
