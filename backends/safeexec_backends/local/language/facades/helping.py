"""What ``help()`` says of an object: its signature, its docstring, and of a class its public methods."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import class_name, is_class

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage


def described(language: RestrictedLanguage, o: Any) -> str:
    """`o`, read as the program itself would read it."""
    read = language.guards.readable
    kind = class_name(type(o))
    own = read(o, "__name__", None)
    if kind == "module":
        return f"Help on module {own}:\n\n{_doc(language, o)}\n"
    if not (is_class(o) or (type(own) is str and callable(o))):
        return f"Help on {kind} object:\n\n{described(language, type(o))}"
    name = own if type(own) is str else kind
    title = f"class {name}" if is_class(o) else f"function {name}"
    module = read(o, "__module__", None)
    place = f" in module {module}" if type(module) is str else ""
    lines = [f"Help on {title}{place}:", "", _heading(language, o, name, "class " if is_class(o) else "")]
    lines += _below(_doc(language, o))
    if is_class(o):
        for key in sorted(n for n in dir(o) if type(n) is str and n[:1] != "_"):
            item = read(o, key, None)
            if callable(item) or type(item) is property:
                heading = key if type(item) is property else _heading(language, item, key)
                lines += ["", *_below("\n".join([heading, *_below(_doc(language, item))]))]
    return "\n".join(lines) + "\n"


def _heading(language: RestrictedLanguage, o: Any, name: str, before: str = "") -> str:
    try:
        return f"{before}{name}{language.gate.build('inspect').signature(o)}"
    except (ValueError, TypeError):  # of what is written in C it is not always known
        return f"{before}{name}" if is_class(o) else f"{before}{name}(...)"


def _doc(language: RestrictedLanguage, o: Any) -> str:
    text = language.guards.readable(o, "__doc__", None)
    return inspect.cleandoc(text) if type(text) is str else ""


def _below(text: str) -> list[str]:
    return textwrap.indent(text, "    ").splitlines()
