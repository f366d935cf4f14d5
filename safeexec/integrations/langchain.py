"""LangChain: ``create_agent(model, tools=[SafeexecTool()])``.

Interface: ``langchain_core.tools.BaseTool`` of LangChain 1.x; the session is the one of the run's ``thread_id``. Pictures and the whole Result are the
artifact of the tool's message.
"""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions
from safeexec.policy import Policy
from safeexec.result import Result
from safeexec.tools import Tools


class _Code(BaseModel):
    code: str = Field(description="Python code")


class SafeexecTool(BaseTool):
    """Runs Python in a sandbox; state lives on within a thread of the graph. :meth:`close` ends all sessions."""

    name: str = "python"
    description: str = "Run Python code in a sandbox. Returns what it prints, the value of its last expression, and the files it writes. State lives on."
    args_schema: Any = _Code
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    model_config = ConfigDict(arbitrary_types_allowed=True)
    _sessions: Sessions = PrivateAttr()

    def __init__(
        self,
        sandbox: str | Executor = DEFAULT_SANDBOX,
        *,
        policy: Policy | None = None,
        tools: Tools = (),
        options: dict[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(**fields)
        self._sessions = Sessions(sandbox, policy=policy, tools=tools, **(options or {}))

    def _run(self, code: str, config: RunnableConfig, **_: Any) -> tuple[str, Result]:
        shown = self._sessions.run(code, _thread(config))
        return shown.text, shown.result

    async def _arun(self, code: str, config: RunnableConfig, **_: Any) -> tuple[str, Result]:
        shown = await self._sessions.arun(code, _thread(config))
        return shown.text, shown.result

    @property
    def sessions(self) -> Sessions:
        """The sessions, by thread."""
        return self._sessions

    def close(self, thread_id: str | None = None) -> None:
        """End the session of one thread, or all of them and the sandbox."""
        if thread_id is None:
            self._sessions.close()
        else:
            self._sessions.drop(thread_id)


def _thread(config: RunnableConfig) -> Any:
    return config.get("configurable", {}).get("thread_id")
