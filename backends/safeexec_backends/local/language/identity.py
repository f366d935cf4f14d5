"""Whose is it: the program's, or the library's. Decided by identity, never by asking the object.

* A class is the program's when ``__module__`` in its own dictionary *is* `MAIN`, an object that only sessions' globals hold, or one that
  `own_module` made (or when its metaclass is the program's). The interpreter puts it there before any of the program's code sees the class.
* A function is the program's when its builtins are a dictionary that `mark` made.

``type(x)`` and CPython's own flags are used throughout, never ``isinstance``: a program may answer ``__class__`` and
``__instancecheck__`` as it likes.
"""

from __future__ import annotations

import abc
import builtins
import collections
import enum
import sys
import types
import typing
from typing import Any, cast

from safeexec.guest import ImportRefused, Refused

MAIN = "".join(["__", "main", "__"])  # not the interned "__main__": its identity is the mark
_MARK = "safeexec program"
_own_modules: dict[int, str] = {id(MAIN): MAIN}


def own_module(name: str) -> str:
    """A new ``__name__`` for a namespace in which library code runs as if the program had written it."""
    # An object of its own, as MAIN is. Of a single item join() gives that, which for one character all programs share.
    made = "".join([*name, ""])
    _own_modules[id(made)] = made
    return made


_TOKEN = object()

class_dict = type.__dict__["__dict__"].__get__
class_mro = type.__dict__["__mro__"].__get__
class_module = type.__dict__["__module__"].__get__
class_name = type.__dict__["__name__"].__get__
class_flags = type.__dict__["__flags__"].__get__
_class_qualname = type.__dict__["__qualname__"].__get__
_module_dict = class_dict(types.ModuleType)["__dict__"].__get__
IS_STR, IS_EXCEPTION, IS_CLASS = 1 << 28, 1 << 30, 1 << 31  # Py_TPFLAGS_*_SUBCLASS, Include/object.h
BuiltinMethod: Any = type(len)
MethodDescriptor: Any = type(str.join)
WrapperDescriptor: Any = type(object.__setattr__)
MethodWrapper: Any = type("".__len__)
Super = super
super_self = Super.__dict__["__self__"].__get__
"""What a `super` is of. Asked by name it would answer with what a program's class on the way calls so."""
super_class = Super.__dict__["__self_class__"].__get__
"""The class whose bases a `super` goes through: what that object says that it is of, or None."""

PLAIN: dict[int, type] = {}
"""Classes of the program whose other bases hold nothing dangerous, by id: every attribute of their instances may be read.

By id, because looking a class up in a set runs ``__hash__`` and ``__eq__`` of its metaclass, which may be the program's.
"""

PLAIN_BASES: frozenset[type] = frozenset(
    [object, list, dict, set, frozenset, tuple, int, float, complex, bytes, bytearray]
    + [e for e in vars(builtins).values() if isinstance(e, type) and issubclass(e, BaseException)]
) - {AttributeError}


class AttributeRefused(AttributeError, Refused):
    """An attribute that the language policy does not show."""


class WriteRefused(TypeError, Refused):
    """A change to something that is not the program's."""


class InstanceRefused(AttributeRefused, WriteRefused):
    """The same of an object that is no class: of most CPython says by an AttributeError that they take no attributes."""


class ModuleRefused(ImportRefused, ModuleNotFoundError):
    """An import that the policy does not allow. Programs that can do without a module catch either of the built-in ones."""


class LanguageRefused(Refused):
    """Something that the language leaves out."""


def as_builtin(kind: type, name: str) -> None:
    """Show `kind` in tracebacks and by ``type(e).__name__`` as what code catches it as."""
    kind.__module__, kind.__name__, kind.__qualname__ = "builtins", name, name


as_builtin(AttributeRefused, "AttributeError")
as_builtin(WriteRefused, "TypeError")
as_builtin(InstanceRefused, "AttributeError")
as_builtin(ModuleRefused, "ImportError")
as_builtin(LanguageRefused, "PolicyError")


def mark(table: dict[str, Any]) -> dict[str, Any]:
    """Make `table` a builtins dictionary of programs."""
    table[_MARK] = _TOKEN
    return table


