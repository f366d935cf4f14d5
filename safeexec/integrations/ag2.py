"""AG2: ``Agent("coder", tools=[SandboxCodeTool(SafeexecEnvironment("wasm"))])``.

Interface: ``ag2.tools.code.CodeEnvironment`` of AG2 1.2, which takes any object with an attribute `open` for a factory of sandboxes: this has none.
State lives on within a conversation, which is a stream of AG2's.
"""

from __future__ import annotations

from typing import Any

from ag2.tools.code import CodeLanguage, CodeRunResult

from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions
from safeexec.policy import Policy
from safeexec.tools import Tools


class SafeexecEnvironment:
    """Runs Python; :meth:`close` ends all sessions."""

    def __init__(
        self,
        sandbox: str | Executor = DEFAULT_SANDBOX,
        *,
        policy: Policy | None = None,
        tools: Tools = (),
        **options: Any,
    ) -> None:
        self.sessions = Sessions(sandbox, policy=policy, tools=tools, **options)

    def __deepcopy__(self, _: Any) -> SafeexecEnvironment:
        return self  # AG2 copies an agent's tools; both are to reach the same sandboxes

    @property
    def supported_languages(self) -> tuple[CodeLanguage, ...]:
        """Python alone."""
        return ("python",)

    async def run(self, code: str, language: CodeLanguage, *, context: Any = None) -> CodeRunResult:
        """Run `code`; exit code 1 when it fails, 2 for another language."""
        if language != "python":
            return CodeRunResult(f"language {language!r} is not supported; write Python", 2)
        key = None if context is None else context.stream.id
        shown = await self.sessions.arun(code, key)
        return CodeRunResult(shown.text, 0 if shown.result.ok else 1)

    def close(self) -> None:
        """End all sessions and the sandbox."""
        self.sessions.close()
