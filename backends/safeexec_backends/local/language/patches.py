"""Places of the standard library that would act on a program's word with more rights than the program has.

The changes are stricter for a program's own objects only; everything else takes CPython's own way.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import inspect
import sys
import traceback
import types
import typing
import weakref
from typing import Any

from . import copying, dispatching, questions, reports, words
from .denied import is_denied
from .identity import (
    AttributeRefused,
    WriteRefused,
    class_dict,
    class_mro,
    class_name,
    exact_name,
    gives_values,
    is_class,
    is_guest_class,
    is_library_class,
    passes_on,
)


@functools.cache
def install() -> None:
    """Put them in, once."""
    copying.install()
    _no_writes_by_copies()
    _no_foreign_members()
    _no_reads_by_enum_properties()
    _no_reads_by_cached_properties()
    _no_owners_of_methods()
    _no_marks_by_constructors()
    _no_imports_for_suggestions()
    _no_names_from_signatures()
    _no_modules_by_name()
    questions.install()
    dispatching.install()
    words.install()
    reports.install()


def _no_writes_by_copies() -> None:
    """``UserDict`` and ``UserList`` write into what ``__new__`` of their ``__class__`` gives, which both may be the program's."""

    def __copy__(self: Any) -> Any:
        kind: Any = type(self)
        made = kind.__new__(kind)
        if type(made) is not kind:
            raise WriteRefused("__new__ gave an object that is not the program's")
        # Their own, not what an alias passes on: the variables of `type`, the ones of a function of the library.
        own, variables = object.__getattribute__(self, "__dict__"), object.__getattribute__(made, "__dict__")
        variables.update(own)
        variables["data"] = own["data"].copy()
        return made

    for kind in (collections.UserDict, collections.UserList):
        setattr(kind, "__copy__", __copy__)  # noqa: B010


def _no_foreign_members() -> None:
    """What stands in for an enum's members while the class is made deletes its name from any class that it is told."""
    member: Any = enum._proto_member  # type: ignore[attr-defined]
    original = member.__set_name__

    def __set_name__(self: Any, enum_class: Any, member_name: Any) -> None:
        if not is_class(enum_class) or class_dict(enum_class).get(exact_name(member_name)) is not self:
            raise WriteRefused("an enum's member belongs to its class")
        original(self, enum_class, exact_name(member_name))

    member.__set_name__ = __set_name__


def _no_reads_by_enum_properties() -> None:
    """From 3.12 on ``enum.property`` reads an attribute whose name and object stand in its own attributes."""
    kind: Any = enum.property
    if not hasattr(kind, "_attr_type"):
        return
    from .guards import Guards

    read = Guards().read
    original = kind.__get__

    def __get__(self: Any, instance: Any, ownerclass: Any = None) -> Any:
        own = type(self) is kind  # a subclass is the program's: it may answer the same question differently
        if instance is not None:
            getter = self.fget
            if getter is not None:
                return getter(instance)
            if own and self._attr_type == "attr":
                return read(self._cls_type, exact_name(self.name))
            if own and self._attr_type == "desc":
                return read(instance._value_, exact_name(self.name))
        if not own:
            raise AttributeError("a property of the program's own reads no members")
        return original(self, instance, ownerclass)

    kind.__get__ = __get__


