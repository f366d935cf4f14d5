"""The adapter for AutoGen, driven by its CodeExecutorAgent."""

from __future__ import annotations

import asyncio

import pytest
from autogen_agentchat.agents import CodeExecutorAgent
from autogen_agentchat.messages import TextMessage
from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock

from safeexec import Limits, Policy
from safeexec.integrations.autogen import SafeexecCodeExecutor


@pytest.mark.parametrize("sandbox", ["wasm", "local"])
def test_the_agent_runs_the_blocks_of_a_message(sandbox: str) -> None:
    async def check() -> str:
        async with SafeexecCodeExecutor(sandbox) as executor:
            agent = CodeExecutorAgent("runner", code_executor=executor)
            message = TextMessage(content="Try\n```python\nx = 20\nprint('got', x + 22)\n```", source="user")
            response = await agent.on_messages([message], CancellationToken())
            return str(response.chat_message.to_text())

    assert "got 42" in asyncio.run(check())


def test_state_lives_until_restart_and_errors_end_the_run() -> None:
    async def check() -> None:
        async with SafeexecCodeExecutor("local") as executor:
            token = CancellationToken()
            done = await executor.execute_code_blocks(
                [CodeBlock("x = 1", "python"), CodeBlock("print(x + 1)", "py")], token
            )
            assert (done.exit_code, "2" in done.output) == (0, True)
            failed = await executor.execute_code_blocks(
                [CodeBlock("1 / 0", "python"), CodeBlock("print('never')", "python")], token
            )
            assert failed.exit_code == 1 and "ZeroDivisionError" in failed.output and "never" not in failed.output
            refused = await executor.execute_code_blocks([CodeBlock("ls", "bash")], token)
            assert refused.exit_code == 1 and "bash" in refused.output
            await executor.restart()
            assert "NameError" in (await executor.execute_code_blocks([CodeBlock("x", "python")], token)).output

    asyncio.run(check())


def test_cancelling_ends_the_step() -> None:
    async def check() -> None:
        async with SafeexecCodeExecutor("local", policy=Policy(limits=Limits(time=60))) as executor:
            token = CancellationToken()
            run = asyncio.ensure_future(executor.execute_code_blocks([CodeBlock("while True: pass", "python")], token))
            asyncio.get_running_loop().call_later(0.5, token.cancel)
            with pytest.raises(asyncio.CancelledError):
                await run
            again = await executor.execute_code_blocks([CodeBlock("print('on')", "python")], CancellationToken())
            assert "on" in again.output

    asyncio.run(check())
