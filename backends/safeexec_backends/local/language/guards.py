"""What compiled programs call at run time: reading, writing, matching.

Whether something belongs to the program is decided by identity, never by asking the object:

* a class is the program's when ``__module__`` in its own dictionary *is* `MAIN`, an object that only sessions' globals hold (or when its
  metaclass is the program's). The interpreter puts it there before any of the program's code sees the class;
* a function is the program's when its builtins are a dictionary that `mark` made.

``type(x)`` is used throughout, never ``isinstance``: a program may answer ``__class__`` and ``__instancecheck__`` as it likes.
"""

from __future__ import annotations

import builtins
import functools
import io
import sys
import types
from collections.abc import Callable
from typing import Any, cast

from safeexec import guest as _guest_program
from safeexec.guest import ImportRefused, Refused

from . import names

MAIN = "".join(["__", "main", "__"])  # not the interned "__main__": its identity is the mark
_MARK = "safeexec program"
_TOKEN = object()

_class_dict = type.__dict__["__dict__"].__get__
_class_mro = type.__dict__["__mro__"].__get__
_class_module = type.__dict__["__module__"].__get__
_class_name = type.__dict__["__name__"].__get__
_class_flags = type.__dict__["__flags__"].__get__
_IS_STR, _IS_EXCEPTION, _IS_CLASS = 1 << 28, 1 << 30, 1 << 31  # Py_TPFLAGS_*_SUBCLASS, Include/object.h
_BuiltinMethod: Any = type(len)
_MethodDescriptor: Any = type(str.join)
_WrapperDescriptor: Any = type(object.__setattr__)
_MethodWrapper: Any = type("".__len__)
_Super = super

PLAIN: set[type] = set()
"""Classes of the program whose other bases hold nothing dangerous: every attribute of their instances may be read."""

PLAIN_BASES: frozenset[type] = frozenset(
    [object, list, dict, set, frozenset, tuple, int, float, complex, bytes, bytearray]
    + [e for e in vars(builtins).values() if isinstance(e, type) and issubclass(e, BaseException)]
) - {AttributeError}


class AttributeRefused(AttributeError, Refused):
    """An attribute that the language policy does not show."""


class WriteRefused(TypeError, Refused):
    """A change to something that is not the program's."""


class ModuleRefused(ImportRefused):
    """An import that the policy does not allow."""


class LanguageRefused(Refused):
    """Something that the language leaves out."""


def as_builtin(kind: type, name: str) -> None:
    """Show `kind` in tracebacks and by ``type(e).__name__`` as what code catches it as."""
    kind.__module__, kind.__name__, kind.__qualname__ = "builtins", name, name


as_builtin(AttributeRefused, "AttributeError")
as_builtin(WriteRefused, "TypeError")
as_builtin(ModuleRefused, "ImportError")
as_builtin(LanguageRefused, "PolicyError")


def mark(table: dict[str, Any]) -> dict[str, Any]:
    """Make `table` a builtins dictionary of programs."""
    table[_MARK] = _TOKEN
    return table


def is_guest_class(kind: type) -> bool:
    """Whether a program made this class."""
    while True:
        if _class_dict(kind).get("__module__") is MAIN:
            return True
        kind = type(kind)
        if kind is type:
            return False


def is_guest_function(function: Any) -> bool:
    """Whether this is a function that a program defined."""
    return type(function) is types.FunctionType and cast(Any, function).__builtins__.get(_MARK) is _TOKEN


def is_guest_frame(frame: types.FrameType) -> bool:
    """Whether a program's code runs in this frame."""
    return type(frame.f_builtins) is dict and frame.f_builtins.get(_MARK) is _TOKEN


def is_class(value: Any) -> bool:
    """``isinstance(value, type)``, not asking the value."""
    return bool(_class_flags(type(value)) & _IS_CLASS)


def is_exception(kind: type) -> bool:
    """``issubclass(kind, BaseException)``, not asking the class."""
    return bool(_class_flags(kind) & _IS_EXCEPTION)


def _home(kind: type) -> tuple[Any, str]:
    """(module, name) of a class as the interpreter has them, not asking its metaclass."""
    return _class_module(kind), _class_name(kind)


def _native_owner(kind: type, name: str) -> bool:
    """Whether a base of `kind` that is not the program's defines `name`."""
    return any(name in _class_dict(base) and not is_guest_class(base) for base in _class_mro(kind))


