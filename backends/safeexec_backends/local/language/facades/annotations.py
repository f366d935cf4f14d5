"""What annotations stand for: ``typing.get_type_hints``, with texts evaluated in the program's language."""

from __future__ import annotations

import contextlib
import functools
import operator
import types
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import (
    class_dict,
    class_mro,
    exact_name,
    is_class,
    is_facade,
    is_guest_class,
    is_guest_function,
)

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

# By their very types: a program may say of its own objects that they are aliases, and would be handed what stands in them.
_NAMED = "_GenericAlias _CallableGenericAlias _UnionGenericAlias _ConcatenateGenericAlias _AnnotatedAlias".split()
_ALIASES = [kind for name in _NAMED if type(kind := vars(typing).get(name)) is type]
_ANNOTATED = vars(typing)["_AnnotatedAlias"]
_ANNOTATES = frozenset(("__annotations__", "__annotate_func__", "__annotations_cache__"))
"""Of these a class has one that annotates something itself: the first, or from 3.14 on one of the others."""
_OF_A_KEY = [getattr(typing, name) for name in ("Required", "NotRequired", "ReadOnly") if hasattr(typing, name)]


def type_hints(
    language: RestrictedLanguage, obj: Any, globals: Any = None, locals: Any = None, extras: bool = False
) -> dict[str, Any]:
    """As ``typing.get_type_hints``: a text is evaluated in the globals of the program's module that it is from."""

    def resolve(value: Any, space: dict[str, Any]) -> Any:
        if value is None:
            return type(None)
        if type(value) is typing.ForwardRef:
            value = value.__forward_arg__
        if isinstance(value, str):
            return resolve(_evaluated(language, value, space, dict(locals or {}) | dict(globals or {})), space)
        return _with_parts(value, lambda part, text: resolve(part, space) if text else part)

    found: dict[str, Any] = {}

    def add(annotations: Any, space: dict[str, Any]) -> None:
        for name, value in dict(annotations).items():
            hint = resolve(value, space)
            found[exact_name(name)] = hint if extras else _bare(hint)

    if is_class(obj):
        for base in reversed(class_mro(obj)):
            if is_guest_class(base) and not _ANNOTATES.isdisjoint(vars(base)):
                add(getattr(base, "__annotations__", {}), _space_of(language, base))
    else:
        add(language.guards.read(obj, "__annotations__") or {}, _space_of(language, obj))
    return found


@contextlib.contextmanager
def checked_annotations(cls: type, check: Callable[[str, Any], Any]) -> Iterator[Callable[[type], None]]:
    """Meanwhile a class annotates what `check` makes of each name and value; from Python 3.14 on, where a function of the program's says it when it is asked.

    Whoever reads the names then finds those that were checked, and not what that function says the next time. Yields what does to a class that was made of
    it what is done to the class itself in the end: it is annotated as it was.
    """
    import annotationlib  # type: ignore[import-not-found, unused-ignore]  # not before 3.14

    own = class_dict(cls)
    said, cached = own.get("__annotate_func__"), own.get("__annotations_cache__")
    # What they are annotated with may not be there yet: the class itself, say.
    found = annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    type.__setattr__(cls, "__annotations__", {name: check(name, value) for name, value in dict(found).items()})

    def restore(kind: type) -> None:
        if said is not None:
            type.__setattr__(kind, "__annotate__", said)
        else:
            type.__setattr__(kind, "__annotations__", found if cached is None else cached)

    try:
        yield restore
    finally:
        restore(cls)


def own_annotations(
    language: RestrictedLanguage, obj: Any, globals: Any = None, locals: Any = None, eval_str: bool = False
) -> dict[str, Any]:
    """As ``inspect.get_annotations``, of what the program may read.

    :raises TypeError: for what is no class, function or module.
    """
    if not is_class(obj) and not callable(obj) and not is_facade(type(obj)):
        raise TypeError(f"{obj!r} is not a module, class, or callable.")
    found = dict(language.guards.readable(obj, "__annotations__", None) or {})
    if not eval_str:
        return found
    names = dict(language.guards.variables(obj)) if is_class(obj) else {}
    names |= dict(globals or {}) | dict(locals or {})
    space = _space_of(language, obj)
    return {k: _evaluated(language, v, space, names) if isinstance(v, str) else v for k, v in found.items()}


def _space_of(language: RestrictedLanguage, obj: Any) -> dict[str, Any]:
    """The globals of the program's module that a class or function is from."""
    # By identity, and no other dictionary: from one that the program made it could take __builtins__, and eval() would put the real ones in.
    if is_class(obj):
        module = class_dict(obj).get("__module__")
        return next((s for s in language.gate.own.spaces() if s.get("__name__") is module), language.main)
    function = obj.__func__ if type(obj) is types.MethodType else obj
    if is_guest_function(function):
        return next((s for s in language.gate.own.spaces() if s is function.__globals__), language.main)
    return language.main


def _evaluated(language: RestrictedLanguage, text: str, space: dict[str, Any], names: dict[str, Any]) -> Any:
    from safeexec_backends.local.language.builtins_ import run_with

    code = language.compile_one(str.__str__(text), "<annotation>", "eval")
    return run_with(language.fresh_builtins(), eval, code, space, names)


def _with_parts(value: Any, change: Callable[[Any, bool], Any]) -> Any:
    """The alias `value` with what `change` makes of each of its arguments, of which it is told whether that is a text to be evaluated; anything else
    as it is.
    """
    kind = type(value)
    if kind is types.GenericAlias:
        if getattr(value, "__unpacked__", False):
            return value
    elif kind is not types.UnionType and not any(kind is known for known in _ALIASES):
        return value
    parts = value.__args__

    def changed(part: Any) -> Any:
        text = type(part) is typing.ForwardRef or (kind is types.GenericAlias and type(part) is str)
        return change(_with_parts(part, change), text)

    new = tuple(map(changed, parts))
    if all(a is b for a, b in zip(new, parts, strict=True)):
        return value
    if kind is types.GenericAlias:
        return types.GenericAlias(value.__origin__, new)
    if kind is types.UnionType:
        return functools.reduce(operator.or_, new)
    return value.copy_with(new)


def _bare(value: Any) -> Any:
    """A hint without what ``Annotated`` adds to it, and what a ``TypedDict`` says of its keys."""
    while type(value) is _ANNOTATED or (
        any(type(value) is known for known in _ALIASES) and any(value.__origin__ is known for known in _OF_A_KEY)
    ):
        value = value.__origin__ if type(value) is _ANNOTATED else value.__args__[0]
    return _with_parts(value, lambda part, _: _bare(part))
