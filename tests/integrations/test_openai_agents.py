"""The adapter for the OpenAI Agents SDK, driven by its Runner with a scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from agents import Agent, FunctionTool, Model, ModelResponse, RunConfig, Runner, Usage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from safeexec.integrations.openai_agents import python_tool


class Scripted(Model):
    """Runs its programs one after the other, then says so; keeps what it was shown."""

    def __init__(self, *programs: str) -> None:
        self.programs = list(programs)
        self.seen: list[str] = []

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:
        self.seen.append(json.dumps(input, default=str))
        if self.programs:
            arguments = json.dumps({"code": self.programs.pop(0)})
            output: Any = ResponseFunctionToolCall(
                type="function_call", name="run_python", call_id=f"c{len(self.seen)}", arguments=arguments
            )
        else:
            said = ResponseOutputText(type="output_text", text="done", annotations=[])
            output = ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[said])
        return ModelResponse(output=[output], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(params=["wasm", "local"])
def tool(request: pytest.FixtureRequest) -> Iterator[FunctionTool]:
    made = python_tool(request.param, key=lambda context: context.context)
    yield made
    made.sessions.close()


def run(tool: FunctionTool, user: str, *programs: str) -> list[str]:
    model = Scripted(*programs)
    agent = Agent(name="analyst", tools=[tool], model=model)
    answer = asyncio.run(Runner.run(agent, "go", context=user, run_config=RunConfig(tracing_disabled=True)))
    assert answer.final_output == "done"
    return model.seen


def test_state_lives_on_and_belongs_to_the_key(tool: FunctionTool) -> None:
    assert "value: 42" in run(tool, "ann", "x = 41", "x + 1")[2]
    assert "NameError" in run(tool, "bob", "x")[1]
    assert "value: 41" in run(tool, "ann", "x")[1]


def test_pictures_are_passed_on_as_pictures() -> None:
    tool = python_tool("wasm")
    code = "class P:\n    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\n' + b'0' * 20\nP()"
    try:
        assert "data:image/png;base64,iVBORw0KGgo" in run(tool, "x", code)[1]
    finally:
        tool.sessions.close()
