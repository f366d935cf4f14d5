"""The adapter for LlamaIndex, driven by its CodeActAgent with a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from llama_index.core.agent.workflow import CodeActAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.llms.mock import MockLLM
from llama_index.core.workflow import Context

from safeexec.integrations.llama_index import code_execute_fn

REPLIES = [
    "Let me compute.\n<execute>\ntotal = multiply(a=6, b=7)\nprint('total', total)\n</execute>",
    "<execute>\nprint('still', total)\n</execute>",
    "It is 42.",
]


class Scripted(MockLLM):
    """Answers with its replies in order, and keeps what it was shown."""

    seen: list[str] = []  # noqa: RUF012  a field of pydantic's

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_function_calling_model=True)

    async def astream_chat(self, messages: Any, **_: Any) -> AsyncGenerator[ChatResponse, None]:
        self.seen.append("\n".join(str(message.content) for message in messages))
        reply = REPLIES[len(self.seen) - 1]

        async def stream() -> AsyncGenerator[ChatResponse, None]:
            yield ChatResponse(message=ChatMessage(role="assistant", content=reply), delta=reply)

        return stream()


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def test_the_agent_runs_its_code_with_its_tools_on_the_host() -> None:
    run = code_execute_fn("wasm", tools=[multiply])
    model = Scripted()

    async def check() -> str:
        agent = CodeActAgent(code_execute_fn=run, tools=[multiply], llm=model)
        return str(await agent.run("What is 6 times 7?", ctx=Context(agent)))

    try:
        assert "It is 42." in asyncio.run(check())
    finally:
        run.sessions.close()
    assert "total 42" in model.seen[1] and "still 42" in model.seen[2]


def test_an_error_is_told_to_the_model() -> None:
    run = code_execute_fn("local")
    try:
        answer = asyncio.run(run("print('first')\n1 / 0"))
    finally:
        run.sessions.close()
    assert answer["ok"] is False
    assert "first" in answer["output"] and "line 2" in answer["output"] and "ZeroDivisionError" in answer["output"]
