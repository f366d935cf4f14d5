"""The adapter for Microsoft's Agent Framework, driven by its Agent with a scripted client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from agent_framework import Agent, BaseChatClient, ChatResponse, Content, FunctionInvocationLayer, Message

from safeexec.integrations.agent_framework import SafeexecProvider


class Scripted(FunctionInvocationLayer, BaseChatClient):  # type: ignore[misc]
    """Runs its programs one after the other, then says so; keeps what it was shown."""

    def __init__(self, *programs: str) -> None:
        super().__init__()
        self.programs = list(programs)
        self.seen: list[str] = []

    def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **_: Any) -> Any:
        async def answer() -> ChatResponse:
            self.seen.append(" ".join(str(content.to_dict()) for message in messages for content in message.contents))
            if self.programs:
                arguments = json.dumps({"code": self.programs.pop(0)})
                call = Content.from_function_call(call_id=f"c{len(self.seen)}", name="run_python", arguments=arguments)
                return ChatResponse(messages=Message(role="assistant", contents=[call]))
            return ChatResponse(messages=Message(role="assistant", contents=["done"]))

        return answer()


@pytest.fixture(params=["wasm", "local"])
def provider(request: pytest.FixtureRequest) -> Iterator[SafeexecProvider]:
    made = SafeexecProvider(request.param)
    yield made
    made.close()


def test_state_belongs_to_the_session(provider: SafeexecProvider) -> None:
    async def check() -> None:
        first = Scripted("x = 41", "x + 1")
        agent = Agent(first, context_providers=[provider])
        session = agent.create_session()
        assert (await agent.run("go", session=session)).text == "done"
        assert "value: 42" in first.seen[2]
        again = Scripted("x", "1 / 0")
        await Agent(again, context_providers=[provider]).run("go", session=session)
        assert "value: 41" in again.seen[1] and "ZeroDivisionError" in again.seen[2]
        other = Scripted("x")
        await Agent(other, context_providers=[provider]).run("go", session=agent.create_session())
        assert "NameError" in other.seen[1]

    asyncio.run(check())


def test_pictures_are_passed_on_as_pictures(provider: SafeexecProvider) -> None:
    model = Scripted("class P:\n    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\n' + b'0' * 20\nP()")
    agent = Agent(model, context_providers=[provider])
    asyncio.run(agent.run("draw", session=agent.create_session()))
    assert "data:image/png;base64,iVBORw0KGgo" in model.seen[1]
