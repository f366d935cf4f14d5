"""smolagents: ``CodeAgent(..., executor=SafeexecExecutor("wasm"))``.

Interface: ``smolagents.local_python_executor.PythonExecutor`` of smolagents 1.26. Tools and managed agents run on the host, under the names the agent
gives them: no source is shipped and nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from smolagents.local_python_executor import CodeOutput, InterpreterError, PythonExecutor

from safeexec.errors import EndStep
from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._code import failing_line, last_value
from safeexec.integrations._sessions import Sessions
from safeexec.integrations._shown import clip, native
from safeexec.policy import Policy
from safeexec.result import GuestError
from safeexec.text import neutralise


class SafeexecExecutor(PythonExecutor, AbstractContextManager[Any]):
    """Runs an agent's code in a session of safeexec; `additional_authorized_imports` add to the policy's."""

    def __init__(
        self,
        sandbox: str | Executor = DEFAULT_SANDBOX,
        *,
        policy: Policy | None = None,
        additional_authorized_imports: Sequence[str] = (),
        **options: Any,
    ) -> None:
        if additional_authorized_imports:
            policy = policy or (sandbox.policy if isinstance(sandbox, Executor) else Policy())
            policy = policy.replace(imports=(*policy.allowed_imports(), *additional_authorized_imports))
        self.sessions = Sessions(sandbox, policy=policy, **options)
        self.sandbox = self.sessions.executor.sandbox
        self._answers: list[Any] = []
        self.state: dict[str, Any] = {"_print_outputs": ""}

    def send_tools(self, tools: dict[str, Any]) -> None:
        """Make `tools` callable. Called before every run of the agent."""
        self.sessions.give(tools | {name: self._final(tools[name]) for name in tools if name == "final_answer"})

    def send_variables(self, variables: dict[str, Any]) -> None:
        """Assign variables of the agent's state. Called before every run of the agent."""
        self.sessions.give(variables=variables)
        self.state |= variables

    def _final(self, tool: Callable[..., Any]) -> Callable[..., None]:
        def final_answer(*args: Any, **kwargs: Any) -> None:
            """Ends the run with this answer."""
            self._answers.append(tool(*map(native, args), **{name: native(value) for name, value in kwargs.items()}))
            raise EndStep

        return final_answer

    def __call__(self, code_action: str) -> CodeOutput:
        """Run one code action. Raises InterpreterError with what the model should see."""
        self._answers = []
        with self.sessions.turn() as session:
            result = session.run(code_action)
            logs = self.state["_print_outputs"] = neutralise(result.stdout + result.stderr)
            if result.ended:  # the first answer counts, whatever the code did afterwards
                return CodeOutput(output=self._answers[0], logs=logs, is_final_answer=True)
            if result.error is not None:
                lost = "\nThe session was lost: its variables are gone." if session.closed else ""
                raise InterpreterError(_said(code_action, result.error) + lost)
            output = native(last_value(code_action, result, session))  # as smolagents' own interpreter has it
        return CodeOutput(output=output, logs=clip(logs), is_final_answer=False)

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """End the session and the sandbox."""
        self.sessions.close()


def _said(code: str, error: GuestError) -> str:
    """The error in smolagents' own words, which its prompts and its advice about imports know."""
    line = failing_line(code, error)
    where = f" at line '{line}'" if line else ""
    text = neutralise(str(error))
    if error.type == "ModuleNotFoundError":
        text += ". Import of a module that is not in the sandbox is not allowed"
    return clip(f"Code execution failed{where} due to: {text}")


def create(additional_imports: Sequence[str] = (), logger: Any = None, **options: Any) -> SafeexecExecutor:
    """As smolagents makes its own executors; the entry point of group ``smolagents.executors``."""
    return SafeexecExecutor(additional_authorized_imports=additional_imports, **options)