def plain_bases(kind: type) -> bool:
    """Whether all bases are the program's or in `PLAIN_BASES`, so that its instances inherit nothing dangerous."""
    for base in _class_mro(kind):
        if base not in PLAIN_BASES and not is_guest_class(base):
            if _home(base) not in _PLAIN_NAMES:
                return False
    return True


_PLAIN_NAMES = {("abc", "ABC"), ("typing", "Generic"), ("typing", "Protocol"), ("collections", "OrderedDict"),
                ("collections", "defaultdict"), ("collections", "deque"), ("collections", "Counter")}  # fmt: skip
"""Further plain bases, by name: a program's own class of that name is the program's anyway."""
_PLAIN_METACLASSES = {("builtins", "type"), ("abc", "ABCMeta"), ("typing", "_ProtocolMeta"), ("enum", "EnumType"),
                      ("enum", "EnumMeta"), ("typing", "_TypedDictMeta"), ("typing", "NamedTupleMeta")}  # fmt: skip


def native_metaclass(kind: type) -> bool:
    """Whether nothing of the program answers for the class `kind` itself."""
    meta = type(kind)
    return _home(meta) in _PLAIN_METACLASSES and not is_guest_class(meta)


# -- results that are never shown ------------------------------------------------------------------------------------------

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
    for item in (kind, _class_dict(kind).get("__init__"), _class_dict(kind).get("__new__")):
        if item is not None:
            DENIED_IDS[id(item)] = item


_OUR_MODULES = ("safeexec", "RestrictedPython")
_SHOWN_OF_OURS = ("safeexec_backends.local.language.facades",)


def _is_denied(result: Any) -> bool:
    kind = type(result)
    if kind in DENIED_TYPES or types.ModuleType in _class_mro(kind):
        return True
    if id(result) in DENIED_IDS and DENIED_IDS[id(result)] is result:
        return True
    if kind is types.MethodType:
        return id(result.__func__) in DENIED_IDS
    if kind is _MethodWrapper or kind is _WrapperDescriptor:
        return result.__objclass__ in _DENIED_CLASSES and result.__name__ in ("__init__", "__new__")
    if kind is _BuiltinMethod and result.__name__ == "__new__":
        return result.__self__ in _DENIED_CLASSES
    module = _class_module(kind)
    if type(module) is str and module.startswith(_OUR_MODULES) and not module.startswith(_SHOWN_OF_OURS):
        return (
            kind is not _guest_program.Tool and kind is not _guest_program.ToolError and not issubclass(kind, Refused)
        )
    if kind is tuple or kind is list:
        return any(type(item) in DENIED_TYPES or id(item) in DENIED_IDS for item in result)
    return _is_loop(kind)


def _is_facade(kind: type) -> bool:
    return (_FACADES, "Facade") in [_home(base) for base in _class_mro(kind)]


_FACADES = "safeexec_backends.local.language.facades"


def _is_loop(kind: type) -> bool:
    events = sys.modules.get("asyncio.events")
    return events is not None and events.AbstractEventLoop in _class_mro(kind)


def describe(value: Any) -> str:
    """The kind of a value for a message, not asking the value."""
    return f"the class {_class_name(value)}" if is_class(value) else f"a {_class_name(type(value))} object"


deny_class(io.FileIO)
DENIED_TYPES.add(io.FileIO)


