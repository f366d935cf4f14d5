"""What the language does with any source text: it compiles it, or refuses it in the ways it promises."""

from __future__ import annotations

import types

from safeexec.guest import Refused

from . import RestrictedLanguage
from .names import DIRECT, DUNDER_DIRECT

_OWN = {"keep", "take", "rest"}
"""Methods of the object that stands for the handlers of ``except*``; the transformer calls them, on a name that no program can spell."""
_READS = {
    "LOAD_ATTR",
    "LOAD_METHOD",
    "IMPORT_NAME",
    "IMPORT_FROM",
    "IMPORT_STAR",
    "LOAD_SUPER_ATTR",
}


def one(data: bytes) -> None:
    """Compile the bytes as source. Raises AssertionError when the result would read or import something without a guard."""
    source = data.decode("utf-8", "replace")
    language = RestrictedLanguage(environ={})
    try:
        codes = language.compile(source, "<step 1>")
    except (SyntaxError, Refused, ValueError, RecursionError, MemoryError, OverflowError):
        return
    for code in codes:
        check(code)


def check(code: types.CodeType) -> None:
    """No instruction may read an attribute that was not reviewed, nor import by itself. What is written to, a guard has looked at when it runs."""
    import dis

    for instruction in dis.get_instructions(code):
        if instruction.opname in _READS:
            name = str(instruction.argval)
            if instruction.opname.startswith("IMPORT") or name not in DIRECT | DUNDER_DIRECT | _OWN:
                raise AssertionError(f"{instruction.opname} {name} without a guard")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            check(constant)