def _no_reads_by_cached_properties() -> None:
    """``cached_property`` looks a name that is its attribute up among the variables of whatever it is asked for: of ``type``, what nobody may read."""

    def __get__(self: Any, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        name = self.attrname  # once: a subclass may answer differently the next time
        if name is None:
            raise TypeError("Cannot use cached_property instance without calling __set_name__ on it.")
        kind = type(instance)
        if type(name) is not str or not any(class_dict(base).get(name) is self for base in class_mro(kind)):
            raise AttributeRefused("a cached property reads objects of its own class in this sandbox")
        try:
            # Its own, not what an alias passes on: of `type`, what nobody may read of it.
            cache = object.__getattribute__(instance, "__dict__") if passes_on(kind) else instance.__dict__
        except AttributeError:
            text = f"No '__dict__' attribute on {class_name(kind)!r} instance to cache {name!r} property."
            raise TypeError(text) from None
        absent = object()
        found = absent if is_class(instance) else cache.get(name, absent)
        if found is absent:
            found = self.func(instance)
            try:
                cache[name] = found
            except TypeError:
                text = f"The '__dict__' attribute on {class_name(kind)!r} instance does not support item assignment for caching {name!r} property."
                raise TypeError(text) from None
        return found

    setattr(functools.cached_property, "__get__", __get__)  # noqa: B010


def _no_owners_of_methods() -> None:
    """A method leads to what it belongs to: of ``len``, a module. ``WeakMethod`` refers to that, ``partialmethod`` writes it down."""
    make = weakref.WeakMethod.__new__

    def __new__(cls: Any, meth: Any, callback: Any = None) -> Any:
        if type(meth) is not types.MethodType:
            # What passes on attributes has another's `__self__`, and its class is called with that.
            raise TypeError(f"argument should be a bound method, not {type(meth)}")
        if is_denied(meth.__self__) or is_denied(meth.__func__):
            raise AttributeRefused("what this method belongs to is not available in this sandbox")
        return make(cls, meth, callback)

    setattr(weakref.WeakMethod, "__new__", staticmethod(__new__))  # noqa: B010
    kind: Any = functools.partialmethod
    original = kind.__get__

    def __get__(self: Any, obj: Any, cls: Any = None) -> Any:
        function = self.func
        if gives_values(function):
            # It would keep what `__func__` of a method gives, or `__self__`.
            raise AttributeRefused("a partial method binds functions in this sandbox")
        made = original(self, obj, cls)
        if type(made) is functools.partial and is_denied(made.__dict__.get("__self__")):
            del made.__dict__["__self__"]
        return made

    kind.__get__ = __get__


def _no_marks_by_constructors() -> None:
    """These set ``__module__``, by which the wall knows what belongs to the program, on whatever they are called with."""
    for kind in (typing.NewType, typing.TypeVarTuple, functools.cached_property):
        original = class_dict(kind).get("__init__")
        if type(original) is types.FunctionType:  # else in C, which looks at its object
            _check_self(kind, original)


def _check_self(kind: Any, original: Any) -> None:
    # From 3.12 on NewType asks for the function's own module, and keeps none of typing's.
    unknown = __name__ if kind is typing.NewType else None

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if not any(base is kind for base in class_mro(type(self))):
            raise WriteRefused(f"{class_name(kind)}.__init__() takes objects of its own class in this sandbox")
        original(self, *args, **kwargs)
        if vars(self).get("__module__", unknown) == __name__:  # it took this frame for who calls it
            self.__module__ = sys._getframe(1).f_globals.get("__name__", "__main__")

    del __init__.__wrapped__
    __init__.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    kind.__init__ = __init__


def _no_modules_by_name() -> None:
    """``dataclass`` looks the names in annotations that are text up in the module of the interpreter that the class says it is of.

    A program's modules are not there; the facade has put the few names that mean something in their places.
    """
    original = dataclasses._is_type  # type: ignore[attr-defined]

    def is_type(annotation: Any, cls: Any, *rest: Any) -> Any:
        return False if is_guest_class(cls) else original(annotation, cls, *rest)

    dataclasses._is_type = is_type  # type: ignore[attr-defined]


def _no_names_from_signatures() -> None:
    """``inspect`` (``dataclass`` too) evaluates the names in ``__text_signature__``, in the module that ``__module__`` names."""
    original = inspect._signature_fromstr  # type: ignore[attr-defined]
    text_of_class = type.__dict__["__text_signature__"].__get__

    def from_string(kind: Any, obj: Any, text: Any, *rest: Any) -> Any:
        if is_class(obj):
            # CPython's own, not what a metaclass or the class itself says: of a program's class that is out of its docstring.
            text = text_of_class(obj) if is_library_class(obj) else None
        elif not any(type(obj) is kind for kind in _NATIVE_CALLABLES):
            text = None  # by identity: a metaclass says what equals its class
        if type(text) is not str:
            raise ValueError("no signature found")
        return original(kind, obj, text, *rest)

    inspect._signature_fromstr = from_string  # type: ignore[attr-defined]


_NATIVE_CALLABLES = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)  # fmt: skip


def _no_imports_for_suggestions() -> None:
    """From 3.12 on the traceback of an ImportError imports the module that it names, to find similar names in it."""
    original = getattr(traceback, "_compute_suggestion_error", None)
    if original is None:
        return

    def suggest(error: Any, tb: Any, wrong_name: Any) -> Any:
        return None if isinstance(error, ImportError) else original(error, tb, wrong_name)

    setattr(traceback, "_compute_suggestion_error", suggest)  # noqa: B010  # not in its stub
