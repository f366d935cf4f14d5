"""LlamaIndex: its CodeActAgent, with the code in a sandbox and the tools here."""

import asyncio

from llama_index.core.agent.workflow import CodeActAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.llms.mock import MockLLM
from llama_index.core.workflow import Context

from safeexec.integrations.llama_index import code_execute_fn

REPLIES = ["<execute>\ntotal = multiply(a=6, b=7)\nprint('total', total)\n</execute>", "It is 42."]


class Scripted(MockLLM):
    """Stands in for a model: gives these replies one after the other."""

    @property
    def metadata(self):
        return LLMMetadata(is_function_calling_model=True)

    async def astream_chat(self, messages, **_):
        reply = REPLIES.pop(0)

        async def stream():
            yield ChatResponse(message=ChatMessage(role="assistant", content=reply), delta=reply)

        return stream()


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


execute = code_execute_fn("wasm", tools=[multiply])


async def main():
    agent = CodeActAgent(code_execute_fn=execute, tools=[multiply], llm=Scripted())
    print("answer:", await agent.run("What is 6 times 7?", ctx=Context(agent)))


asyncio.run(main())
execute.sessions.close()
