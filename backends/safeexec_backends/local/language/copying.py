"""`copy`, which reads and sets attributes by names that a program's classes give it.

CPython's own reducer reads whatever a class lists in ``__slotnames__``, and what comes of it is handed to the program's ``__setstate__``; what a
reducer calls an object's state is written into the object. For a program's objects both are done here as the program itself would.
"""

from __future__ import annotations

import copy
import copyreg
import types
import typing
from collections.abc import Callable
from typing import Any

from . import names
from .denied import is_denied
from .guards import Guards
from .identity import (
    BuiltinMethod,
    WriteRefused,
    class_dict,
    class_module,
    class_mro,
    class_name,
    exact_name,
    is_class,
    is_exception,
    is_guest_class,
    is_library_class,
    passes_on,
)

_guards = Guards()
_CONTAINERS = frozenset(map(id, (list, dict, set)))


def install() -> None:
    """Put them in; `patches` does, once."""
    module: Any = copy
    module._reconstruct = _reconstruct
    module.getattr = _getattr
    if hasattr(module, "replace"):  # from 3.13 on
        module.replace = _replace
    # Whoever's metaclass says that a class is equal to this one is asked by copy() and deepcopy(), and shown it.
    for name, table in list(vars(module).items()):
        if type(table) is dict:
            table.pop(types.CodeType, None)
        elif type(table) is set or type(table) is frozenset:  # from 3.14 on
            setattr(module, name, type(table)(kind for kind in table if kind is not types.CodeType))
    # It holds compiled code of its text, which is in no language of ours.
    module._deepcopy_dispatch[typing.ForwardRef] = lambda reference, memo: reference


def _reconstruct(
    x: Any, memo: Any, func: Any, args: Any, state: Any = None, listiter: Any = None, dictiter: Any = None, **_: Any
) -> Any:
    # A program's __reduce__ names any object it can reach, and copy would write `state` into it, by any name. The reducer may also hang on
    # an object of the library (SimpleNamespace, an exception), so what is made is looked at whatever `x` is.
    def anew(item: Any) -> Any:
        return item if memo is None else copy.deepcopy(item, memo)

    args = tuple(args)
    if func is getattr:  # how a method says what it is: by the name that its function has now
        func = _guards.read
    own = func is copyreg.__newobj__ and is_class(args[0]) and is_guest_class(args[0])  # type: ignore[attr-defined]
    # An alias of `typing` is looked up by its name among all that the module has.
    if not own and any(is_denied(item) for item in (func, *args)):
        raise WriteRefused("__reduce__ gave what is not available in this sandbox")
    made = func(*[anew(item) for item in args])
    if not own and is_denied(made):
        raise WriteRefused("__reduce__ gave what is not available in this sandbox")
    kind = type(made)
    fills = state is not None or listiter is not None or dictiter is not None
    if fills and (is_class(made) or not (kind is type(x) or is_guest_class(kind) or id(kind) in _CONTAINERS)):
        raise WriteRefused("__reduce__ gave an object that is not the program's")
    if memo is not None:
        memo[id(x)] = made
    if state is not None:
        _fill(made, anew(state))
    for item in () if listiter is None else listiter:
        made.append(anew(item))
    for key, value in () if dictiter is None else dictiter:
        key, value = anew(key), anew(value)
        made[key] = value
    return made


_namespaces_replace = class_dict(types.SimpleNamespace).get("__replace__")


def _replace(obj: Any, /, **changes: Any) -> Any:
    kind = obj.__class__
    function = getattr(kind, "__replace__", None)
    if function is None:
        raise TypeError(f"replace() does not support {kind.__name__} objects")
    if function is not _namespaces_replace or type(obj) is types.SimpleNamespace:
        return function(obj, **changes)
    # CPython's own believes that a class makes namespaces when it is called, and writes where one would have its variables: a function has its module's there.
    kind = type(obj)
    variables = dict(_namespaces_variables(obj))  # asked of a namespace alone
    made = kind()
    if not issubclass(type(made), types.SimpleNamespace):
        name, other = class_name(kind), class_name(type(made))
        raise TypeError(f"expect {name} type, but {name}() returned {other!r} object")
    _namespaces_variables(made).update(variables | changes)
    return made


_namespaces_variables: Any = class_dict(types.SimpleNamespace)["__dict__"].__get__


def _reader(kind: type) -> Callable[[Any, str, Any], Any]:
    """How an attribute of a `kind` is loaded: not what its object passes on, the variables of a function of the library, the ``__setstate__`` of an exception."""
    return _own if passes_on(kind) else getattr


def _own(o: Any, name: str, default: Any) -> Any:
    try:
        return object.__getattribute__(o, name)
    except AttributeError:
        return default


def _variables(o: Any, kind: type) -> Any:
    return object.__getattribute__(o, "__dict__") if passes_on(kind) else o.__dict__


