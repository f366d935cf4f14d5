"""Google ADK: ``LlmAgent(code_executor=SafeexecCodeExecutor(sandbox="wasm"))``.

Interface: ``google.adk.code_executors.BaseCodeExecutor`` of google-adk 2. Stateful: ADK's ``execution_id``, else its session, names the conversation.
"""

from __future__ import annotations

import base64
from typing import Any

from google.adk.agents.invocation_context import InvocationContext
from google.adk.code_executors.base_code_executor import BaseCodeExecutor
from google.adk.code_executors.code_execution_utils import CodeExecutionInput, CodeExecutionResult, File
from pydantic import ConfigDict, PrivateAttr

from safeexec.cli.values import shown
from safeexec.executor import DEFAULT_SANDBOX
from safeexec.integrations._attachments import files, pictures
from safeexec.integrations._sessions import Sessions
from safeexec.integrations._shown import clip, failure
from safeexec.policy import Policy
from safeexec.text import neutralise


class SafeexecCodeExecutor(BaseCodeExecutor):
    """Runs an agent's code blocks; input files go into the working directory, files and pictures the code made come back."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    sandbox: Any = DEFAULT_SANDBOX
    policy: Policy | None = None
    options: dict[str, Any] = {}  # noqa: RUF012  a field of pydantic's
    stateful: bool = True
    _sessions: Sessions = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        """Set the sandbox up."""
        self._sessions = Sessions(self.sandbox, policy=self.policy, **self.options)

    def execute_code(
        self, invocation_context: InvocationContext, code_execution_input: CodeExecutionInput
    ) -> CodeExecutionResult:
        """Run one block."""
        key = code_execution_input.execution_id or (
            invocation_context.app_name,
            invocation_context.user_id,
            invocation_context.session.id,
        )
        with self._sessions.turn(key) as session:
            for given in code_execution_input.input_files:
                content = given.content
                session.files.write(given.name, base64.b64decode(content) if isinstance(content, str) else content)
            result = session.run(code_execution_input.code)
            made, trouble = files(session, () if session.closed else result.files)
        output = neutralise(result.stdout)
        if result.value is not None:
            output += clip(neutralise(shown(result.value))) + "\n"
        passed_on = [File(each.name, each.data, each.mime) for each in (*pictures(result), *made)]
        said = neutralise(result.stderr) + trouble + failure(result)
        return CodeExecutionResult(output, said, passed_on, 0 if result.ok else 1)

    @property
    def sessions(self) -> Sessions:
        """The sessions, by ``execution_id`` or (app, user, session)."""
        return self._sessions

    def close(self) -> None:
        """End all sessions and the sandbox."""
        self._sessions.close()
