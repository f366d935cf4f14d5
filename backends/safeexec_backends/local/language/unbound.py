"""Methods of the library that a program takes from their class: for objects of that class.

What a method in Python sets, it sets on whatever it is called with. ``NewType.__init__`` sets ``__module__`` to the caller's, by which the wall knows what
belongs to the program: called with a class of the library it made that the program's.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

from .identity import (
    Super,
    WriteRefused,
    class_dict,
    class_mro,
    class_name,
    is_class,
    is_guest_class,
    is_guest_function,
    super_class,
    super_self,
)

_made: dict[tuple[int, int], tuple[Any, type, Any]] = {}
"""By function and class, which are kept so that their ids stay theirs."""


def of_its_own(found: Any, o: Any) -> Any:
    """`found`, as `o` gave it, or in its place a function that takes only objects of the class that defines it; a class method's, classes that inherit."""
    if type(found) is not types.FunctionType or is_guest_function(found):
        return found
    called = None
    if type(o) is Super:
        o, called = super_self(o), super_class(o)
    owner, of_classes = None, False
    for base in (base for kind in (o, type(o), called, _home(found)) if is_class(kind) for base in class_mro(kind)):
        held = class_dict(base).get(found.__name__)
        if held is found or ((type(held) is classmethod or type(held) is staticmethod) and held.__func__ is found):
            owner = base
            of_classes = type(held) is classmethod
            break
    if owner is None or is_guest_class(owner):
        return found
    key = id(found), id(owner)
    known = _made.get(key)
    if known is None:
        known = _made[key] = found, owner, _checking(found, owner, of_classes)
    return known[2]


def _home(function: Any) -> Any:
    """The class in whose text the library has `function`, which an object that is none of its own may have passed on; None where there is none."""
    if type(function.__module__) is not str:
        return None
    module, (first, *rest) = sys.modules.get(function.__module__), function.__qualname__.split(".")
    found: Any = vars(module).get(first) if rest and issubclass(type(module), types.ModuleType) else None
    for part in rest[:-1]:
        found = class_dict(found).get(part) if is_class(found) else None
    return found


def _checking(function: Any, owner: type, of_classes: bool) -> Callable[..., Any]:
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        kind = self if of_classes and is_class(self) else type(self)
        if not any(base is owner for base in class_mro(kind)):
            what = f"{class_name(owner)}.{function.__name__}()"
            raise WriteRefused(f"{what} takes objects of its own class in this sandbox")
        return function(self, *args, **kwargs)

    made: Any = call
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        setattr(made, name, getattr(function, name))
    try:
        made.__signature__ = inspect.signature(function)
    except (TypeError, ValueError):
        pass  # it has none that could be said
    return call
