"""Pydantic AI in code mode: the agent's tools are functions that the model's program calls."""

from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel

from safeexec.integrations.pydantic_ai import CodeMode

programs = ["sum(degrees(city=c) for c in ('Oslo', 'Rome'))"]


def scripted(messages, info):
    """Stands in for a model: writes the program, then says what came out."""
    if programs:
        return ModelResponse(parts=[ToolCallPart("run_python", {"code": programs.pop(0)})])
    return ModelResponse(parts=[TextPart(str(messages[-1].parts[-1].content))])


mode = CodeMode("wasm")
agent = Agent(FunctionModel(scripted), capabilities=[mode])


@agent.tool_plain
def degrees(city: str) -> int:
    """Degrees in a city."""
    return {"Oslo": 24, "Rome": 18}[city]


print("answer:", agent.run_sync("How warm are Oslo and Rome together?").output)
mode.sessions.close()
