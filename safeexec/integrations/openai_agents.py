"""OpenAI Agents SDK: ``Agent(name="analyst", tools=[python_tool("wasm")])``.

Interface: ``function_tool`` of openai-agents 0.24. The SDK gives a tool no identity of the conversation: `key` names it, from the tool's context
(``lambda ctx: ctx.context.user_id``); without it the tool has one session.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from agents import FunctionTool, ToolOutputImage, ToolOutputText, function_tool
from agents.tool_context import ToolContext

from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions
from safeexec.policy import Policy
from safeexec.tools import Tools


def python_tool(
    sandbox: str | Executor = DEFAULT_SANDBOX,
    *,
    policy: Policy | None = None,
    tools: Tools = (),
    key: Callable[[Any], Hashable] | None = None,
    **options: Any,
) -> FunctionTool:
    """The tool `run_python`; its attribute `sessions` is to be closed."""
    sessions = Sessions(sandbox, policy=policy, tools=tools, **options)

    @function_tool
    async def run_python(context: ToolContext[Any], code: str) -> Any:
        """Run Python code in a sandbox. Returns what it prints and the value of its last expression. State lives on from call to call.

        Args:
            code: the program
        """
        shown = await sessions.arun(code, None if key is None else key(context))
        pictures = [ToolOutputImage(image_url=picture.url) for picture in shown.pictures]
        return [ToolOutputText(text=shown.text), *pictures] if pictures else shown.text

    run_python.sessions = sessions  # type: ignore[attr-defined]
    return run_python
