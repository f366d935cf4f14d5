"""AutoGen: a CodeExecutorAgent whose blocks run in a sandbox."""

import asyncio

from autogen_agentchat.agents import CodeExecutorAgent
from autogen_agentchat.messages import TextMessage
from autogen_core import CancellationToken

from safeexec.integrations.autogen import SafeexecCodeExecutor


async def main():
    async with SafeexecCodeExecutor("wasm") as executor:
        agent = CodeExecutorAgent("runner", code_executor=executor)
        message = TextMessage(content="Try\n```python\nx = 20\nprint('answer:', x + 22)\n```", source="user")
        response = await agent.on_messages([message], CancellationToken())
        print(response.chat_message.to_text())


asyncio.run(main())
