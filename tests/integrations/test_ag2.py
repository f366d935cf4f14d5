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


def seen(environment: SafeexecEnvironment, *programs: str) -> str:
    """What the model is shown of these programs, run in one conversation."""
    config = TrackingConfig(TestConfig(*map(call, programs), "finished"))
    reply = asyncio.run(Agent("coder", config=config, tools=[SandboxCodeTool(environment)]).ask("go"))
    assert reply.body == "finished"
    results = [
        result for call_ in config.mock.mock_calls for event in call_.args for result in getattr(event, "results", ())
    ]
    return "\n".join(str(part.content) for result in results for part in result.result.parts)


def test_the_agent_runs_code_whose_state_lives_on_in_its_stream(environment: SafeexecEnvironment) -> None:
    shown = seen(environment, "x = 41", "x + 1", "1 / 0")
    assert "value: 42" in shown and "ZeroDivisionError" in shown and "[exit code: 1]" in shown
    assert "NameError" in seen(environment, "x")


def test_another_language_is_refused(environment: SafeexecEnvironment) -> None:
    result = asyncio.run(environment.run("ls", "bash"))
    assert result.exit_code == 2 and "bash" in result.output