class Guards:
    """The guards of one session.

    :param third_party: top-level names of real packages that the user allowed; their objects may be written to.
    """

    def __init__(self, third_party: frozenset[str] = frozenset()) -> None:
        from .formatting import make

        self._third_party = third_party
        self._formatting: Any = None
        self._patterns: dict[tuple[int, tuple[str, ...], bool], tuple[type, type]] = {}
        self._make_formatting = make
        self.special: dict[str, Callable[[Any, str], Any]] = {
            "format": self._format,
            "format_map": self._format,
            "mro": self._mro,
            "detach": self._detach,
            "get_loop": self._get_loop,
        }
        self.dunders: dict[str, Callable[[Any, str], Any]] = {
            "__dict__": lambda o, n: self.variables(o),
            "__subclasses__": self._subclasses,
            "__setattr__": self._set_method,
            "__delattr__": self._set_method,
            "__getattribute__": self._get_method,
            "__get__": self._descriptor,
            "__set__": self._descriptor,
            "__delete__": self._descriptor,
            "__code__": self._code,
        }

    # -- reading -----------------------------------------------------------------------------------------------------------

    def read(self, o: Any, name: str) -> Any:
        """``o.name`` for an exact str `name`.

        :raises AttributeRefused: for what the policy does not show.
        """
        if type(o) in PLAIN and name not in names.SPECIAL and name[-2:] != "__":
            return getattr(o, name)
        return self._read(o, name, getattr)

    def _read(self, o: Any, name: str, reader: Callable[[Any, str], Any]) -> Any:
        kind = type(o)
        if types.ModuleType in _class_mro(kind) or _is_loop(kind):
            return self._refuse(o, name)
        if name[:1] == "_":
            if name[:2] == "__" and name[-2:] == "__":
                handler = self.dunders.get(name)
                if handler is not None:
                    return handler(o, name)
                if not self._may_read_dunder(o, kind, name):
                    return self._refuse(o, name)
            elif name not in names.PRIVATE_OK and not self._may_read_private(o, kind, name):
                return self._refuse(o, name)
        elif name in names.SUSPECT:
            handler = self.special.get(name)
            if handler is not None:
                return handler(o, name)
            if name not in names.SOFT and not _is_facade(kind) and not self._may_read_private(o, kind, name):
                return self._refuse(o, name)
        result = reader(o, name)
        if _is_denied(result):
            return self._refuse(o, name)
        return result

    def _refuse(self, o: Any, name: str) -> Any:
        raise AttributeRefused(f"{name!r} of {describe(o)} is not available in this sandbox")

    def _may_read_dunder(self, o: Any, kind: type, name: str) -> bool:
        if name in names.DUNDER_READ or (_is_facade(kind) and name in _class_dict(kind)):
            return True
        if name in ("__globals__", "__builtins__", "__closure__", "__loader__", "__spec__", "__cached__"):
            return False
        # Defined by the program and by nobody else on the way: its own hook or its own invention.
        if kind is _Super:
            return is_guest_function(getattr(getattr(o, name, None), "__func__", None))
        if is_class(o):
            return is_guest_class(o) and not _native_owner(o, name) and not _native_owner(kind, name)
        if is_guest_class(kind):
            if name in names.DUNDER_OWN:
                for base in _class_mro(kind):
                    if name in _class_dict(base):
                        return is_guest_class(base)
                return False
            return not _native_owner(kind, name)
        return False

    def _may_read_private(self, o: Any, kind: type, name: str) -> bool:
        if is_guest_class(kind):
            is_plain(kind)  # the next time without a call
            return not _native_owner(kind, name) and not (is_class(o) and _native_owner(o, name))
        if is_class(o):
            return is_guest_class(o) and not _native_owner(o, name) and not _native_owner(kind, name)
        if kind is _Super:
            owner = type(o.__self__)
            return not _native_owner(owner, name) and not (is_class(o.__self__) and _native_owner(o.__self__, name))
        return is_guest_function(o) or kind is types.SimpleNamespace

    def check(self, value: Any, name: str) -> None:
        """Refuse a dangerous value that `name` gave."""
        if _is_denied(value):
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

    def _format(self, o: Any, name: str) -> Any:
        found = getattr(o, name)
        kind = type(found)
        safe = self._formatters()[1 if name == "format" else 2]
        if kind is _BuiltinMethod and _class_flags(type(found.__self__)) & _IS_STR and found.__name__ in names.FORMATS:
            return functools.partial(self._formatters()[1 if found.__name__ == "format" else 2], found.__self__)
        if kind is _MethodDescriptor and found.__objclass__ is str:
            return safe
        owner = _home(type(getattr(found, "__self__", None)))
        if owner in (("logging", "StrFormatStyle"), ("logging", "StringTemplateStyle")):  # hand theirs to str.format
            return self._refuse(o, name)
        if kind is types.MethodType and not is_guest_function(found.__func__):
            data = getattr(found.__self__, "data", None)
            if found.__func__.__module__ == "collections":  # UserString hands its template to str.format
                return functools.partial(safe, str(data))
        elif kind is types.FunctionType and found.__module__ == "collections" and not is_guest_function(found):
            return self._refuse(o, name)
        if _is_denied(found):
            return self._refuse(o, name)
        return found

    def _mro(self, o: Any, name: str) -> Any:
        found = getattr(o, name)
        if type(found) is _BuiltinMethod and is_class(found.__self__):
            return functools.partial(self._shown, found)
        if type(found) is _MethodDescriptor or _is_denied(found):
            return self._refuse(o, name)
        return found

    def _shown(self, function: Callable[[], Any]) -> Any:
        result = function()
        if _is_denied(result):
            raise AttributeRefused("what this returns is not available in this sandbox")
        return result

    def _detach(self, o: Any, name: str) -> Any:
        found = getattr(o, name)
        owner = getattr(found, "__self__", None)
        if type(found) is _BuiltinMethod and type(owner).__name__.startswith("Buffered"):
            return self._refuse(o, name)  # the raw file's class opens any path
        if type(found) is _MethodDescriptor and found.__objclass__.__module__ == "_io":
            return self._refuse(o, name)
        return found

    def _get_loop(self, o: Any, name: str) -> Any:
        found = getattr(o, name)
        if is_guest_function(found) or is_guest_function(getattr(found, "__func__", None)):
            return found
        return self._refuse(o, name)

    def _subclasses(self, o: Any, name: str) -> Any:
        found = getattr(o, name)
        if type(found) is _BuiltinMethod and is_class(found.__self__):
            kind = found.__self__
            return lambda: [c for c in type.__subclasses__(kind) if is_guest_class(c)]
        return self._refuse(o, name)

    def _descriptor(self, o: Any, name: str) -> Any:
        kind = type(o)
        allowed = (types.FunctionType, types.MethodType, property, classmethod, staticmethod, _MethodDescriptor)
        if kind in allowed or is_guest_class(kind):
            return getattr(o, name)
        if kind is _Super:
            return getattr(o, name)
        return self._refuse(o, name)

    def _code(self, o: Any, name: str) -> Any:
        function = o.__func__ if type(o) is types.MethodType else o
        if not is_guest_function(function):
            return self._refuse(o, name)
        from .facades.views import CodeView

        return CodeView(function.__code__)

    def _get_method(self, o: Any, name: str) -> Any:
        found: Any = getattr(o, name)
        if is_guest_function(found) or (type(found) is types.MethodType and is_guest_function(found.__func__)):
            return found
        if type(found) is _MethodWrapper:
            target = found.__self__
            return lambda n: self._read(target, exact_name(n), lambda _, m: found(m))
        if type(found) is _WrapperDescriptor:
            return lambda target, n: self._read(target, exact_name(n), lambda o, m: found(o, m))
        return self._refuse(o, name)

    def _set_method(self, o: Any, name: str) -> Any:
        found: Any = getattr(o, name)
        if is_guest_function(found) or (type(found) is types.MethodType and is_guest_function(found.__func__)):
            return found
        if type(found) is _MethodWrapper or type(found) is types.MethodType:
            target: Any = found.__self__

            def bound(n: str, /, *value: Any) -> None:
                n = exact_name(n)
                self._may_write_natively(target, n, *value)
                found(n, *value)

            return bound
        if type(found) in (_WrapperDescriptor, types.FunctionType):

            def unbound(target: Any, n: str, /, *value: Any) -> None:
                n = exact_name(n)
                self._may_write_natively(target, n, *value)
                found(target, n, *value)

            return unbound
        return self._refuse(o, name)

    def variables(self, o: Any) -> Any:
        """``o.__dict__``: the thing itself where it is the program's, else a copy of what is public."""
        kind = type(o)
        if is_class(o):
            if is_guest_class(o):
                return types.MappingProxyType(dict(_class_dict(o)))
            return self._refuse(o, "__dict__")
        if types.ModuleType in _class_mro(kind) or kind in DENIED_TYPES:
            return self._refuse(o, "__dict__")
        found = getattr(o, "__dict__")  # noqa: B009  # raises AttributeError where there is none
        if is_guest_class(kind) and plain_bases(kind):
            return found
        if is_guest_function(o) or kind in _OPEN_TYPES or (is_exception(kind) and not is_guest_class(kind)):
            return found
        own = is_guest_class(kind)
        shown = {k: v for k, v in dict(found).items() if type(k) is str and (own or k[:1] != "_")}
        return {k: v for k, v in shown.items() if not _is_denied(v)}

    # -- writing -----------------------------------------------------------------------------------------------------------

    def writable(self, o: Any) -> Any:
        """`o`, of which attributes without double underscores may be set and deleted.

        :raises WriteRefused: when it is not the program's: a change to a shared class or module would outlive its cause.
        """
        kind = type(o)
        if is_plain(kind) or is_guest_class(kind):
            return o
        if is_class(o):
            if is_guest_class(o):
                return o
        elif (
            is_guest_function(o)
            or kind in _OPEN_TYPES
            or is_exception(kind)
            or _home(kind) in _OPEN_NAMES
            or self._is_third_party(kind)
            or any(_home(base) == ("ast", "AST") for base in _class_mro(kind))  # compile() reads their text, not them
            or _is_facade(kind)  # says itself what may be set: sys.stdout
        ):
            return o
        raise WriteRefused(f"attributes of {describe(o)} cannot be changed in this sandbox")

    def _is_third_party(self, kind: type) -> bool:
        if not self._third_party:
            return False
        module = _class_module(kind)
        return type(module) is str and module.partition(".")[0] in self._third_party

    def updatable(self, o: Any, name: str) -> Any:
        """`o`, for ``o.name += …``: readable and writable."""
        try:
            self.read(o, name)
        except AttributeRefused:
            raise
        except AttributeError:
            pass  # the statement itself says so
        return self.writable(o)

    def _may_write(self, o: Any, name: str, *value: Any) -> None:
        if name[:2] == "__" and name[-2:] == "__":
            self._may_write_dunder(o, name, *value)
        else:
            self.writable(o)

    def _may_write_natively(self, o: Any, name: str, *value: Any) -> None:
        """For ``object.__setattr__``, which does not ask the object's own."""
        if _is_facade(type(o)):
            raise WriteRefused(f"{describe(o)} cannot be changed in this sandbox")
        self._may_write(o, name, *value)

    def _may_write_dunder(self, o: Any, name: str, *value: Any) -> None:
        kind = type(o)
        if name == "__class__":
            if value and is_guest_class(kind) and is_class(value[0]) and is_guest_class(value[0]):
                if is_plain(value[0]) or not is_plain(kind):  # a method looks once whether `self` is plain: it stays so
                    return
        elif is_class(o):
            if is_guest_class(o) and name not in ("__bases__", "__dict__", "__mro__", "__base__", "__subclasses__"):
                return
        elif is_guest_class(kind):
            return
        elif is_guest_function(o):
            if name in names.FUNCTION_DUNDERS:
                return
        elif is_exception(kind):
            if name in names.EXCEPTION_DUNDERS:
                return
        elif kind in _OPEN_TYPES and name in ("__name__", "__doc__", "__wrapped__"):
            return
        raise WriteRefused(f"{name!r} of {describe(o)} cannot be changed in this sandbox")

    def writable_dunder(self, o: Any, name: str) -> Any:
        """`o`, for setting, updating or deleting its attribute with the double-underscore name `name`."""
        if name == "__class__":
            return _ClassSetter(self, o)
        self._may_write_dunder(o, name)
        return o

    def updatable_dunder(self, o: Any, name: str) -> Any:
        """`o`, for ``o.__name__ += …``, which hands the old value to the other operand's ``__radd__``."""
        if name in self.dunders:  # what `read` gives is not what the interpreter would load
            return self._refuse(o, name)
        try:
            self.read(o, name)
        except AttributeRefused:
            raise
        except AttributeError:
            pass  # the statement itself says so
        return self.writable_dunder(o, name)

    def set(self, o: Any, name: str, value: Any) -> None:
        """``setattr``."""
        self._may_write(o, name, value)
        setattr(o, name, value)

    def delete(self, o: Any, name: str) -> None:
        """``delattr``."""
        self._may_write(o, name)
        delattr(o, name)

    # -- match -------------------------------------------------------------------------------------------------------------

    def match(self, kind: Any, positions: int, listed: tuple[str, ...]) -> Any:
        """The class of a pattern, or one that stands for it.

        :param positions: how many positional sub-patterns there are; ``__match_args__`` names their attributes.
        :param listed: keyword names that need a look.
        :raises AttributeRefused: when an attribute is named that a program may not read.
        """
        if not is_class(kind):
            return kind  # CPython's TypeError
        named: Any = ()
        if positions and (is_guest_class(kind) or not native_metaclass(kind)):
            named = getattr(kind, "__match_args__", None)
            if named is None:
                return kind
            if type(named) is not tuple or any(type(n) is not str for n in named):
                raise TypeError("__match_args__ must be a tuple of strings")
        elif not listed:
            return kind  # a class of the library, which a program cannot change
        strict = False
        for name in (*named[:positions], *listed):
            if name[:2] == "__" and name[-2:] == "__":
                raise AttributeRefused(f"the attribute {name!r} cannot be used in a pattern")
            strict = strict or name[:1] == "_" or name in names.SUSPECT or name in names.MODULES
        # CPython asks the class twice, and the subject's own code may run between: what stands in answers the same each time.
        key = (id(kind), named, strict)
        known = self._patterns.get(key)
        if known is None or known[0] is not kind:
            known = self._patterns[key] = (kind, self._pattern_class(kind, named, strict))
        return known[1]

    def _pattern_class(self, kind: type, named: tuple[str, ...], strict: bool) -> type:
        class Meta(type):
            def __instancecheck__(cls, subject: Any) -> bool:
                return isinstance(subject, kind) and (not strict or is_plain(type(subject)))

        return Meta(_class_name(kind), (), {"__match_args__": named})