def is_guest_class(kind: type) -> bool:
    """Whether a program made this class."""
    while True:
        if id(class_dict(kind).get("__module__")) in _own_modules:  # they never go, so no other object has their ids
            return True
        kind = type(kind)
        if kind is type:
            return False


_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_LIBRARYS: dict[int, type] = {}


def is_library_class(kind: type) -> bool:
    """Whether `kind` is known to be the library's: what CPython has without making it, or what its module has under its name.

    The other side of `is_guest_class` proves nothing of the kind: a program says of its own classes that they are of any module. So whatever does
    more for the library than for the program asks this.
    """
    if not class_flags(kind) & _HEAP or _LIBRARYS.get(id(kind)) is kind:
        return True
    module, name = class_dict(kind).get("__module__"), _class_qualname(kind)
    if type(module) is not str or type(name) is not str:
        return False
    found: Any = sys.modules.get(module)
    if not issubclass(type(found), types.ModuleType):
        return False
    first, *rest = name.split(".")
    found = _module_dict(found).get(first)
    for part in rest:
        found = class_dict(found).get(part) if is_class(found) else None
    if found is not kind or not _has_methods_of_its_own(kind, module, name):
        return False
    _LIBRARYS[id(kind)] = kind
    return True


def as_library(kind: type) -> None:
    """Take a class for the library's that was made in a function, and so has no name in its module."""
    _LIBRARYS[id(kind)] = kind


def _has_methods_of_its_own(kind: type, module: str, qualname: str) -> bool:
    """A program may put a class where its module is said to have it, as a hook of `warnings` or ``sys.stdout``; no function of the library is called so."""
    for item in list(class_dict(kind).values()):
        if type(item) is types.FunctionType:
            # Packages say of some classes that they are a module's nearer to their top.
            if (
                cast(Any, item).__builtins__
                is builtins.__dict__  # else a program's, which may have taken its mark away
                and str(item.__module__).partition(".")[0] == module.partition(".")[0]
                and item.__qualname__.rpartition(".")[0] == qualname
            ):
                return True
        elif type(item) is MethodDescriptor or type(item) is WrapperDescriptor:
            if item.__objclass__ is kind:
                return True
    return False


def is_guest_function(function: Any) -> bool:
    """Whether this is a function that a program defined."""
    return type(function) is types.FunctionType and cast(Any, function).__builtins__.get(_MARK) is _TOKEN


def is_guest_frame(frame: types.FrameType) -> bool:
    """Whether a program's code runs in this frame."""
    return type(frame.f_builtins) is dict and frame.f_builtins.get(_MARK) is _TOKEN


def is_class(value: Any) -> bool:
    """``isinstance(value, type)``, not asking the value."""
    return bool(class_flags(type(value)) & IS_CLASS)


def is_exception(kind: type) -> bool:
    """``issubclass(kind, BaseException)``, not asking the class."""
    return bool(class_flags(kind) & IS_EXCEPTION)


def home(kind: type) -> tuple[Any, str]:
    """(module, name) of a class as the interpreter has them, not asking its metaclass."""
    return class_module(kind), class_name(kind)


def native_owner(kind: type, name: str) -> bool:
    """Whether a base of `kind` that is not the program's defines `name`."""
    return any(name in class_dict(base) and not is_guest_class(base) for base in class_mro(kind))


def passes_on(kind: type) -> bool:
    """Whether instances of `kind`, a class that is not known to be the library's, inherit that they pass on what they are asked for to another object: an alias of ``list[int]``'s kind,
    ``super``, the readers of `codecs`.

    What is the object's own could not be told from what is another's, of which the program may not have it.
    """
    if id(kind) in PLAIN or (not is_guest_class(kind) and is_library_class(kind)):
        return False
    for base in class_mro(kind):
        if (
            base is Super
            or base is types.GenericAlias
            or ("__getattr__" in class_dict(base) and not is_guest_class(base))
        ):
            return True
    return False


def plain_bases(kind: type) -> bool:
    """Whether all bases are the program's or in `PLAIN_BASES`, so that its instances inherit nothing dangerous."""
    for base in class_mro(kind):
        if id(base) not in _PLAIN_BASE_IDS and not is_guest_class(base):
            return False
    return True


