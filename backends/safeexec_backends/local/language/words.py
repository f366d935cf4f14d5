"""Library code that makes the name of an attribute out of a word, and the word is the program's: it reads as the program would.

What a class is called says its metaclass, and ``"repr_" + word`` is whatever the word's ``__radd__`` gives: any name, read of any object and called.
"""

from __future__ import annotations

import importlib
from typing import Any

from .guards import Guards
from .identity import exact_name

_read = Guards().read
_absent = object()
_DOCTYPE = frozenset(f"_parse_doctype_{part}" for part in ("element", "attlist", "notation", "entity", "subset"))
"""The methods of ``html.parser`` that it finds in this way."""


def _getattr(o: Any, name: Any, default: Any = _absent) -> Any:
    name = exact_name(name)
    try:
        return getattr(o, name) if name in _DOCTYPE else _read(o, name)
    except AttributeError:
        if default is _absent:
            raise
        return default


def _hasattr(o: Any, name: Any) -> bool:
    return _getattr(o, name, _absent_here) is not _absent_here


_absent_here = object()


def install() -> None:
    """Put it in; `patches` does, once."""
    for name in ("reprlib", "_markupbase"):
        vars(importlib.import_module(name)).update(getattr=_getattr, hasattr=_hasattr)
