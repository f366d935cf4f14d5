"""Where asyncio says that tasks, futures and handles were made, and what they run.

It names files in what it shows of them, more so in its debug mode: the interpreter's and the sandbox's among them, which are nobody's business. Here it
names the program's own.
"""

from __future__ import annotations

import functools
import traceback
import warnings
from collections.abc import Callable
from types import CodeType
from typing import Any

from .facades.tracebacks import keep
from .identity import is_own_file

_STACKS = ("source_traceback", "handle_traceback")


@functools.cache
def install() -> None:
    """Put it in, once; asyncio is imported by now."""
    from asyncio import base_events, base_futures, coroutines, events, format_helpers

    functions: Any = format_helpers
    source_of = functions._get_function_source

    def _get_function_source(function: Any) -> Any:
        found = source_of(function)
        return found if found and is_own_file(found[0]) else None

    functions._get_function_source = _get_function_source

    coroutine: Any = coroutines
    shown = coroutine._format_coroutine

    def _format_coroutine(coro: Any) -> str:
        text: str = shown(coro)
        code = getattr(coro, "cr_code", None) or getattr(coro, "gi_code", None)
        if type(code) is not CodeType or is_own_file(code.co_filename):
            return text
        return text.rpartition(" at ")[0] or text

    coroutine._format_coroutine = _format_coroutine

    for place, name in ((base_futures, "_future_repr_info"), (events.Handle, "_repr_info")):
        setattr(place, name, _facts(getattr(place, name)))

    loops: Any = base_events.BaseEventLoop
    handler = loops.default_exception_handler

    def default_exception_handler(self: Any, context: Any) -> None:
        known = {name: value for name, value in context.items() if name not in _STACKS}
        stacks = {name: _own(context[name]) for name in _STACKS if name in context}
        handler(self, known | {name: value for name, value in stacks.items() if value})

    loops.default_exception_handler = default_exception_handler
    warnings._warn_unawaited_coroutine = _warn_unawaited_coroutine  # type: ignore[attr-defined]


def _facts(original: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    def facts(made: Any) -> list[str]:
        info = [item for item in original(made) if not item.startswith("created at ")]
        stack = _own(made._source_traceback or ())
        return [*info, f"created at {stack[-1].filename}:{stack[-1].lineno}"] if stack else info

    return facts


def _own(stack: Any) -> traceback.StackSummary:
    return traceback.StackSummary.from_list([frame for frame in stack if keep(frame)])


def _warn_unawaited_coroutine(coro: Any) -> None:
    """As the function of `warnings` that the interpreter calls, for what the program did."""
    text = f"coroutine {coro.__qualname__!r} was never awaited"
    made = [place for place in reversed(coro.cr_origin or ()) if is_own_file(place[0])]
    if made:
        lines = traceback.format_list([traceback.FrameSummary(*place, lookup_line=False) for place in made])
        text += "\nCoroutine created at (most recent call last)\n" + "".join(lines).rstrip("\n")
    warnings.warn(text, category=RuntimeWarning, stacklevel=2, source=coro)
