"""Results that are never shown to a program, whichever name gave them: the net below the rules about names."""

from __future__ import annotations

import builtins
import io
import sys
import types
from typing import Any

from safeexec import guest as _guest_program
from safeexec.guest import Refused

from .identity import (
    BuiltinMethod,
    MethodWrapper,
    WrapperDescriptor,
    class_dict,
    class_module,
)

DENIED_TYPES: dict[int, type] = {}
"""By id: looking a class up by itself asks the metaclass of a program's class whether it is one of these, and shows them."""
DENIED_IDS: dict[int, Any] = {
    id(f): f
    for f in (
        builtins.open, builtins.exec, builtins.eval, builtins.compile, builtins.__import__, builtins.globals, builtins.locals,
        builtins.vars, builtins.dir, builtins.getattr, builtins.setattr, builtins.delattr, builtins.hasattr, builtins.input,
        builtins.breakpoint, builtins.__build_class__,
        types.CodeType, types.FrameType, types.ModuleType, sys._getframe, sys.settrace, sys.setprofile,
        object.__getattribute__, object.__setattr__, object.__delattr__, type.__getattribute__, type.__setattr__,
        type.__delattr__, type.__subclasses__, object.__reduce__, object.__reduce_ex__, sys.modules, sys.meta_path,
        builtins.__dict__, _guest_program.Guest, _guest_program.Stream, _guest_program.FdChannel,
    )
}  # fmt: skip
_DENIED_CLASSES: list[type] = []


def deny_class(kind: type) -> None:
    """Never show `kind` nor its constructor: it opens any file. What is shown is a subclass that checks the path."""
    _DENIED_CLASSES.append(kind)
    for item in (kind, class_dict(kind).get("__init__"), class_dict(kind).get("__new__")):
        if item is not None:
            DENIED_IDS[id(item)] = item


def _is_denied_class(kind: Any) -> bool:
    return any(kind is denied for denied in _DENIED_CLASSES)


def deny_type(kind: type) -> None:
    """Never show an instance of `kind`."""
    DENIED_TYPES[id(kind)] = kind


_OUR_MODULES = ("safeexec", "RestrictedPython")
_SHOWN_OF_OURS = ("safeexec_backends.local.language.facades",)


def is_denied(result: Any) -> bool:
    kind = type(result)
    if id(kind) in DENIED_TYPES or issubclass(kind, types.ModuleType):
        return True
    if id(result) in DENIED_IDS and DENIED_IDS[id(result)] is result:
        return True
    if kind is types.MethodType:
        return id(result.__func__) in DENIED_IDS
    if kind is MethodWrapper or kind is WrapperDescriptor:
        return _is_denied_class(result.__objclass__) and result.__name__ in ("__init__", "__new__")
    if kind is BuiltinMethod and result.__name__ == "__new__":
        return _is_denied_class(result.__self__)
    module = class_module(kind)
    if type(module) is str and module.startswith(_OUR_MODULES) and not module.startswith(_SHOWN_OF_OURS):
        return (
            kind is not _guest_program.Tool and kind is not _guest_program.ToolError and not issubclass(kind, Refused)
        )
    if kind is tuple or kind is list:
        return any(id(type(item)) in DENIED_TYPES or id(item) in DENIED_IDS for item in result)
    return is_loop(kind)


def is_loop(kind: type) -> bool:
    events = sys.modules.get("asyncio.events")
    return events is not None and issubclass(kind, events.AbstractEventLoop)


deny_class(io.FileIO)
for _kind in (
    types.ModuleType, types.FrameType, types.CodeType, types.CellType, io.FileIO,
    _guest_program.Guest, _guest_program.Stream, _guest_program.FdChannel,
):  # fmt: skip
    deny_type(_kind)
