"""AutoGen: ``CodeExecutorAgent("runner", code_executor=SafeexecCodeExecutor("wasm"))``.

Interface: ``autogen_core.code_executor.CodeExecutor`` of autogen-core 0.7. State lives from block to block until :meth:`restart`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock, CodeExecutor, CodeResult

from safeexec.aio import _in_thread
from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions
from safeexec.policy import Policy


class SafeexecCodeExecutor(CodeExecutor):
    """Runs Python code blocks in one session; blocks in another language are refused with exit code 1."""

    def __init__(
        self, sandbox: str | Executor = DEFAULT_SANDBOX, *, policy: Policy | None = None, **options: Any
    ) -> None:
        self._make = lambda: Sessions(sandbox, policy=policy, **options)
        self.sessions: Sessions | None = None

    async def start(self) -> None:
        """Set the sandbox up."""
        if self.sessions is None:
            self.sessions = await _in_thread(self._make)

    async def stop(self) -> None:
        """End the session and the sandbox."""
        sessions, self.sessions = self.sessions, None
        if sessions is not None:
            await _in_thread(sessions.close)

    async def restart(self) -> None:
        """Forget all state."""
        if self.sessions is not None:
            await _in_thread(self.sessions.drop)

    async def execute_code_blocks(
        self, code_blocks: list[CodeBlock], cancellation_token: CancellationToken
    ) -> CodeResult:
        """Run the blocks in order, up to the first that fails. Raises asyncio.CancelledError when the token is cancelled."""
        await self.start()
        assert self.sessions is not None
        output: list[str] = []
        for block in code_blocks:
            if block.language.lower() not in ("python", "py", "python3", ""):
                return CodeResult(
                    1, "\n".join([*output, f"language {block.language!r} is not supported; write Python"])
                )
            task = asyncio.ensure_future(self.sessions.arun(block.code))
            cancellation_token.link_future(task)
            shown = await task
            output.append(shown.text)
            if not shown.result.ok:
                return CodeResult(1, "\n".join(output))
        return CodeResult(0, "\n".join(output))
