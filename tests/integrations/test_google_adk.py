"""The adapter for Google ADK, driven by its Runner with a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.code_executors.code_execution_utils import CodeExecutionInput, File
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

from safeexec.integrations.google_adk import SafeexecCodeExecutor


class Scripted(BaseLlm):
    """Answers with its replies in order, and keeps what it was shown."""

    model: str = "scripted"
    replies: list[str]
    seen: list[str] = []  # noqa: RUF012  a field of pydantic's

    async def generate_content_async(
        self, request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        self.seen.append(str(request.contents))
        text = self.replies[len(self.seen) - 1]
        yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text=text)]))


@pytest.fixture(params=["wasm", "local"])
def executor(request: pytest.FixtureRequest) -> Iterator[SafeexecCodeExecutor]:
    made = SafeexecCodeExecutor(sandbox=request.param)
    yield made
    made.close()


def test_the_agent_runs_code_whose_state_lives_on(executor: SafeexecCodeExecutor) -> None:
    model = Scripted(
        replies=["```python\nx = 41\nprint('set', x)\n```", "```python\nprint('sum', x + 1)\n```", "It is 42."]
    )
    agent = LlmAgent(name="coder", model=model, code_executor=executor)
    runner = InMemoryRunner(agent, app_name="t")

    async def check() -> list[str]:
        session = await runner.session_service.create_session(app_name="t", user_id="u")
        message = types.Content(role="user", parts=[types.Part(text="go")])
        return [
            str(event.content)
            async for event in runner.run_async(user_id="u", session_id=session.id, new_message=message)
        ]

    events = asyncio.run(check())
    assert "It is 42." in events[-1]
    assert "set 41" in model.seen[1] and "sum 42" in model.seen[2]


def test_files_go_in_and_come_back_and_errors_are_told(executor: SafeexecCodeExecutor) -> None:
    given = File("in.csv", b"a,b\n1,2\n", "text/csv")
    code = "open('out.txt', 'w').write(open('in.csv').read().upper())\nprint('ok')\n1 / 0"
    result = executor.execute_code(_context(), CodeExecutionInput(code, [given], "one"))
    assert result.stdout == "ok\n" and "ZeroDivisionError" in result.stderr and result.exit_code == 1
    assert {f.name: f.content for f in result.output_files}["out.txt"] == b"A,B\n1,2\n"
    other = executor.execute_code(_context(), CodeExecutionInput("print(1); open('in.csv')", [], "two"))
    assert "FileNotFoundError" in other.stderr


def _context() -> Any:
    return None  # not looked at when there is an execution_id


def test_pictures_and_hostile_names_of_files(executor: SafeexecCodeExecutor) -> None:
    code = "class P:\n    def _repr_png_(self): return b'PNG'\nopen('a\\x1b]0;x\\x07b', 'w').write('x')\nopen('c.csv', 'w').write('1')\nP()"
    result = executor.execute_code(_context(), CodeExecutionInput(code, [], "three"))
    assert [(f.name, f.content, f.mime_type) for f in result.output_files] == [
        ("display-1.png", b"PNG", "image/png"),
        ("c.csv", b"1", "text/csv"),
    ]
    assert "is not passed on" in result.stderr and result.exit_code == 0
    assert not set(result.stdout + result.stderr) & {"\x1b", "\x07"}
