"""inspect_ai: the tool ``safeexec_python()``, and the sandbox environment ``sandbox="safeexec"`` for inspect_ai's own tools.

Interface: ``@tool`` of inspect_ai 0.3; entry-point group ``inspect_ai``. The environment has a module of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from uuid import uuid4

import anyio
from inspect_ai.tool import ContentImage, ContentText, Tool, tool
from inspect_ai.util import background, store

from safeexec.aio import _in_thread
from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions
from safeexec.integrations.inspect_sandbox import SafeexecSandboxEnvironment as SafeexecSandboxEnvironment
from safeexec.policy import Policy
from safeexec.tools import Tools


@tool
def safeexec_python(
    sandbox: str | Executor = DEFAULT_SANDBOX,
    policy: Policy | None = None,
    tools: Tools = (),
    options: dict[str, Any] | None = None,
) -> Tool:
    """A stateful Python tool: one session for each sample."""
    sessions = Sessions(sandbox, policy=policy, tools=tools, **(options or {}))
    name = f"safeexec_{uuid4().hex}"

    async def execute(code: str) -> Any:
        """Run Python code in a sandbox where variables and files live on from call to call.

        Args:
            code: The program; the value of its last expression is returned, too.
        """
        key = store().get(name)  # everything of a sample shares its store, which is otherwise not touched
        if key is None:
            key = uuid4().hex
            store().set(name, key)
            with suppress(RuntimeError):  # there is no sample: the tool was called by hand
                background(_until_the_end, sessions, key)
        shown = await sessions.arun(code, key)
        pictures = [ContentImage(image=picture.url) for picture in shown.pictures]
        return [ContentText(text=shown.text), *pictures] if pictures else shown.text

    return execute


async def _until_the_end(sessions: Sessions, key: str) -> None:
    """Close a sample's session with the sample, which cancels what runs in its background."""
    try:
        await asyncio.Event().wait()
    finally:
        with anyio.CancelScope(shield=True):  # a vendor's sandbox may take its time to end
            await _in_thread(lambda: sessions.drop(key))
