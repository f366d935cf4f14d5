"""langgraph-codeact: ``create_codeact(model, tools, eval_fn(Sessions("wasm")))``.

Interface: ``eval_fn(code, context) -> (output, new variables)`` of langgraph-codeact 0.1. The context's functions are tools that run on the host; its
plain values become variables. Each call gets a fresh session, for the graph's state is what carries variables from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safeexec.errors import LimitExceeded, SafeExecError
from safeexec.integrations._sessions import Sessions
from safeexec.integrations._shown import native, observation
from safeexec.session import Session
from safeexec.text import neutralise_line
from safeexec.wire import Encoder, NotPlain, TooLarge

_MOST = 10_000


def eval_fn(sessions: Sessions) -> Callable[[str, dict[str, Any]], tuple[str, dict[str, Any]]]:
    """A function for ``create_codeact``. Variables with no plain form stay behind: functions and classes live for one step only.

    So do those that are larger together than ``Limits.value``; the output names them.
    """

    def evaluate(code: str, context: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        tools = {name: item for name, item in context.items() if callable(item)}
        variables = {name: item for name, item in context.items() if not callable(item)}
        with sessions.fresh(tools, variables) as session:
            result = session.run(code)
            new, trouble = ({}, "") if session.closed else _variables(session, tools)
            return observation(result, session) + trouble, new

    return evaluate


def _variables(session: Session, tools: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Those that the next step can be given, and what there is to say about the rest: the guest names them, and may give a large value many names."""
    new: dict[str, Any] = {}
    large: list[str] = []
    encoder = Encoder(session.policy.limits.value, strict=True)
    try:
        for name in list(session.variables)[:_MOST]:
            if name in tools or name.startswith("_"):
                continue
            try:
                value = native(session.variables[name])
                encoder.encode(value)  # as the next step's variables will be
            except (NotPlain, KeyError):
                continue
            except LimitExceeded:
                large.append(name)
                continue
            except TooLarge:
                large.append(name)
                break
            new[name] = value
    except SafeExecError as error:  # a guest that lies about its variables has none
        return new, f"\n(its variables cannot be had: {neutralise_line(str(error))})"
    said = f"\n(too large to be kept for the next step: {neutralise_line(', '.join(large)[:200])})" if large else ""
    return new, said