def is_plain(kind: type) -> bool:
    """Whether every attribute of the instances of `kind` may be read."""
    if kind in PLAIN:
        return True
    if _OTHERS.get(id(kind)) is kind:
        return False
    if is_guest_class(kind) and native_metaclass(kind) and plain_bases(kind):
        PLAIN.add(kind)  # a metaclass of the program's could make one class equal to another: those stay out
        return True
    _OTHERS[id(kind)] = kind
    return False


_OTHERS: dict[int, type] = {}
"""Classes known not to be plain."""


class _ClassSetter:
    """Takes the assignment ``o.__class__ = …``, so that the new class is looked at."""

    __slots__ = ("_guards", "_o")
    _guards: Guards
    _o: Any

    def __init__(self, guards: Guards, o: Any) -> None:
        object.__setattr__(self, "_guards", guards)
        object.__setattr__(self, "_o", o)

    def __setattr__(self, name: str, value: Any) -> None:
        self._guards.set(self._o, "__class__", value)


def exact_name(name: Any) -> str:
    """An attribute name as an exact str: a subclass could compare as one name and be another."""
    if type(name) is str:
        return name
    if _class_flags(type(name)) & _IS_STR:
        return str.__str__(name)
    raise TypeError(f"attribute name must be string, not {type(name).__name__!r}")


