"""LlamaIndex: ``CodeActAgent(code_execute_fn=code_execute_fn("wasm", tools=[search]), tools=[search], llm=llm)``.

Interface: an asynchronous function from code to a dictionary, of llama-index-core 0.14; the agent's tools are given to that function, too,
which calls them on the host.
"""

from __future__ import annotations

from typing import Any

from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions
from safeexec.policy import Policy
from safeexec.tools import Tools


def code_execute_fn(
    sandbox: str | Executor = DEFAULT_SANDBOX, *, policy: Policy | None = None, tools: Tools = (), **options: Any
) -> Any:
    """A function for ``CodeActAgent``; its attribute `sessions` is to be closed."""
    sessions = Sessions(sandbox, policy=policy, tools=tools, **options)

    async def execute(code: str) -> dict[str, Any]:
        """Run Python code in a sandbox where variables live on from call to call.

        Args:
            code: the program
        """
        shown = await sessions.arun(code)
        return {"ok": shown.result.ok, "output": shown.text}

    execute.sessions = sessions  # type: ignore[attr-defined]
    return execute
