"""Google ADK: an agent whose code blocks run in a sandbox."""

import asyncio

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

from safeexec.integrations.google_adk import SafeexecCodeExecutor

REPLIES = ["```python\nx = 41\n```", "```python\nprint('answer:', x + 1)\n```", "It is 42."]


class Scripted(BaseLlm):
    """Stands in for a model: gives these replies one after the other."""

    model: str = "scripted"

    async def generate_content_async(self, request, stream=False):
        yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text=REPLIES.pop(0))]))


executor = SafeexecCodeExecutor(sandbox="wasm")
runner = InMemoryRunner(LlmAgent(name="coder", model=Scripted(), code_executor=executor), app_name="example")


async def main():
    session = await runner.session_service.create_session(app_name="example", user_id="ann")
    message = types.Content(role="user", parts=[types.Part(text="40 + 2?")])
    async for event in runner.run_async(user_id="ann", session_id=session.id, new_message=message):
        for part in event.content.parts if event.content else ():
            if part.code_execution_result:
                print(part.code_execution_result.output)
            elif part.text:
                print(part.text)


asyncio.run(main())
executor.close()
