"""More places of the standard library, like those in `patches`: what it asks a program's classes, and what it writes where they lead it."""

from __future__ import annotations

import enum
import functools
import inspect
import linecache
import sys
import threading
import traceback
import types
import typing
from typing import Any

from .facades.kinds import by_identity
from .guards import Guards
from .identity import BuiltinMethod, MethodDescriptor, MethodWrapper, WrapperDescriptor, exact_name, is_library_class

_guards = Guards()


def install() -> None:
    """Put them in; `patches` does, once."""
    _no_dictionaries_by_wrappers()
    _no_writes_by_aliases()
    by_identity()
    _no_streams_of_threads()
    _no_methods_to_compare()
    _no_remembered_classes()
    _no_forged_tracebacks()


def _no_dictionaries_by_wrappers() -> None:
    """What wraps a callable is given the contents of its ``__dict__``: of a class, descriptors that nobody may read of the class itself."""
    original = functools.update_wrapper

    def update_wrapper(
        wrapper: Any,
        wrapped: Any,
        assigned: Any = functools.WRAPPER_ASSIGNMENTS,
        updated: Any = functools.WRAPPER_UPDATES,
    ) -> Any:
        if type(wrapped) is types.FunctionType:
            return original(wrapper, wrapped, assigned, updated)
        for name in assigned:
            missing = object()
            value = _guards.readable(wrapped, exact_name(name), missing)
            if value is not missing:
                setattr(wrapper, name, value)
        for name in updated:
            getattr(wrapper, name).update(_guards.readable(wrapped, exact_name(name), {}))
        wrapper.__wrapped__ = wrapped
        return wrapper

    functools.update_wrapper = update_wrapper


def _no_writes_by_aliases() -> None:
    """What is set on an alias of `typing`, a subclass's too, is set on the class that it stands for."""
    kind: Any = typing._BaseGenericAlias  # type: ignore[attr-defined]
    original = kind.__setattr__

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if not is_library_class(type(self)):
            name = exact_name(name)
            if name[:1] != "_":
                _guards.set(self.__origin__, name, value)
                return
            object.__setattr__(self, name, value)
            return
        original(self, name, value)

    kind.__setattr__ = __setattr__


class _Errors:
    """``sys.stderr``, to write to: whichever it is by then."""

    __slots__ = ()

    def write(self, text: str) -> Any:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Sys:
    """`sys` as `threading` needs it."""

    __slots__ = ()
    stderr = _Errors()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


def _no_streams_of_threads() -> None:
    """A thread keeps ``sys.stderr``, which is the guest program's, and a subclass sees what is set on its objects."""
    vars(threading)["_sys"] = _Sys()


_COMPARED = frozenset(["__repr__", "__str__", "__format__", "__reduce_ex__"])
_METHODS = frozenset(
    map(id, (types.FunctionType, types.MethodType, MethodDescriptor, WrapperDescriptor, BuiltinMethod, MethodWrapper))
)


def _no_methods_to_compare() -> None:
    """An enum compares these methods of its mixins with ``object``'s: what is no method, but an object of the program's, would be shown them."""
    absent = object()

    def getattr_(o: Any, name: Any, default: Any = absent) -> Any:
        found = getattr(o, name) if default is absent else getattr(o, name, default)
        if type(name) is str and name in _COMPARED and id(type(found)) not in _METHODS:
            return absent
        return found

    vars(enum)["getattr"] = getattr_


def _no_remembered_classes() -> None:
    """From 3.12 on `inspect` looks what all of a class's bases are up by what equals them: the metaclass of a program's class would be shown those of others."""
    module: Any = inspect
    for name in ("_shadowed_dict_from_mro_tuple", "_shadowed_dict_from_weakref_mro_tuple"):
        if hasattr(module, name):
            setattr(module, name, getattr(module, name).__wrapped__)


def _no_forged_tracebacks() -> None:
    """A traceback shows the lines of the files that its frames name: it must be one, or it names any file."""
    module: Any = traceback

    def only_real(walk: Any) -> Any:
        @functools.wraps(walk)
        def walk_real(tb: Any) -> Any:
            return walk(tb if type(tb) is types.TracebackType else None)

        return walk_real

    for name in ("walk_tb", "_walk_tb_with_full_positions"):
        if hasattr(module, name):
            setattr(module, name, only_real(getattr(module, name)))
    original = linecache.updatecache

    def updatecache(filename: Any, module_globals: Any = None) -> Any:
        if type(filename) is not str or filename[:1] == "<":  # no file, whatever folder there is of that name
            return []
        return original(filename, module_globals)

    linecache.updatecache = updatecache
