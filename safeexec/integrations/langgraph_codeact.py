"""langgraph-codeact: ``create_codeact(model, tools, eval_fn(Sessions("wasm")))``.

Interface: ``eval_fn(code, context) -> (output, new variables)`` of langgraph-codeact 0.1. The context's functions are tools that run on the host; its
plain values become variables. Each call gets a fresh session, for the graph's state is what carries variables from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safeexec.integrations._sessions import Sessions
from safeexec.integrations._shown import native, observation
from safeexec.wire import Opaque


def eval_fn(sessions: Sessions) -> Callable[[str, dict[str, Any]], tuple[str, dict[str, Any]]]:
    """A function for ``create_codeact``. Variables with no plain form stay behind: functions and classes live for one step only."""

    def evaluate(code: str, context: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        tools = {name: item for name, item in context.items() if callable(item)}
        variables = {name: item for name, item in context.items() if not callable(item)}
        with sessions.fresh(tools, variables) as session:
            result = session.run(code)
            new = {}
            if not session.closed:
                for name in session.variables:
                    value = session.variables[name]
                    if name not in tools and not name.startswith("_") and not isinstance(value, Opaque):
                        new[name] = native(value)
            return observation(result, session), new

    return evaluate
