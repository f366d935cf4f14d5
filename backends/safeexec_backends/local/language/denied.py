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
    class_mro,
)

DENIED_TYPES: set[type] = {
    types.ModuleType,
    types.FrameType,
    types.CodeType,
    types.CellType,
    _guest_program.Guest,
    _guest_program.Stream,
    _guest_program.FdChannel,
}
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


_OUR_MODULES = ("safeexec", "RestrictedPython")
_SHOWN_OF_OURS = ("safeexec_backends.local.language.facades",)


def is_denied(result: Any) -> bool:
    kind = type(result)
    if kind in DENIED_TYPES or types.ModuleType in class_mro(kind):
        return True
    if id(result) in DENIED_IDS and DENIED_IDS[id(result)] is result:
        return True
    if kind is types.MethodType:
        return id(result.__func__) in DENIED_IDS
    if kind is MethodWrapper or kind is WrapperDescriptor:
        return result.__objclass__ in _DENIED_CLASSES and result.__name__ in ("__init__", "__new__")
    if kind is BuiltinMethod and result.__name__ == "__new__":
        return result.__self__ in _DENIED_CLASSES
    module = class_module(kind)
    if type(module) is str and module.startswith(_OUR_MODULES) and not module.startswith(_SHOWN_OF_OURS):
        return (
            kind is not _guest_program.Tool and kind is not _guest_program.ToolError and not issubclass(kind, Refused)
        )
    if kind is tuple or kind is list:
        return any(type(item) in DENIED_TYPES or id(item) in DENIED_IDS for item in result)
    return is_loop(kind)


def is_loop(kind: type) -> bool:
    events = sys.modules.get("asyncio.events")
    return events is not None and events.AbstractEventLoop in class_mro(kind)


deny_class(io.FileIO)
DENIED_TYPES.add(io.FileIO)
