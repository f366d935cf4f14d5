"""What is known of the parameters of a host tool, read from its signature once for all sessions that it is given to."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from typing import Any, get_type_hints
from weakref import WeakKeyDictionary

from safeexec.errors import ToolError

_JSON_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Parameters:
    """Parameters by name, and what follows from them. Shared by sessions, and not changed but for `validators`, which each makes alike."""

    def __init__(self, named: dict[str, inspect.Parameter], doc: str = "", is_async: bool = False) -> None:
        self.named = named
        self.doc = doc
        self.is_async = is_async
        self.signature = inspect.Signature(list(named.values()))
        self.simple = all(p.kind in _POSITIONAL for p in named.values())
        self.order = list(named)
        self.required = sum(p.default is p.empty for p in named.values())
        self.positional = [p.name for p in named.values() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
        self.wanted = {
            p.name: p.annotation for p in named.values() if p.annotation is not p.empty and p.annotation is not Any
        }
        """The types of the parameters that have one."""
        self.validators: dict[str, Any] = {}
        """Of pydantic, by parameter; False for a type that it cannot check. Made by the first call that needs one."""


_MOST = 1000
_Known = WeakKeyDictionary[types.FunctionType, tuple[tuple[Any, ...], Parameters]]
_functions, _methods = _Known(), _Known()


def of_callable(source: Any, name: str) -> Parameters:
    """Those of a function, a method or an object that can be called. Raises ToolError when its signature cannot be read."""
    known, function = _functions, source
    if type(source) is types.MethodType:
        known, function = _methods, source.__func__
    # What a decorator or a caller has written on a function may say otherwise, and a method's text may be inherited: both are read anew each time.
    if type(function) is not types.FunctionType or function.__dict__ or (known is _methods and not function.__doc__):
        return _read(source, name)[0]
    try:
        state = _state(function)
    except Exception:  # Python 3.14 looks up the names of annotations only now
        return _read(source, name)[0]
    found = known.get(function)
    if found is not None and len(found[0]) == len(state) and all(map(_same, found[0], state)):
        return found[1]
    parameters, resolved = _read(source, name)
    if resolved:  # a name that is missing now may be there for the next session
        if len(known) >= _MOST:  # a type may lead back to the function, which then never goes by itself
            known.clear()
        known[function] = state, parameters
    return parameters


def _state(function: types.FunctionType) -> tuple[Any, ...]:
    """All that is read of a function; whatever of it is replaced makes it another."""
    hints = function.__annotations__
    return (
        function.__code__, function.__doc__, function.__defaults__, *(function.__kwdefaults__ or {}).values(), *hints, *hints.values()
    )  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    return one is other  # == may be anybody's


def _read(source: Any, name: str) -> tuple[Parameters, bool]:
    try:
        signature = inspect.signature(source)
    except (TypeError, ValueError) as error:
        raise ToolError(f"tool {name!r}: its signature cannot be read ({error}); wrap it in a function") from error
    resolved = True
    try:
        hints = get_type_hints(source if inspect.isroutine(source) else source.__call__, include_extras=True)
    except Exception:  # a hint that names something missing must not make the tool unusable: it is then not checked
        hints, resolved = {}, False
    named = {}
    for parameter in signature.parameters.values():
        annotation = hints.get(parameter.name, parameter.annotation)
        named[parameter.name] = parameter.replace(
            annotation=parameter.empty if isinstance(annotation, str) else annotation
        )
    return Parameters(named, inspect.getdoc(source) or "", _is_async(source)), resolved


def _is_async(source: Any) -> bool:
    # The method itself is asked, not whether there is one.
    return inspect.iscoroutinefunction(source) or inspect.iscoroutinefunction(getattr(source, "__call__", None))  # noqa: B004


def of_inputs(source: Any) -> Parameters:
    """Those of a tool with `description` and `inputs`: names, each with a JSON type, and perhaps nullable."""
    required: list[inspect.Parameter] = []
    optional: list[inspect.Parameter] = []
    for name, about in source.inputs.items():
        about = about if isinstance(about, Mapping) else {}
        wanted = about.get("type", "any")
        annotation = _JSON_TYPES.get(wanted, Any) if isinstance(wanted, str) else Any
        is_optional = bool(about.get("nullable")) or "default" in about
        if is_optional and annotation is not Any:
            annotation = annotation | None
        default = None if is_optional else inspect.Parameter.empty
        parameter = inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation
        )
        (optional if is_optional else required).append(parameter)
    return Parameters({p.name: p for p in required + optional}, str(source.description), _is_async(source))
