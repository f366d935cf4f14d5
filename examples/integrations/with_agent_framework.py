"""Microsoft Agent Framework: a context provider that gives an agent Python, with a session for each of its sessions."""

import asyncio
import json

from agent_framework import Agent, BaseChatClient, ChatResponse, Content, FunctionInvocationLayer, Message

from safeexec.integrations.agent_framework import SafeexecProvider


class Scripted(FunctionInvocationLayer, BaseChatClient):
    """Stands in for a model: writes these programs, then says what came out last."""

    programs = ["x = 41", "x + 1"]  # noqa: RUF012

    def _inner_get_response(self, *, messages, stream, options, **_):
        async def answer():
            if self.programs:
                arguments = json.dumps({"code": self.programs.pop(0)})
                name = f"c{len(self.programs)}"
                call = Content.from_function_call(call_id=name, name="run_python", arguments=arguments)
                return ChatResponse(messages=Message(role="assistant", contents=[call]))
            return ChatResponse(messages=Message(role="assistant", contents=[str(messages[-1].contents[0].result)]))

        return answer()


async def main():
    provider = SafeexecProvider("wasm")
    agent = Agent(Scripted(), context_providers=[provider])
    print("answer:", (await agent.run("40 + 2?", session=agent.create_session())).text)
    provider.close()


asyncio.run(main())
