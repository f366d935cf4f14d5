"""What is to be seen in the program of a step, beside its result."""

from __future__ import annotations

import ast
import re
from typing import Any

from safeexec.errors import LimitExceeded
from safeexec.guest import source_lines
from safeexec.parsed import parse
from safeexec.result import GuestError, Result
from safeexec.session import Session

_LONGEST = 100_000


def failing_line(code: str, error: GuestError) -> str:
    """The line of the program itself, stripped, from which an error came; empty when that cannot be said."""
    outermost = re.search(r"line (\d{1,9}), in <module>", error.traceback)
    number = int(outermost[1]) if outermost else error.line or 0
    lines = source_lines(code)
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def last_value(code: str, result: Result, session: Session) -> Any:
    """The value of the step; where it has none because its last statement assigns a variable, that one's unless it is too large."""
    name = _assigned(code) if result.value is None and not session.closed else None
    try:
        return result.value if name is None else session.variables.get(name)
    except LimitExceeded:
        return None


def _assigned(code: str) -> str | None:
    """The variable that the last statement assigns, if it is that plain."""
    if len(code) > _LONGEST:  # its tree takes a thousand times as much
        return None
    try:
        last = parse(code).body[-1]
    except (SyntaxError, ValueError, RecursionError, MemoryError, IndexError):
        return None
    match last:
        case (
            ast.Assign(targets=[ast.Name(name), *_])
            | ast.AugAssign(ast.Name(name))
            | ast.AnnAssign(ast.Name(name), value=ast.expr())
        ):
            return name
    return None
