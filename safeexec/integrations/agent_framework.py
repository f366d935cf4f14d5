"""Microsoft Agent Framework: ``Agent(client, context_providers=[SafeexecProvider("wasm")])``.

Interface: ``agent_framework.ContextProvider`` of agent-framework 1. The session is the one of the AgentSession.
"""

from __future__ import annotations

from typing import Any

from agent_framework import Content, ContextProvider, tool

from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions
from safeexec.policy import Policy
from safeexec.tools import Tools

INSTRUCTIONS = "You can run Python with run_python; variables and files live on from call to call."


class SafeexecProvider(ContextProvider):
    """Gives an agent the tool `run_python`; :meth:`close` ends all sessions."""

    def __init__(
        self,
        sandbox: str | Executor = DEFAULT_SANDBOX,
        *,
        policy: Policy | None = None,
        tools: Tools = (),
        **options: Any,
    ) -> None:
        super().__init__("safeexec")
        self.sessions = Sessions(sandbox, policy=policy, tools=tools, **options)

    async def before_run(self, *, agent: Any, session: Any, context: Any, state: dict[str, Any]) -> None:
        """Add the tool and how to use it, for this session."""

        @tool(approval_mode="never_require")
        async def run_python(code: str) -> Any:
            """Run Python code in a sandbox. Returns what it prints and the value of its last expression."""
            shown = await self.sessions.arun(code, session.session_id)
            pictures = [Content.from_data(picture.data, picture.mime) for picture in shown.pictures]
            return [Content.from_text(shown.text), *pictures]

        context.extend_instructions(self.source_id, INSTRUCTIONS)
        context.extend_tools(self.source_id, [run_python])

    def close(self) -> None:
        """End all sessions and the sandbox."""
        self.sessions.close()
