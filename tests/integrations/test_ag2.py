"""The adapter for AG2, driven by its Agent with its own scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from ag2 import Agent
from ag2.events import ToolCallEvent
from ag2.testing import TestConfig, TrackingConfig
from ag2.tools.code import CodeEnvironment, SandboxCodeTool

from safeexec.integrations.ag2 import SafeexecEnvironment


@pytest.fixture(params=["wasm", "local"])
def environment(request: pytest.FixtureRequest) -> Iterator[SafeexecEnvironment]:
    made = SafeexecEnvironment(request.param)
    yield made
    made.close()


def call(code: str, language: str = "python") -> ToolCallEvent:
    import json

    return ToolCallEvent(name="run_code", arguments=json.dumps({"code": code, "language": language}))


def test_it_is_an_environment_and_no_factory(environment: SafeexecEnvironment) -> None:
    assert isinstance(environment, CodeEnvironment) and not hasattr(environment, "open")
    assert SandboxCodeTool(environment).environment is environment


def test_the_agent_runs_code_whose_state_lives_on(environment: SafeexecEnvironment) -> None:
    config = TrackingConfig(TestConfig(call("x = 41"), call("x + 1"), call("1 / 0"), "finished"))
    agent = Agent("coder", config=config, tools=[SandboxCodeTool(environment)])
    reply = asyncio.run(agent.ask("go"))
    assert reply.body == "finished"
    results = [
        result for call_ in config.mock.mock_calls for event in call_.args for result in getattr(event, "results", ())
    ]
    shown = "\n".join(str(part.content) for result in results for part in result.result.parts)
    assert "value: 42" in shown and "ZeroDivisionError" in shown and "[exit code: 1]" in shown


def test_another_language_is_refused(environment: SafeexecEnvironment) -> None:
    result = asyncio.run(environment.run("ls", "bash"))
    assert result.exit_code == 2 and "bash" in result.output
