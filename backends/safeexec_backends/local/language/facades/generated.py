"""The methods that ``dataclasses`` writes, as code of the program whose class they are for.

As the library compiles them they read and set attributes of whatever they are called with: ``A.__init__(json.JSONEncoder, …)`` would change the
library, ``A.__eq__`` of a class with a field called ``_loop`` would show an event loop. So they look at what they are called with, and do for
anything but the program's plain objects what the program's own code would do: their source goes through its language then.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import functools
import re
import threading
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import (
    MAIN,
    class_dict,
    class_mro,
    exact_name,
    is_facade,
    is_guest_class,
    is_library_class,
    is_plain,
)

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

_now = threading.local()


@contextlib.contextmanager
def methods_of(language: RestrictedLanguage, kind: type) -> Iterator[None]:
    """What `dataclasses` generates meanwhile, in this thread, is the program's, for its class `kind`."""
    _install()
    before = getattr(_now, "language", None), getattr(_now, "kind", None)
    _now.language, _now.kind = language, kind
    try:
        yield
    finally:
        _now.language, _now.kind = before


def is_in_work(kind: type) -> bool:
    """Whether `kind` is the program's class for which methods are generated, whatever module it says by now that it is of."""
    return getattr(_now, "kind", None) is kind


_FIT: dict[int, type] = {}
"""Classes of the program of whose instances all may be read and set, by id."""


def _is_fit(kind: type) -> bool:
    if is_plain(kind) and not is_facade(kind):  # object.__setattr__ does not ask a facade
        _FIT[id(kind)] = kind
        return True
    return False


def _exec(text: str, space: dict[str, Any], names: dict[str, Any]) -> None:
    """Run what `dataclasses` wrote. For instances of plain classes the methods do it directly, after one look; for all else through the language."""
    language: RestrictedLanguage | None = getattr(_now, "language", None)
    if language is None:  # of a library
        builtins.exec(_compiled(text), space, names)
        return
    if not _is_known(text):
        language.run(language.compile_one(text, "<string>", "exec"), {"__name__": MAIN}, names)
        return
    guard = functools.partial(_guarded, language, text)
    known = {"__safeexec_id__": id, "__safeexec_type__": type, "__safeexec_fit__": _FIT, "__safeexec_is_fit__": _is_fit,
             "__safeexec_guard__": guard, "__safeexec_given__": locals, "__name__": MAIN, "__builtins__": _BUILTINS}  # fmt: skip
    builtins.exec(_compiled(_looking_first(text)), known, names)


def _compiled(text: str) -> types.CodeType:
    """Without what this file has from ``__future__``: annotations would be the names that `dataclasses` writes, not what they stand for."""
    return compile(text, "<string>", "exec", dont_inherit=True)


def _looking_first(text: str) -> str:
    """`text` with a look at the objects at the beginning of each method. No field has a name with double underscores around it."""
    first, *lines = text.split("\n")
    made = [first, " __safeexec_guarded__=__safeexec_guard__(__safeexec_given__())"]
    for line in lines:
        made.append(line)
        method = _METHOD(line)
        if method is None:
            continue
        name, listed = method.groups()
        parameters = [part.partition(":")[0].partition("=")[0].strip() for part in listed.split(",")]
        positional, _, named = ",".join(parameters).partition("*,")
        looks = [_LOOK.format(p) for p in (parameters[:2] if parameters[1:] == ["other"] else parameters[:1])]
        passed = [positional.strip(",")] + [f"{p}={p}" for p in named.split(",") if p]
        made.append(f"  if {' or '.join(looks)}: return __safeexec_guarded__({name!r})({','.join(passed)})")
    return "\n".join(made)


_BUILTINS = {"hash": hash, "type": type, "super": super, "NotImplemented": NotImplemented}