_OPEN_TYPES: set[type] = {types.SimpleNamespace, functools.partial, type(functools.lru_cache(lambda: None))}
_OPEN_NAMES = {
    ("decimal", "Context"), ("logging", "Logger"), ("logging", "RootLogger"), ("logging", "StreamHandler"),
    ("logging", "LogRecord"), ("textwrap", "TextWrapper"), ("random", "Random"), ("sqlite3", "Connection"), ("safeexec_backends.local.language.facades.files", "Connection"),
    ("sqlite3", "Cursor"), ("_thread", "_local"), ("threading", "Thread"), ("collections", "defaultdict"),
    ("collections", "Counter"), ("collections", "OrderedDict"), ("functools", "partial"), ("string", "Template"),
    ("xml.etree.ElementTree", "Element"), ("argparse", "Namespace")
}  # fmt: skip
"""Standard library types whose attributes are settings by their documentation."""


class Star:
    """An ``except*`` statement at work: splits the group by the clauses, gathers what they raise."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._naked = BaseExceptionGroup not in _class_mro(type(error))
        self._rest: BaseException | None = BaseExceptionGroup("", [error]) if self._naked else error
        self._raised: list[BaseException] = []
        self._taken = False

    def take(self, kinds: Any) -> BaseException | None:
        """The part of the group that a clause handles."""
        for kind in kinds if type(kinds) is tuple else (kinds,):
            if not is_class(kind) or BaseException not in _class_mro(kind):
                raise TypeError("catching classes that do not inherit from BaseException is not allowed")
            if BaseExceptionGroup in _class_mro(kind):
                raise TypeError("catching ExceptionGroup with except* is not allowed. Use except instead.")
        if self._rest is None:
            return None
        # The C method itself: a program's own split() may return anything, and CPython would not look.
        split: Any = BaseExceptionGroup.split
        match: BaseException | None
        match, rest = split(self._rest, kinds)
        if match is not None:
            self._taken = True
            self._rest = rest
        return match

    def keep(self, error: BaseException) -> None:
        """What a clause raised."""
        self._raised.append(error)

    def rest(self) -> BaseException | None:
        """What goes on after the clauses."""
        if not self._taken and not self._raised:
            return self._error
        if not self._raised:
            return self._rest
        others = [self._rest] if self._rest is not None else []
        if not others and len(self._raised) == 1 and BaseExceptionGroup in _class_mro(type(self._raised[0])):
            return self._raised[0]
        return BaseExceptionGroup("", [*self._raised, *others])


def star(*error: BaseException) -> Any:
    """The state of an ``except*`` statement; without an argument, the class that its handlers catch."""
    return Star(error[0]) if error else BaseException
