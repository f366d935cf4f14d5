"""warnings, whose hooks a program may set, and what the interpreter warns about."""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import (
    WriteRefused,
    as_facade,
    exact_name,
    is_guest_class,
    is_guest_frame,
)

from .facade import Facade
from .written import DEPRECATED, written

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]
_NOBODY = 1_000_000
"""A level at which there is no frame: the interpreter then says "sys"."""


def _warnings(language: RestrictedLanguage) -> Exports:
    import contextlib
    import warnings

    @contextlib.contextmanager
    def catch_warnings(*, record: bool = False, action: Any = None, category: Any = Warning, lineno: int = 0,
                       append: bool = False) -> Any:  # fmt: skip
        """As `warnings.catch_warnings`, which would show the module itself to a subclass."""
        with warnings.catch_warnings(record=record) as log:
            if action is not None:
                warnings.simplefilter(action, category, lineno, append)
            yield log

    def formatwarning(message: Any, category: Any, filename: Any, lineno: Any, line: Any = None) -> str:
        """As `warnings.formatwarning`, which would read the line from any file."""
        return warnings.formatwarning(message, category, filename, lineno, "" if line is None else line)

    def warn(message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, **options: Any) -> None:
        """As `warnings.warn`."""
        # Where it is from: a frame of the program's. Others would say where the interpreter and the sandbox lie.
        frame: Any = sys._getframe(1)
        level, found = 1, _NOBODY
        while frame is not None and level <= max(1, operator.index(stacklevel)):
            if is_guest_frame(frame) and frame.f_code.co_filename[:1] == "<":
                found = level
            frame = frame.f_back
            level += 1
        warnings.warn(message, category, found + 1, source if is_guest_class(type(source)) else None)

    def showwarning(
        message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None
    ) -> None:
        """As `warnings.showwarning`."""
        text = formatwarning(message, category, filename, lineno, line)
        (language.streams.shown("stderr") if file is None else file).write(text)

    shown = ("simplefilter", "filterwarnings", "resetwarnings", "WarningMessage")
    exports: Exports = {n: getattr(warnings, n) for n in shown}
    exports |= {"catch_warnings": catch_warnings, "warn": warn}
    own = {"showwarning": showwarning, "formatwarning": formatwarning}
    originals = {name: getattr(warnings, name) for name in own}

    def getter(name: str) -> Callable[[Any], Any]:
        def get(self: Any) -> Any:
            now = getattr(warnings, name)
            return own[name] if now is originals[name] else now

        return get

    def assign(self: Any, name: str, value: Any) -> None:
        name = exact_name(name)
        if name not in own or not callable(value):
            raise WriteRefused(f"warnings.{name} cannot be set to that in this sandbox")
        setattr(warnings, name, originals[name] if value is own[name] else value)

    def deprecated(self: Any) -> Any:
        if not made:
            build = language.gate.build
            given = {
                "warn": warn,
                "wraps": build("functools").wraps,
                "iscoroutinefunction": build("inspect").iscoroutinefunction,
            }
            made.append(written(language, "warnings", DEPRECATED, "deprecated", given))
        return made[0]

    made: list[Any] = []
    later = {"deprecated": property(deprecated)} if hasattr(warnings, "deprecated") else {}
    body: dict[str, Any] = {
        "__slots__": (), "__module__": Facade.__module__, "__name__": "warnings", "__setattr__": assign,
        "__all__": sorted([*exports, *own, *later]), "__dir__": lambda self: list(type(self).__all__),
        **{name: staticmethod(value) if isinstance(value, types.FunctionType) else value for name, value in exports.items()},
        **{name: property(getter(name)) for name in own}, **later,
    }  # fmt: skip
    kind = type("module", (Facade,), body)
    as_facade(kind)
    return {"": object.__new__(kind)}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {"warnings": _warnings}
