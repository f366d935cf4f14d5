"""AG2: its code tool, over a sandbox. The state of a conversation lives on."""

import asyncio
import json

from ag2 import Agent
from ag2.events import ToolCallEvent
from ag2.testing import TestConfig, TrackingConfig
from ag2.tools.code import SandboxCodeTool

from safeexec.integrations.ag2 import SafeexecEnvironment


def call(code):
    return ToolCallEvent(name="run_code", arguments=json.dumps({"code": code, "language": "python"}))


environment = SafeexecEnvironment("wasm")
config = TrackingConfig(TestConfig(call("x = 41"), call("x + 1"), "finished"))  # stands in for a model
agent = Agent("coder", config=config, tools=[SandboxCodeTool(environment)])
print(asyncio.run(agent.ask("40 + 2?")).body)
for asked in config.mock.mock_calls:
    for event in asked.args:
        for result in getattr(event, "results", ()):
            print("answer:", *(part.content for part in result.result.parts))
environment.close()
