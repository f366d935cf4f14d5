"""OpenAI Agents SDK: a tool that runs Python, with a session for each user."""

import asyncio
import json

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from safeexec.integrations.openai_agents import python_tool


class Scripted(Model):
    """Stands in for a model: writes these programs, then says what came out last."""

    programs = ["x = 41", "x + 1"]  # noqa: RUF012

    async def get_response(self, system_instructions, input, *_, **__):
        if self.programs:
            arguments = json.dumps({"code": self.programs.pop(0)})
            name = f"c{len(self.programs)}"
            output = ResponseFunctionToolCall(
                type="function_call", name="run_python", call_id=name, arguments=arguments
            )
        else:
            said = ResponseOutputText(type="output_text", text=str(input[-1]["output"]), annotations=[])
            output = ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[said])
        return ModelResponse(output=[output], usage=Usage(), response_id=None)

    def stream_response(self, *_, **__):
        raise NotImplementedError("this stand-in does not stream")


tool = python_tool("wasm", key=lambda context: context.context)
agent = Agent(name="analyst", tools=[tool], model=Scripted())
done = asyncio.run(Runner.run(agent, "40 + 2?", context="ann", run_config=RunConfig(tracing_disabled=True)))
print("answer:", done.final_output)
tool.sessions.close()
