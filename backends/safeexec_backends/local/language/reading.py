"""What a compiled program may read of an object.

`identity` says what is the program's, `denied` what is never shown, `names` which attribute names need a look at all.
"""

from __future__ import annotations

import builtins
import functools
import types
from collections.abc import Callable
from typing import Any

from . import names
from .denied import DENIED_TYPES, is_denied, is_loop
from .identity import (
    IS_STR,
    PLAIN,
    AttributeRefused,
    BuiltinMethod,
    MethodDescriptor,
    MethodWrapper,
    Super,
    WrapperDescriptor,
    binds_values,
    class_dict,
    class_flags,
    class_mro,
    describe,
    exact_name,
    given_by_library,
    gives_values,
    home,
    is_class,
    is_exception,
    is_facade,
    is_guest_class,
    is_guest_function,
    is_plain,
    native_owner,
    passes_on,
    plain_bases,
    super_class,
    super_self,
)
from .unbound import of_its_own

Reader = Callable[[Any, str], Any]
"""How an attribute is loaded once it may be: `getattr`, or the ``__getattribute__`` that a program calls from its own."""


_FRAMES = ("gi_frame", "cr_frame", "ag_frame")
_SUSPENDED = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)

_BUILTIN_TYPES = frozenset(id(kind) for kind in vars(builtins).values() if type(kind) is type) - {id(type)}
_BUILTIN_EXCEPTIONS = frozenset(id(kind) for kind in vars(builtins).values() if is_class(kind) and is_exception(kind))
"""Of what inherits from a class, a program sees its own and these, which it has by their names."""
OPEN_TYPES = frozenset(map(id, [types.SimpleNamespace, functools.partial, type(functools.lru_cache(lambda: None))]))
"""Attributes of their objects may be set, and so their `__dict__` is shown itself."""


