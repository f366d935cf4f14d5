"""What the loop finds in an agent: its parts, and whoever is told of what it does."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safeexec import Executor, GuestError, Policy, SafeExecError, Session
from safeexec_agent.bridge import Slot
from safeexec_agent.errors import AgentInterrupted
from safeexec_agent.memory import ActionStep, AgentMemory
from safeexec_agent.models import ChatMessage
from safeexec_agent.observe import lost_functions


class Parts:
    """What CodeAgent is made of."""

    name: str | None
    model: Any
    max_steps: int
    sandbox: str | Executor
    policy: Policy
    tools: dict[str, Any]
    managed_agents: dict[str, Any]
    helpers: dict[str, str]
    tags: tuple[str, str]
    memory: AgentMemory
    state: dict[str, Any]
    observers: list[Callable[..., Any]]
    prompt_templates: dict[str, str]
    planning_interval: int | None
    token_budget: int | None
    max_print_outputs_length: int
    stream_outputs: bool
    use_structured_outputs: bool
    before_step: Callable[[ActionStep], Any] | None
    step_callbacks: Sequence[Callable[..., Any]] | Mapping[type, Any]
    final_answer_checks: list[Callable[..., Any]]
    _session: Session | None
    _fresh_sandbox = False
    """A run was taken up whose session is not there any more."""
    _slot: Slot
    _lock: threading.Lock
    _interrupted: threading.Event

    @property
    def system_prompt(self) -> str:
        """The first message."""
        raise NotImplementedError

    @property
    def executor(self) -> Executor:
        """The sandbox's executor."""
        raise NotImplementedError

    @property
    def session(self) -> Session:
        """The session in which the code runs."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Stop the run."""
        raise NotImplementedError

    def write_memory_to_messages(self) -> list[ChatMessage]:
        """The conversation so far."""
        raise NotImplementedError

    def _tools_text(self) -> str:
        raise NotImplementedError

    def _put_back(self, session: Session, names: Sequence[str]) -> None:
        """Make these functions of the session again. Raises SafeExecError."""
        raise NotImplementedError

    def _more_imports(self) -> list[str]:
        raise NotImplementedError

    def _restored(self, error: GuestError, session: Session, code: str) -> str:
        """What the model is told of functions that its code had given to values, and that are put back; empty where that is not what failed."""
        lost = lost_functions(error, code, (*self.tools, *self.managed_agents))
        if not lost or session.closed:
            return ""
        try:  # or a model that wrote `final_answer = 5` could never answer
            self._put_back(session, lost)
        except SafeExecError as trouble:
            return f"\n({trouble})"
        return (
            f"\nHint: Your code gave {', '.join(lost)} to a value, or deleted it. From your next step on it is the function again: "
            "call your values something else."
        )

    def _check(self) -> None:
        if self._interrupted.is_set():
            raise AgentInterrupted("the run was interrupted")

    def _call_back(self, step: Any) -> None:
        callbacks: list[Any]
        if isinstance(self.step_callbacks, Mapping):
            found = [c for kind, c in self.step_callbacks.items() if isinstance(step, kind)]
            callbacks = [c for item in found for c in (item if isinstance(item, list | tuple) else [item])]
        else:
            callbacks = [c for c in self.step_callbacks if isinstance(step, ActionStep)]
        for callback in callbacks:
            if "agent" in inspect.signature(callback).parameters:
                callback(step, agent=self)
            else:
                callback(step)

    def _emit(self, event: str, **about: Any) -> None:
        for observer in self.observers:
            observer(event, **about)