# All of these by id: a program names its classes and their modules as it likes, so a name proves nothing.
_PLAIN_BASE_IDS = frozenset(
    map(id, [*PLAIN_BASES, abc.ABC, typing.Generic, typing.Protocol, collections.OrderedDict,
             collections.defaultdict, collections.deque, collections.Counter])
)  # fmt: skip
_NATIVE_METACLASSES = frozenset(
    id(getattr(module, name))
    for module, name in ((builtins, "type"), (abc, "ABCMeta"), (typing, "_ProtocolMeta"), (enum, "EnumMeta"),
                         (typing, "_TypedDictMeta"), (typing, "NamedTupleMeta"))
    if hasattr(module, name)
)  # fmt: skip


def native_metaclass(kind: type) -> bool:
    """Whether nothing of the program answers for the class `kind` itself."""
    return id(type(kind)) in _NATIVE_METACLASSES


_FACADES: dict[int, type] = {}


def as_facade(kind: type) -> None:
    """Take `kind` for a facade's class: all that its instances have may be read.

    Each by itself, not what inherits from one: a program's class may inherit from a facade and from what is no facade at once.
    """
    _FACADES[id(kind)] = PLAIN[id(kind)] = kind


def is_facade(kind: type) -> bool:
    """Whether this is a facade's class."""
    return id(kind) in _FACADES


def is_own_file(filename: str) -> bool:
    """Whether a file's name is of the program's text, which is in "<…>": where the interpreter and the sandbox lie is nobody's business."""
    return filename[:1] == "<" and not filename.startswith("<frozen")


_VALUES = (types.GetSetDescriptorType, types.MemberDescriptorType)
_function_of: typing.Callable[[Any], Any] = vars(classmethod)["__func__"].__get__


def gives_values(value: Any) -> bool:
    """Whether `value` is a descriptor of a class that is not the program's and gives what an object has, not a method of it: ``type(len).__self__``.

    Whoever binds it, a class method or the attributes of a program's class, would be given that, past all that looks at names.
    """
    return any(type(value) is kind for kind in _VALUES) and not is_guest_class(value.__objclass__)


def given_by_library(value: Any, o: Any) -> bool:
    """Whether `value`, an attribute of `o`, is a function or method that no program defined, and none that a program's class of `o` holds."""
    function = value.__func__ if type(value) is types.MethodType else value
    if any(type(function) is kind for kind in _NATIVE_CALLABLES):
        return True
    if type(function) is not types.FunctionType or is_guest_function(function):
        return False
    kinds = [*(class_mro(o) if is_class(o) else ()), *class_mro(type(o))]
    return not any(
        held is function for kind in kinds if is_guest_class(kind) for held in list(class_dict(kind).values())
    )


_NATIVE_CALLABLES = (BuiltinMethod, MethodDescriptor, WrapperDescriptor, MethodWrapper, types.ClassMethodDescriptorType)


def library_bases(kind: type) -> set[int]:
    """What `kind` inherits that is not the program's, by id."""
    return {id(base) for base in class_mro(kind) if not is_guest_class(base)}


def binds_values(value: Any) -> bool:
    """Whether `value` is a class method, or one of the program's kind, over a descriptor that gives values: up to 3.12 it binds that to whatever it is told."""
    if not any(base is classmethod for base in class_mro(type(value))):
        return False
    function = _function_of(value)
    return any(type(function) is kind for kind in _VALUES) or binds_values(function)


def describe(value: Any) -> str:
    """The kind of a value for a message, not asking the value."""
    return f"the class {class_name(value)}" if is_class(value) else f"a {class_name(type(value))} object"


def is_plain(kind: type) -> bool:
    """Whether every attribute of the instances of `kind` may be read."""
    if id(kind) in PLAIN:
        return True
    if _OTHERS.get(id(kind)) is kind:
        return False
    if is_guest_class(kind) and native_metaclass(kind) and plain_bases(kind):
        PLAIN[id(kind)] = kind
        return True
    _OTHERS[id(kind)] = kind
    return False


_OTHERS: dict[int, type] = {}
"""Classes known not to be plain."""


def exact_name(name: Any) -> str:
    """An attribute name as an exact str: a subclass could compare as one name and be another."""
    if type(name) is str:
        return name
    if class_flags(type(name)) & IS_STR:
        return str.__str__(name)
    raise TypeError(f"attribute name must be string, not {type(name).__name__!r}")
