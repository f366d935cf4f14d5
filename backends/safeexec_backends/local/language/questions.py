"""More places of the standard library, like those in `patches`: what it asks a program's classes, and what it writes where they lead it."""

from __future__ import annotations

import copy
import functools
import sys
import threading
import types
import typing
from typing import Any

from .denied import is_denied
from .facades.kinds import by_identity
from .guards import Guards
from .identity import exact_name, is_guest_class

_guards = Guards()


def install() -> None:
    """Put them in; `patches` does, once."""
    _no_dictionaries_by_wrappers()
    _no_writes_by_aliases()
    _no_questions_about_bases()
    by_identity()
    _no_streams_of_threads()
    # Whoever's metaclass says that a class is equal to this one is asked by deepcopy(), and shown it.
    vars(copy)["_deepcopy_dispatch"].pop(types.CodeType, None)


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
        if is_guest_class(type(self)):
            name = exact_name(name)
            if name[:1] != "_":
                _guards.set(self.__origin__, name, value)
                return
            object.__setattr__(self, name, value)
            return
        original(self, name, value)

    kind.__setattr__ = __setattr__


def _no_questions_about_bases() -> None:
    """``singledispatch`` asks the program's classes whether each base of a class is theirs: of a facade's, one that is never shown."""

    def issubclass_(kind: Any, other: Any) -> bool:
        return False if is_denied(kind) else issubclass(kind, other)

    def set_(items: Any) -> set[Any]:  # asked for a program's class, whose metaclass says what it equals
        return {item for item in items if not is_denied(item)}

    module: Any = functools
    order = module._compose_mro

    def _compose_mro(kind: Any, kinds: Any) -> list[Any]:  # each is then looked up among the program's
        return [base for base in order(kind, kinds) if not is_denied(base)]

    vars(module).update(issubclass=issubclass_, set=set_, _compose_mro=_compose_mro)


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
