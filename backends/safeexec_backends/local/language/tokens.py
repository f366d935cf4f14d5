"""Guards as constants of code objects.

The tree holds a random text in a guard's place, and `bind` puts the function in after compilation. There is no name to shadow: no parameter,
global, class body, builtins dictionary or ``exec`` namespace can come between.
"""

from __future__ import annotations

import os
from types import CodeType
from typing import Any

_MARK = "\0" + os.urandom(16).hex() + " "  # cannot be guessed, so no literal of a program turns into a guard


def token(name: str) -> str:
    """The text that stands for the guard called `name` until `bind`."""
    return _MARK + name


def bind(code: CodeType, guards: dict[str, Any]) -> CodeType:
    """`code` with the guards in the places of their tokens, in nested code too."""
    changed = False
    constants: list[Any] = []
    for constant in code.co_consts:
        kind = type(constant)
        if kind is str:
            if constant[:1] == "\0" and constant in guards:
                constant = guards[constant]
                changed = True
        elif kind is CodeType:
            inner = bind(constant, guards)
            changed = changed or inner is not constant
            constant = inner
        constants.append(constant)
    return code.replace(co_consts=tuple(constants)) if changed else code
