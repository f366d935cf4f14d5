"""The adapter for LangChain, driven by its own agent loop with a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage

from safeexec.integrations.langchain import SafeexecTool


class Scripted(GenericFakeChatModel):
    """Calls the tools its messages name."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def call(code: str) -> AIMessage:
    return AIMessage(content="", tool_calls=[{"name": "python", "args": {"code": code}, "id": "c1"}])


@pytest.fixture(params=["wasm", "local"])
def tool(request: pytest.FixtureRequest) -> Iterator[SafeexecTool]:
    made = SafeexecTool(request.param)
    yield made
    made.close()


def run(tool: SafeexecTool, thread: str, code: str) -> ToolMessage:
    agent = create_agent(Scripted(messages=iter([call(code), AIMessage(content="done")])), tools=[tool])
    answer = agent.invoke({"messages": [("user", "go")]}, {"configurable": {"thread_id": thread}})
    (message,) = [m for m in answer["messages"] if isinstance(m, ToolMessage)]
    return message


def test_state_belongs_to_the_thread(tool: SafeexecTool) -> None:
    run(tool, "one", "x = 41")
    assert run(tool, "one", "x + 1").content == "value: 42"
    assert "NameError" in run(tool, "two", "x").content
    tool.close("one")
    assert "NameError" in run(tool, "one", "x").content


def test_the_result_is_the_artifact(tool: SafeexecTool) -> None:
    message = run(tool, "t", "print('hi')\nopen('a.txt', 'w').write('abc')\n6 * 7")
    assert message.content == "hi\nvalue: 42\nfiles: a.txt (3 bytes)"
    assert message.artifact.value == 42
    with tool.sessions.turn("t") as session:
        assert session.files.read("a.txt") == b"abc"


def test_it_runs_asynchronously(tool: SafeexecTool) -> None:
    config: Any = {"configurable": {"thread_id": "a"}}
    assert asyncio.run(tool.ainvoke({"code": "1 + 1"}, config)) == "value: 2"


def test_calls_in_parallel_take_turns(tool: SafeexecTool) -> None:
    calls = [
        {"name": "python", "args": {"code": f"seen = globals().get('seen', 0) + {n}"}, "id": f"c{n}"}
        for n in (1, 10, 100)
    ]
    model = Scripted(messages=iter([AIMessage(content="", tool_calls=calls), call("seen"), AIMessage(content="done")]))
    agent = create_agent(model, tools=[tool])
    answer = agent.invoke({"messages": [("user", "go")]}, {"configurable": {"thread_id": "p"}})
    said = [str(m.content) for m in answer["messages"] if isinstance(m, ToolMessage)]
    assert said == ["(no output)"] * 3 + ["value: 111"]