def _lines() -> str:
    """What a line of the library's text may be. Its words are names, and nothing else: a field could say another name each time it is asked."""
    word, field = r"[^\W\d]\w*", r"(?!__)[^\W\d]\w*"
    value = rf"(?:{word}|{word}\(\)|{word}\(\) if {word} is {word} else {word})"
    default = r"(?:=(?:_dflt_\w+|_HAS_DEFAULT_FACTORY|__dataclass_\w+__))?"
    argument = rf"(?:\*|{word}(?::{word})?{default})"
    shown = rf"{field}=\{{self\.{field}!r\}}"
    every = rf"(?:{shown}(?:, {shown})*)?"
    one, other = rf"\((?:self\.{field},)*\)", rf"\((?:other\.{field},)*\)"
    terms = rf"self\.{field}==other\.{field}"
    quoted = rf"'{field}'"
    return "|".join([
        rf" def __\w+__\({argument}(?:, ?{argument})*\)(?:->{word})?:",
        rf"  (?:self|__dataclass_self__)\.{field}={value}",
        rf"  __dataclass_builtins_object__\.__setattr__\((?:self|__dataclass_self__), ?[\"']{field}[\"'], ?{value}\)",
        rf"  (?:self|__dataclass_self__)\.__post_init__\((?:{word}(?:,{word})*)?\)",
        r"  pass",
        rf'  return self\.__class__\.__qualname__ \+ f"\({every}\)"',
        rf'  return f"\{{self\.__class__\.__qualname__\}}\({every}\)"',
        r"  if other\.__class__ is self\.__class__:", r"  if self is other:", r"   return True", r"  return NotImplemented",
        rf"   return {one}(?:==|<=?|>=?){other}",
        rf"   return {terms}(?: and {terms})*",
        rf"  return hash\({one}\)",
        rf"  if type\(self\) is cls(?: or name in (?:\((?:{quoted},)*\)|\{{{quoted}(?:, {quoted})*\}}|\(\)|\{{\}}))?:",
        r'   raise FrozenInstanceError\(f"cannot (?:assign to|delete) field \{name!r\}"\)',
        r"  super\(cls, self\)\.__(?:setattr__\(name, value|delattr__\(name)\)",
        r" @__dataclasses_recursive_repr\(\)",
        rf" return (?:{word}|\((?:{word},)*\))",
    ])  # fmt: skip


_FIRST = re.compile(r"def __create_fn__\((?:[^\W\d]\w*(?:, ?[^\W\d]\w*)*)?\):").fullmatch
_LINE = re.compile(_lines()).fullmatch


def _is_known(text: str) -> bool:
    first, *lines = text.split("\n")
    return "__safeexec" not in text and _FIRST(first) is not None and all(map(_LINE, lines))


_METHOD = re.compile(r" def (__\w+__)\((.*)\)(?:->\w+)?:$").match
_LOOK = "(__safeexec_id__(__safeexec_type__({0})) not in __safeexec_fit__ and not __safeexec_is_fit__(__safeexec_type__({0})))"


def _guarded(language: RestrictedLanguage, text: str, given: dict[str, Any]) -> Callable[[str], Any]:
    """The same methods in the program's language, made when one is wanted."""
    made: dict[str, Any] = {}

    def find(name: str) -> Any:
        if not made:
            names: dict[str, Any] = {}
            language.run(language.compile_one(text, "<string>", "exec"), {"__name__": MAIN}, names)
            found = names["__create_fn__"](**given)
            made.update({f.__name__: f for f in (found if type(found) is tuple else (found,))})
        return made[name]

    return find


def _librarys(o: Any) -> bool:
    """Whether `o` is an instance of a dataclass that no program made: it answers for its own fields."""
    for kind in class_mro(type(o)):
        if is_guest_class(kind) or not is_library_class(kind):
            return False
        if "__dataclass_fields__" in class_dict(kind):
            return True
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

    replace = getattr(module, "_replace", None)  # from 3.13 on a method of every dataclass
    if replace is not None:

        def _replace(self: Any, /, **changes: Any) -> Any:
            return replace(self, **changes) if _librarys(self) else replaced(guards, self, changes)

        module._replace = _replace
    _dataclass_getstate.guarded = True  # type: ignore[attr-defined]
    module._dataclass_getstate, module._dataclass_setstate = _dataclass_getstate, _dataclass_setstate


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
