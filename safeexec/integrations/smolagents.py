"""smolagents: ``CodeAgent(..., executor=SafeexecExecutor("wasm"))``.

Interface: ``smolagents.local_python_executor.PythonExecutor`` of smolagents 1.26. Tools and managed agents run on the host, under the names the agent
gives them: no source is shipped and nothing is pickled.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from smolagents.local_python_executor import CodeOutput, InterpreterError, PythonExecutor

from safeexec.errors import EndStep
from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions, clip, native
from safeexec.policy import DEFAULT_IMPORTS, Policy
from safeexec.result import GuestError
from safeexec.text import neutralise


class SafeexecExecutor(PythonExecutor):
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
            policy = policy or Policy()
            more = policy.imports or DEFAULT_IMPORTS
            policy = policy.replace(imports=(*more, *additional_authorized_imports))
        self._sessions = Sessions(sandbox, policy=policy, **options)
        self.sandbox = self._sessions.executor.sandbox
        self._session: Any = None
        self._tools: dict[str, Any] = {}
        self._answer: list[Any] = []
        self.state: dict[str, Any] = {"_print_outputs": ""}

    def send_tools(self, tools: dict[str, Any]) -> None:
        """Make `tools` callable. Called before every run of the agent; what is there already is not sent again."""
        fresh = {name: tool for name, tool in tools.items() if self._tools.get(name) is not tool}
        self._tools.update(fresh)
        if fresh and self._session is not None and not self._session.closed:
            self._session.add_tools(self._callable(fresh))

    def send_variables(self, variables: dict[str, Any]) -> None:
        """Assign variables of the agent's state."""
        self.state.update(variables)
        if variables and self._session is not None and not self._session.closed:
            self._session.variables.update(variables)

    def _callable(self, tools: dict[str, Any]) -> dict[str, Any]:
        return {name: self._final(tool) if name == "final_answer" else tool for name, tool in tools.items()}

    def _final(self, tool: Any) -> Any:
        def final_answer(*args: Any, **kwargs: Any) -> None:
            """Ends the run with this answer."""
            self._answer.append(tool(*[native(a) for a in args], **{k: native(v) for k, v in kwargs.items()}))
            raise EndStep

        return final_answer

    def __call__(self, code_action: str) -> CodeOutput:
        """Run one code action. Raises InterpreterError with what the model should see."""
        if (
            self._session is None or self._session.closed
        ):  # first use, or lost to a limit: tools and given variables come back
            session = self._session = self._sessions.get()
            session.add_tools(self._callable(self._tools))
            session.variables.update({k: v for k, v in self.state.items() if k != "_print_outputs"})
        self._answer = []
        result = self._session.run(code_action)
        logs = self.state["_print_outputs"] = neutralise(result.stdout + result.stderr)
        if result.ended:  # the first answer counts, whatever the code did afterwards
            return CodeOutput(output=self._answer[0], logs=logs, is_final_answer=True)
        if result.error is not None:
            lost = "\nThe session was lost: its variables are gone." if self._session.closed else ""
            raise InterpreterError(_said(code_action, result.error) + lost)
        output = result.value
        if output is None and not self._session.closed and (name := _assigned(code_action)) is not None:
            output = self._session.variables.get(
                name
            )  # smolagents' own interpreter shows the value of a last assignment, too
        return CodeOutput(output=native(output), logs=clip(logs), is_final_answer=False)

    def __enter__(self) -> SafeexecExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """End the session and the sandbox."""
        self._sessions.close()


def _said(code: str, error: GuestError) -> str:
    """The error in smolagents' own words, which its prompts and its advice about imports know."""
    lines = code.splitlines()
    outermost = re.search(r"line (\d{1,9}), in <module>", error.traceback)
    number = int(outermost[1]) if outermost else error.line or 0
    where = f" at line '{lines[number - 1].strip()}'" if 0 < number <= len(lines) else ""
    text = neutralise(f"{error.type}: {error.message}" if error.message else error.type)
    if error.type == "ModuleNotFoundError":
        text += ". Import of a module that is not in the sandbox is not allowed"
    return clip(f"Code execution failed{where} due to: {text}")


def _assigned(code: str) -> str | None:
    """The variable that the last statement assigns, if it is that plain."""
    try:
        last = ast.parse(code).body[-1]
    except (SyntaxError, ValueError, RecursionError, MemoryError, IndexError):
        return None
    target = last.targets[0] if isinstance(last, ast.Assign) else getattr(last, "target", None)
    return (
        target.id
        if isinstance(last, ast.Assign | ast.AugAssign | ast.AnnAssign) and isinstance(target, ast.Name)
        else None
    )


def create(additional_imports: Sequence[str] = (), logger: Any = None, **options: Any) -> SafeexecExecutor:
    """As smolagents makes its own executors; the entry point of group ``smolagents.executors``."""
    return SafeexecExecutor(additional_authorized_imports=additional_imports, **options)