class Reading:
    """The guards of one session that read attributes; `special` and `dunders` have the names that need more than a yes or no."""

    def __init__(self) -> None:
        from .formatting import make

        self._formatting: Any = None
        self._make_formatting = make
        self.special: dict[str, Callable[[Any, str, Reader], Any]] = {
            "format": self._format,
            "format_map": self._format,
            "mro": self._mro,
            "detach": self._detach,
            "get_loop": self._get_loop,
            "cell_contents": self._cell,
            **dict.fromkeys(_FRAMES, self._frame),
            "f_back": self._of_frame,
            "f_code": self._of_frame,
            "co_names": self._of_code,
            "tb_frame": self._of_traceback,
            "setconfig": self._of_database,
            "blobopen": self._of_database,
        }
        self.dunders: dict[str, Callable[[Any, str, Reader], Any]] = {
            "__dict__": lambda o, n, reader: self.variables(o, reader),
            "__subclasses__": self._subclasses,
            "__getattribute__": self._get_method,
            "__get__": self._descriptor,
            "__set__": self._descriptor,
            "__delete__": self._descriptor,
            "__code__": self._code,
            "__closure__": self._closure,
            "__dataclass_fields__": self._fields,
            "__kwdefaults__": self._own_or_copy,
            "__annotations__": self._own_or_copy,
            "__init__": self._method,
            "__func__": self._function,
            "__getstate__": self._getstate,
        }

    def read(self, o: Any, name: str) -> Any:
        """``o.name`` for an exact str `name`.

        :raises AttributeRefused: for what the policy does not show.
        """
        if type(name) is not str:  # a subclass could compare as one name and be another
            name = exact_name(name)
        if id(type(o)) in PLAIN and name not in names.SPECIAL and name[-2:] != "__":
            return getattr(o, name)
        return self._read(o, name, getattr)

    def _read(self, o: Any, name: str, reader: Reader) -> Any:
        if issubclass(type(o), types.ModuleType) or is_loop(type(o)):
            return self._refuse(o, name)
        if name[:1] != "_" and name not in names.SUSPECT:
            result = reader(o, name)
            return self._refuse(o, name) if is_denied(result) else result
        result = self._read_suspected(o, name, reader)
        if name not in names.DUNDER_DIRECT and gives_values(result):
            return self._refuse(o, name)
        return result

    def _read_suspected(self, o: Any, name: str, reader: Reader) -> Any:
        kind = type(o)
        is_plain(kind)  # if so, the next time without a call
        if passes_on(kind) and not is_class(o):
            reader = object.__getattribute__
        if name[:1] == "_":
            if name[:2] == "__" and name[-2:] == "__":
                handler = self.dunders.get(name)
                if handler is not None:
                    return handler(o, name, reader)
                if not self._may_read_dunder(o, kind, name):
                    return self._refuse(o, name)
            elif name not in names.PRIVATE_OK and not self._may_read_private(o, kind, name):
                return self._refuse(o, name)
        else:
            handler = self.special.get(name)
            if handler is not None:
                return handler(o, name, reader)
            if name not in names.SOFT and not is_facade(kind) and not self._may_read_private(o, kind, name):
                return self._refuse(o, name)
        result = reader(o, name)
        # What was there a moment ago is no proof: the name may be a key that equals it once, or gone by now, and CPython then has its own.
        if is_denied(result) or (name in names.DUNDER_OWN and given_by_library(result, o)):
            return self._refuse(o, name)
        return result

    def _getstate(self, o: Any, name: str, reader: Reader) -> Any:
        found = reader(o, name)
        if type(found) is BuiltinMethod and not is_class(o) and is_guest_class(type(o)):
            from .copying import state_of

            try:
                return state_of(o, self.readable(o, "__dict__", None))
            except AttributeError:
                return self._refuse(o, name)
        return found if self._may_read_dunder(o, type(o), name) else self._refuse(o, name)

    def _refuse(self, o: Any, name: str) -> Any:
        raise AttributeRefused(f"{name!r} of {describe(o)} is not available in this sandbox")

    def _may_read_dunder(self, o: Any, kind: type, name: str) -> bool:
        if name in names.DUNDER_READ or (is_facade(kind) and name in class_dict(kind)):
            return True
        if name in ("__globals__", "__builtins__", "__closure__", "__loader__", "__spec__", "__cached__"):
            return False
        # Defined by the program and by nobody else on the way: its own hook or its own invention.
        function = o.__func__ if kind is types.MethodType else o
        if is_guest_function(function):
            return not native_owner(kind, name) and not native_owner(types.FunctionType, name)
        if kind is Super:
            return is_guest_function(getattr(getattr(o, name, None), "__func__", None))
        if is_class(o):
            return is_guest_class(o) and not native_owner(o, name) and not native_owner(kind, name)
        if is_guest_class(kind):
            if name in names.DUNDER_OWN:
                for base in class_mro(kind):
                    if name in class_dict(base):
                        return is_guest_class(base)
                return False
            return not native_owner(kind, name)
        return False

    def _may_read_private(self, o: Any, kind: type, name: str) -> bool:
        if is_guest_class(kind):
            return not native_owner(kind, name) and not (is_class(o) and native_owner(o, name))
        if is_class(o):
            return is_guest_class(o) and not native_owner(o, name) and not native_owner(kind, name)
        if kind is Super:
            of = super_self(o)
            return not any(native_owner(k, name) for k in (type(of), super_class(o), of) if is_class(k))
        return is_guest_function(o) or kind is types.SimpleNamespace

    def check(self, value: Any, name: str) -> None:
        """Refuse a dangerous value that `name` gave."""
        if is_denied(value):
            raise AttributeRefused(f"{name!r} is not available in this sandbox")

    def readable(self, o: Any, name: str, default: Any) -> Any:
        """`read`, or `default` where there is no such attribute."""
        try:
            return self.read(o, name)
        except AttributeError:
            return default

    def _formatters(self) -> Any:
        if self._formatting is None:
            self._formatting = self._make_formatting(self.read)
        return self._formatting

    @property
    def formatter(self) -> type:
        """``string.Formatter`` whose fields are guarded."""
        kind: type = self._formatters()[0]
        return kind

    def _format(self, o: Any, name: str, reader: Reader) -> Any:
        found = reader(o, name)
        kind = type(found)
        safe = self._formatters()[1 if name == "format" else 2]
        if kind is BuiltinMethod and class_flags(type(found.__self__)) & IS_STR and found.__name__ in names.FORMATS:
            return functools.partial(self._formatters()[1 if found.__name__ == "format" else 2], found.__self__)
        if kind is MethodDescriptor and found.__objclass__ is str:
            return safe
        owner = home(type(getattr(found, "__self__", None)))
        if owner in (("logging", "StrFormatStyle"), ("logging", "StringTemplateStyle")):  # hand theirs to str.format
            return self._refuse(o, name)
        if kind is types.MethodType and not is_guest_function(found.__func__):
            data = getattr(found.__self__, "data", None)
            if found.__func__.__module__ == "collections":  # UserString hands its template to str.format
                return functools.partial(safe, str(data))
        elif kind is types.FunctionType and found.__module__ == "collections" and not is_guest_function(found):
            return self._refuse(o, name)
        if is_denied(found):
            return self._refuse(o, name)
        return found

    def _mro(self, o: Any, name: str, reader: Reader) -> Any:
        found = reader(o, name)
        if type(found) is BuiltinMethod and is_class(found.__self__):
            return lambda: self._shown(found)  # no partial: its `func` would lead to the guards
        if type(found) is MethodDescriptor or is_denied(found):
            return self._refuse(o, name)
        return found

    def _shown(self, function: Callable[[], Any]) -> Any:
        result = function()
        if is_denied(result):
            raise AttributeRefused("what this returns is not available in this sandbox")
        return result

    def _detach(self, o: Any, name: str, reader: Reader) -> Any:
        found = reader(o, name)
        owner = getattr(found, "__self__", None)
        if type(found) is BuiltinMethod and type(owner).__name__.startswith("Buffered"):
            return self._refuse(o, name)  # the raw file's class opens any path
        if type(found) is MethodDescriptor and found.__objclass__.__module__ == "_io":
            return self._refuse(o, name)
        return found

    def _get_loop(self, o: Any, name: str, reader: Reader) -> Any:
        found = reader(o, name)
        function = found.__func__ if type(found) is types.MethodType else found
        if is_guest_function(function):
            return found
        if type(function) is types.FunctionType and function.__module__ == f"{__package__}.facades.aio":
            return found  # it gives the view of a loop
        return self._refuse(o, name)

    def _subclasses(self, o: Any, name: str, reader: Reader) -> Any:
        found = reader(o, name)
        if type(found) is BuiltinMethod and is_class(found.__self__):
            kind = found.__self__
            return lambda: [c for c in type.__subclasses__(kind) if is_guest_class(c) or id(c) in _BUILTIN_EXCEPTIONS]
        return self._refuse(o, name)

    def _descriptor(self, o: Any, name: str, reader: Reader) -> Any:
        kind = type(o)
        if binds_values(super_self(o) if kind is Super else o):
            return self._refuse(o, name)
        allowed = (types.FunctionType, types.MethodType, property, classmethod, staticmethod, MethodDescriptor)
        if kind in allowed or is_guest_class(kind):
            return reader(o, name)
        if kind is Super:
            return reader(o, name)
        if is_class(o) and is_guest_class(o) and is_guest_function(found := reader(o, name)):
            return found  # of the program's own descriptor class
        return self._refuse(o, name)

    def _fields(self, o: Any, name: str, reader: Reader) -> Any:
        # Read-only: their names become source text when a class that inherits them is made a dataclass. A copy: the other operand of == and | is
        # given the very dictionary that a proxy stands for.
        found = reader(o, name)
        return types.MappingProxyType(dict(found)) if type(found) is dict else found

    def _own_or_copy(self, o: Any, name: str, reader: Reader) -> Any:
        # The dictionary itself belongs to the function: whoever holds it exchanges what json.dumps() is called with, for everybody.
        found = reader(o, name)
        function: Any = o.__func__ if type(o) is types.MethodType else o
        own = is_guest_class(function) if is_class(function) else is_guest_function(function)
        if is_denied(found):
            return self._refuse(o, name)
        return dict(found) if type(found) is dict and not own else found

    def _method(self, o: Any, name: str, reader: Reader) -> Any:
        found = reader(o, name)
        return self._refuse(o, name) if is_denied(found) else of_its_own(found, o)

    def _function(self, o: Any, name: str, reader: Reader) -> Any:
        found = reader(o, name)
        if is_denied(found):
            return self._refuse(o, name)
        if type(o) is not types.MethodType:
            return found
        return of_its_own(found, o.__self__)

    def _code(self, o: Any, name: str, reader: Reader) -> Any:
        function = o.__func__ if type(o) is types.MethodType else o
        if not is_guest_function(function):
            return self._refuse(o, name)
        from .facades.views import code_view

        return code_view(function.__code__)

    def _closure(self, o: Any, name: str, reader: Reader) -> Any:
        function = o.__func__ if type(o) is types.MethodType else o
        if not is_guest_function(function):
            return self._refuse(o, name)
        if function.__closure__ is None:
            return None
        from .facades.views import cell_view

        return tuple(map(cell_view, function.__code__.co_freevars, function.__closure__))

    def _cell(self, o: Any, name: str, reader: Reader) -> Any:
        from .facades.views import CellView

        if type(o) is not CellView:
            return self._own(o, name, reader)
        try:
            found = o.cell_contents
        except AttributeError:
            raise ValueError("Cell is empty") from None
        if is_denied(found):
            return self._refuse(o, name)
        return found

    def _frame(self, o: Any, name: str, reader: Reader) -> Any:
        if any(type(o) is kind for kind in _SUSPENDED) and getattr(o, name) is None:
            return None  # it has ended
        return self._own(o, name, reader)

    def _of_frame(self, o: Any, name: str, reader: Reader) -> Any:
        from .facades.frames import FrameView

        return reader(o, name) if type(o) is FrameView else self._own(o, name, reader)

    def _of_code(self, o: Any, name: str, reader: Reader) -> Any:
        from .builtins_ import Code, names_of

        return names_of(o) if type(o) is Code else self._own(o, name, reader)

    def _of_traceback(self, o: Any, name: str, reader: Reader) -> Any:
        from .facades.frames import of_traceback

        return of_traceback(o) if type(o) is types.TracebackType else self._own(o, name, reader)

    def _of_database(self, o: Any, name: str, reader: Reader) -> Any:
        found = reader(o, name)
        if type(found) is not BuiltinMethod:
            return self._own(o, name, reader)
        from .facades.databases import CHECKED

        return CHECKED[name](found)

    def _own(self, o: Any, name: str, reader: Reader) -> Any:
        """What a name of `names.SUSPECT` gives where the program itself defined it."""
        kind = type(o)
        if not is_facade(kind) and not self._may_read_private(o, kind, name):
            return self._refuse(o, name)
        found = reader(o, name)
        if is_denied(found):
            return self._refuse(o, name)
        return found

    def _get_method(self, o: Any, name: str, reader: Reader) -> Any:
        found: Any = reader(o, name)
        if is_guest_function(found) or (type(found) is types.MethodType and is_guest_function(found.__func__)):
            return found
        if type(found) is MethodWrapper:
            target = found.__self__
            return lambda n: self._read(target, exact_name(n), lambda _, m: found(m))
        if type(found) is WrapperDescriptor:
            return lambda target, n: self._read(target, exact_name(n), lambda o, m: found(o, m))
        return self._refuse(o, name)

    def variables(self, o: Any, reader: Reader = getattr) -> Any:
        """``o.__dict__``: the thing itself where it is the program's, else a copy of what is public."""
        kind = type(o)
        if is_class(o):
            if is_guest_class(o):
                shown = dict(class_dict(o))
                if "__dataclass_fields__" in shown:
                    shown["__dataclass_fields__"] = self._fields(o, "__dataclass_fields__", getattr)
                return types.MappingProxyType(shown)
            if id(o) in _BUILTIN_TYPES:  # what reading each name would give, and no descriptor that would give more
                missing = object()
                found = {n: self.readable(o, n, missing) for n in class_dict(o) if n != "__dict__"}  # that is this
                return types.MappingProxyType({n: v for n, v in found.items() if v is not missing})
            return self._refuse(o, "__dict__")
        if issubclass(kind, types.ModuleType) or id(kind) in DENIED_TYPES:
            return self._refuse(o, "__dict__")
        if is_facade(kind):  # a copy of what it shows
            missing = object()
            names_ = ["__name__", "__doc__", *(n for n in dir(o) if type(n) is str)]
            shown = {n: self.readable(o, n, missing) for n in names_}
            return {n: v for n, v in shown.items() if v is not missing}
        if passes_on(kind):
            reader = object.__getattribute__
        found = reader(o, "__dict__")  # raises AttributeError where there is none
        if type(found) is types.MethodType and found.__self__ is o and is_guest_function(found.__func__):
            return found  # a method that the program calls so
        if type(found) is not dict:  # of the class that a proxy or an alias stands for
            return self._refuse(o, "__dict__")
        if is_guest_class(kind) and plain_bases(kind):
            return found
        if is_guest_function(o) or id(kind) in OPEN_TYPES or (is_exception(kind) and not is_guest_class(kind)):
            if not any(map(is_denied, list(found.values()))):  # the library may have put it there
                return found
        own = is_guest_class(kind)
        shown = {k: v for k, v in dict(found).items() if type(k) is str and (own or k[:1] != "_")}
        return {k: v for k, v in shown.items() if not is_denied(v)}