def _fill(made: Any, state: Any) -> None:
    """Give `made` its state; what attributes are set is set as the program itself would, or ``__class__`` would make a guard's word a lie."""
    kind = type(made)
    read = _reader(kind)
    set_state = read(made, "__setstate__", None)
    if set_state is not None:
        if is_exception(kind) and issubclass(type(state), dict):  # each of them becomes an attribute
            state = {exact_name(name): value for name, value in dict.items(state)}
            if any(name[:2] == "__" and name not in names.EXCEPTION_DUNDERS for name in state):
                raise WriteRefused("the state of a copy names what cannot be set in this sandbox")
        set_state(state)
        return
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    if state is not None:
        _variables(made, kind).update(state)
    for name, value in [] if slots is None else list(slots.items()):
        if is_library_class(kind):
            setattr(made, exact_name(name), value)
        else:
            _guards.set(made, exact_name(name), value)


def _state(variables: Any, slots: dict[str, Any]) -> Any:
    return (variables or None, slots) if slots else variables or None


def state_of(o: Any, variables: Any) -> Callable[[], Any]:
    """What reading ``__getstate__`` of an object of the program's gives where that is `object`'s own: CPython's reads whatever its class lists in ``__slotnames__``.

    :param variables: its ``__dict__``, as the program reads that.
    :raises AttributeError: when its class has another.
    """
    kind = type(o)
    if not _is_objects(kind, "__getstate__"):
        raise AttributeError(f"{class_name(kind)!r} object has a state of its own")

    def __getstate__() -> Any:
        return _state(variables, _slots(o, kind))

    return __getstate__


_absent = object()


def _getattr(o: Any, name: str, default: Any = _absent) -> Any:
    found = getattr(o, name) if default is _absent else getattr(o, name, default)
    if name == "__reduce_ex__" and type(found) is BuiltinMethod:
        kind = type(o)
        simple = _is_objects(kind, "__reduce__")
        if not is_guest_class(kind):
            # All that is in an object goes into the memo of deepcopy(), which the program may hold.
            ours = str(class_module(kind)).startswith("safeexec") and class_name(kind) not in _OPEN
            if is_denied(o) or (simple and ours):
                raise TypeError(f"cannot pickle {class_name(kind)!r} object")
        if not is_library_class(kind):
            if found != _native["__reduce_ex__"].__get__(o):
                return found
            return _reducer(o) if simple else lambda protocol: o.__reduce__()
    return found


_OPEN = frozenset(["attrgetter", "methodcaller", "FrameSummary"])
"""Classes of ours whose objects hold nothing but what the program gave them."""


_read_of_class = type.__dict__["__getattribute__"]
_native = {name: object.__dict__[name] for name in ("__reduce_ex__", "__reduce__", "__getstate__")}


def _is_objects(kind: type, name: str) -> bool:
    """Whether `kind` has the method that every object has."""
    if type(kind) is type:
        return _read_of_class(kind, name) is _native[name]
    return next(base for base in class_mro(kind) if name in class_dict(base)) is object


class _Plain:
    pass


_POINTER = 8


def _reducer(o: Any) -> Callable[[int], Any]:
    """What ``object.__reduce_ex__`` gives, of `o`'s own variables and slots."""

    def reduce(protocol: int) -> Any:
        kind = type(o)
        read = _reader(kind)
        args: Any = ()
        named: Any = None
        given = read(o, "__getnewargs_ex__", None)
        if given is not None:
            args, named = given()
        else:
            given = read(o, "__getnewargs__", None)
            if given is not None:
                args = given()
        if type(args) is not tuple or (named is not None and type(named) is not dict):
            raise TypeError("__getnewargs__ should return a tuple")
        slots = _slots(o, kind)
        if given is None and not issubclass(kind, list | dict):
            room = type.__dict__["__basicsize__"].__get__(kind) - _POINTER * _count(kind)
            if room > _Plain.__basicsize__ and _is_objects(kind, "__getstate__"):
                raise TypeError(f"cannot pickle {class_name(kind)!r} object")
        state = read(o, "__getstate__", None) if not _is_objects(kind, "__getstate__") else None
        if state is not None:
            state = state()
        else:
            state = _state(read(o, "__dict__", None), slots)
        items = iter(o) if issubclass(kind, list) else None
        pairs = iter(o.items()) if issubclass(kind, dict) else None
        if named:
            return copyreg.__newobj_ex__, (kind, args, named), state, items, pairs  # type: ignore[attr-defined]
        return copyreg.__newobj__, (kind, *args), state, items, pairs  # type: ignore[attr-defined]

    return reduce


def _members(kind: type) -> list[Any]:
    """The slots of the program's classes: the members that the interpreter made, by no name that could be anything else."""
    known = _MEMBERS.get(id(kind))
    if known is None:
        found = [
            member
            for base in class_mro(kind)
            if is_guest_class(base)
            for member in class_dict(base).values()
            if type(member) is types.MemberDescriptorType and member.__objclass__ is base
        ]
        known = _MEMBERS[id(kind)] = kind, found
    return known[1]


_MEMBERS: dict[int, tuple[type, list[Any]]] = {}


def _count(kind: type) -> int:
    return len(_members(kind))


def _slots(o: Any, kind: type) -> dict[str, Any]:
    found = {}
    for member in _members(kind):
        try:
            found[member.__name__] = member.__get__(o, kind)
        except AttributeError:
            pass
    return found
