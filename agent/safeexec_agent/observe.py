"""What the model is told of a step: output, value, displays, error, and a word on what to do about it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from safeexec import GuestError, Limits, Result
from safeexec.text import neutralise_line
from safeexec_agent.memory import cut
from safeexec_agent.values import describe

_SHOWN = 20
"""Files and displays that are listed."""


def observation(result: Result, length: int) -> str:
    """The step in at most about `length` characters of output and as many of the value."""
    parts = []
    if result.stdout.strip():
        parts.append(cut(result.stdout.rstrip("\n"), length))
    if result.stderr.strip():
        parts.append("Standard error:\n" + cut(result.stderr.rstrip("\n"), length // 2))
    if result.value is not None:
        text = result.value if isinstance(result.value, str) else describe(result.value, length + 1)
        parts.append("Value: " + cut(text, length))
    for number, display in enumerate(result.displays[:_SHOWN], 1):
        plain = display.data.get("text/plain")
        parts.append(f"Display {number}: {cut(str(plain), 2000) if plain else ', '.join(display.data)}")
    if len(result.displays) > _SHOWN:
        parts.append(f"and {len(result.displays) - _SHOWN} more displays")
    if result.files:
        # A name may have line feeds in it, and look like an observation of its own.
        names = [f"{neutralise_line(info.name, 200)} ({info.size} bytes)" for info in result.files[:_SHOWN]]
        more = f" and {len(result.files) - _SHOWN} more" if len(result.files) > _SHOWN else ""
        parts.append("Files written: " + ", ".join(names) + more)
    if result.truncated:
        parts.append("(Output or value was cut at a limit: print less.)")
    if result.error is not None and not result.ended:
        error = result.error
        trace = error.traceback.rstrip()
        last = f"{error.type}: {message_of(error)}" if error.message else error.type
        where = f" (line {error.line} of your code)" if error.line else ""
        parts.append(
            f"Error: {cut(last, 4000)}{where}"
            + (f"\n{cut(trace, 4000)}" if trace.count("\n") > 3 and error.kind == "exception" else "")
        )
    # A lone surrogate would make a UTF-8 encoder on the way to the model fail.
    return "\n".join(parts).encode("utf-8", "backslashreplace").decode()


def message_of(error: GuestError) -> str:
    """The message, without the list of all modules that may follow a refused import: the first message has it."""
    return error.message.partition("; allowed: ")[0] if error.kind == "policy" else error.message


def hint(result: Result, imports: Sequence[str], tools: Sequence[str], limits: Limits) -> str:
    """What the model can do about the error; begins with a line feed, or is empty."""
    error = result.error
    assert error is not None
    text = ""
    if error.kind == "time":
        text = f"A step may run {limits.time:g} s. Do less in one step, or use a faster way." if limits.time else ""
    elif error.kind == "memory" or error.type == "MemoryError":
        text = f"There are {limits.memory >> 20} MiB of memory. Work on smaller pieces."
    elif error.kind == "output":
        text = "Print only what you need to see."
    elif error.kind == "exit":
        text = "Do not call exit(): the program goes on with your next step. Call final_answer(…) when you have the answer."
    elif error.kind in ("crash", "protocol"):
        text = "The interpreter did not survive this code. Do it in another way."
    elif error.type in ("ImportError", "ModuleNotFoundError"):
        text = f"Only what the first message lists can be imported{f', such as {shown}' if (shown := ', '.join(imports)) else ''}."
    elif error.type == "NameError":
        text = (
            f"The functions there are: {', '.join(tools)}. Variables must be defined first; a name in quotes is a text."
        )
    elif error.kind == "policy":
        text = "The sandbox does not allow this, and will not. Use plain Python, or one of the functions you have."
    return f"\nHint: {text}" if text else ""


def lost_functions(error: GuestError, code: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that the code called where it failed for being no function any more: it gave the name to a value, or deleted it."""
    called = error.type == "TypeError" and error.message.endswith("object is not callable")
    if error.kind != "exception" or not (called or error.type == "NameError") or error.line is None:
        return []
    line = next(iter(code.splitlines()[error.line - 1 :]), "")
    return [n for n in names if re.search(rf"\b{n}\b", line) and (called or f"'{n}'" in error.message)]


def check_answer(check: Callable[..., Any], answer: Any, agent: Any) -> str | None:
    """What is wrong with the answer by one of the user's checks, or None."""
    try:
        count = len(
            [
                p
                for p in inspect.signature(check).parameters.values()
                if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            ]
        )
        given = (answer, agent.memory, agent)[: max(1, min(count, 3))]
        if check(*given) is False:
            return f"the check {getattr(check, '__name__', 'of the user')!r} failed"
    except Exception as error:  # that is how a check says why
        return f"{type(error).__name__}: {error}"
    return None
