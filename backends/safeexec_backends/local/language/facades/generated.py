"""The methods that ``dataclasses`` writes, as code of the program whose class they are for.

As the library compiles them they read and set attributes of whatever they are called with: ``A.__init__(json.JSONEncoder, …)`` would change the
library, ``A.__eq__`` of a class with a field called ``_loop`` would show an event loop. So their source goes through the program's language.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import (
    MAIN,
    class_dict,
    class_mro,
    exact_name,
    is_guest_class,
)

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

_now = threading.local()


@contextlib.contextmanager
def methods_of(language: RestrictedLanguage) -> Iterator[None]:
    """What `dataclasses` generates meanwhile, in this thread, is the program's."""
    _install()
    before = getattr(_now, "language", None)
    _now.language = language
    try:
        yield
    finally:
        _now.language = before


def _exec(text: str, space: dict[str, Any], names: dict[str, Any]) -> None:
    language: RestrictedLanguage | None = getattr(_now, "language", None)
    if language is None:  # of a library
        builtins.exec(text, space, names)
        return
    language.run(language.compile_one(text, "<string>", "exec"), {"__name__": MAIN}, names)


def _librarys(o: Any) -> bool:
    """Whether `o` is an instance of a dataclass that no program made: it answers for its own fields."""
    for kind in class_mro(type(o)):
        if "__dataclass_fields__" in class_dict(kind):
            return not is_guest_class(kind)
        if is_guest_class(kind):
            return False
    return False


def _install() -> None:
    module: Any = dataclasses
    module.exec = _exec
    if hasattr(module._dataclass_getstate, "guarded"):
        return
    from safeexec_backends.local.language.guards import Guards

    guards = Guards()
    getstate, setstate = module._dataclass_getstate, module._dataclass_setstate

    def _dataclass_getstate(self: Any) -> Any:
        if _librarys(self):
            return getstate(self)
        return [guards.read(self, exact_name(f.name)) for f in dataclasses.fields(self)]

    def _dataclass_setstate(self: Any, state: Any) -> None:
        if _librarys(self):
            setstate(self, state)
            return
        for f, value in zip(dataclasses.fields(self), state, strict=False):
            guards.set_natively(self, exact_name(f.name), value)

    _dataclass_getstate.guarded = True  # type: ignore[attr-defined]
    module._dataclass_getstate, module._dataclass_setstate = _dataclass_getstate, _dataclass_setstate
    replace = getattr(module, "_replace", None)  # from 3.13 on a method of every dataclass
    if replace is not None:

        def _replace(self: Any, /, **changes: Any) -> Any:
            return replace(self, **changes) if _librarys(self) else replaced(guards, self, changes)

        module._replace = _replace


def replaced(guards: Any, obj: Any, changes: dict[str, Any]) -> Any:
    """`obj` anew with `changes`, its fields read as the program itself would."""
    for f in obj.__dataclass_fields__.values():
        kind = f._field_type.name if hasattr(f._field_type, "name") else ""
        if kind == "_FIELD_CLASSVAR":
            continue
        name = exact_name(f.name)
        if not f.init:
            if name in changes:
                raise ValueError(f"field {name} is declared with init=False, it cannot be specified with replace()")
            continue
        if name not in changes:
            if kind == "_FIELD_INITVAR" and f.default is dataclasses.MISSING:
                raise ValueError(f"InitVar {name!r} must be specified with replace()")
            changes[name] = guards.read(obj, name)
    return type(obj)(**changes)
