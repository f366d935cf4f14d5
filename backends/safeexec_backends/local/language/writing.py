"""What a compiled program may write to."""

from __future__ import annotations

import types
from typing import Any

from . import names
from .identity import (
    InstanceRefused,
    MethodWrapper,
    WrapperDescriptor,
    WriteRefused,
    class_module,
    class_mro,
    describe,
    exact_name,
    home,
    is_class,
    is_exception,
    is_facade,
    is_guest_class,
    is_guest_function,
    is_library_class,
    is_plain,
    library_bases,
    native_owner,
)
from .reading import OPEN_TYPES, Reader, Reading

_FIXED = frozenset(
    "__bases__ __dict__ __mro__ __base__ __subclasses__ __dataclass_fields__ __dataclass_params__".split()
)
"""What a program may not exchange in its own classes."""
ARGPARSE = """_ArgumentGroup _MutuallyExclusiveGroup _SubParsersAction _StoreAction _StoreConstAction _StoreTrueAction _StoreFalseAction _AppendAction
    _AppendConstAction _CountAction _ExtendAction _HelpAction _VersionAction BooleanOptionalAction""".split()
"""What a parser gives for what is added to it. A program's own class of action may have all of it otherwise, too."""
_OPEN_NAMES = {
    ("decimal", "Context"), ("logging", "Logger"), ("logging", "RootLogger"), ("logging", "StreamHandler"), ("logging", "NullHandler"), ("logging", "PlaceHolder"), ("pyexpat", "xmlparser"),
    ("logging", "LogRecord"), ("textwrap", "TextWrapper"), ("random", "Random"), ("sqlite3", "Connection"), (f"{__package__}.facades.containers", "Connection"),
    ("sqlite3", "Cursor"), ("_thread", "_local"), ("threading", "Thread"), ("collections", "defaultdict"),
    ("collections", "Counter"), ("collections", "OrderedDict"), ("functools", "partial"), ("string", "Template"),
    ("xml.etree.ElementTree", "Element"), ("argparse", "Namespace"), ("argparse", "ArgumentParser"), *(("argparse", name) for name in ARGPARSE),
    ("reprlib", "Repr"), ("configparser", "ConfigParser"), ("configparser", "RawConfigParser"), ("json.encoder", "JSONEncoder"),
    ("json.decoder", "JSONDecoder"), ("zipfile", "ZipInfo"), ("_io", "StringIO"), ("_io", "BytesIO"), ("weakref", "finalize"),
    ("threading", "Timer"), ("collections", "ChainMap"), ("collections", "UserDict"), ("collections", "UserList"),
    ("calendar", "Calendar"), ("calendar", "TextCalendar"), ("calendar", "HTMLCalendar"),
    (f"{__package__}.facades.containers", "ZipFile"),
    *((f"{__package__}.facades.logs", name) for name in ("Formatter", "StreamHandler", "FileHandler")),
}  # fmt: skip
"""Standard library types whose attributes are settings by their documentation."""

_OTHER_MODULE = "; its class sets __module__, by which the sandbox knows what is the program's: leave that out"
_INHERIT = "; inherit from it, and change the class of your own"


class Writing(Reading):
    """The guards of one session that write attributes.

    :param third_party: top-level names of real packages that the user allowed; their objects may be written to.
    """

    def __init__(self, third_party: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._third_party = third_party
        self.dunders |= {"__setattr__": self._set_method, "__delattr__": self._set_method}

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
            or id(kind) in OPEN_TYPES
            or is_exception(kind)
            or home(kind) in _OPEN_NAMES
            or self._is_third_party(kind)
            or any(home(base) == ("ast", "AST") for base in class_mro(kind))  # compile() reads their text, not them
            or is_facade(kind)  # says itself what may be set: sys.stdout
        ):
            return o
        refusal = WriteRefused if is_class(o) else InstanceRefused
        changed = o if is_class(o) else kind
        module = class_module(changed)
        ours = type(module) is str and module.startswith(__name__.partition(".")[0])
        why = _INHERIT if is_class(o) else ""
        if not ours and not is_library_class(changed):
            why = _OTHER_MODULE
        raise refusal(f"attributes of {describe(o)} cannot be changed in this sandbox{why}")

    def _is_third_party(self, kind: type) -> bool:
        if not self._third_party:
            return False
        module = class_module(kind)
        return type(module) is str and module.partition(".")[0] in self._third_party

    def updatable(self, o: Any, name: str) -> Any:
        """`o`, or what stands for it, for ``o.name += …``: the old value goes to the other operand's ``__radd__``."""
        return o if is_plain(type(o)) else _Updated(self, o)

    def _set_method(self, o: Any, name: str, reader: Reader) -> Any:
        found: Any = reader(o, name)
        if is_guest_function(found) or (type(found) is types.MethodType and is_guest_function(found.__func__)):
            return found
        if type(found) is MethodWrapper or type(found) is types.MethodType:
            target: Any = found.__self__

            def bound(n: str, /, *value: Any) -> None:
                n = exact_name(n)
                self._may_write_natively(target, n, *value)
                found(n, *value)

            return bound
        if type(found) in (WrapperDescriptor, types.FunctionType):

            def unbound(target: Any, n: str, /, *value: Any) -> None:
                n = exact_name(n)
                self._may_write_natively(target, n, *value)
                found(target, n, *value)

            return unbound
        return self._refuse(o, name)

    def _may_write(self, o: Any, name: str, *value: Any) -> None:
        if name[:2] == "__" and name[-2:] == "__":
            self._may_write_dunder(o, name, *value)
        else:
            self.writable(o)

    def _may_write_natively(self, o: Any, name: str, *value: Any) -> None:
        """For ``object.__setattr__``, which does not ask the object's own."""
        if is_facade(type(o)):
            raise WriteRefused(f"{describe(o)} cannot be changed in this sandbox")
        self._may_write(o, name, *value)

    def _may_write_dunder(self, o: Any, name: str, *value: Any) -> None:
        kind = type(o)
        if name == "__class__":
            if value and is_guest_class(kind) and is_class(value[0]) and is_guest_class(value[0]):
                # A method looks once whether `self` is plain, and a guard what it inherits from the library before it reads: a finalizer runs between.
                plain = is_plain(kind)
                if is_plain(value[0]) is plain and (plain or library_bases(value[0]) == library_bases(kind)):
                    return
        elif is_class(o):
            if is_guest_class(o) and name not in _FIXED:
                return
        elif is_guest_class(kind):
            return
        elif is_guest_function(o):
            # The last: its own invention, which nobody asks for.
            if name in names.FUNCTION_DUNDERS or not native_owner(kind, name):
                return
        elif is_exception(kind):
            if name in names.EXCEPTION_DUNDERS:
                return
        elif id(kind) in OPEN_TYPES and name in ("__name__", "__doc__", "__wrapped__"):
            return
        elif kind is property and name == "__doc__":
            return
        refusal = WriteRefused if is_class(o) else InstanceRefused
        raise refusal(f"{name!r} of {describe(o)} cannot be changed in this sandbox")

    def writable_dunder(self, o: Any, name: str) -> Any:
        """`o`, for setting, updating or deleting its attribute with the double-underscore name `name`."""
        if name == "__class__":
            return _ClassSetter(self, o)
        self._may_write_dunder(o, name)
        return o

    def updatable_dunder(self, o: Any, name: str) -> Any:
        """What stands for `o`, for ``o.__name__ += …``."""
        if name in self.dunders:  # what `read` gives is not what the interpreter would load
            return self._refuse(o, name)
        if name != "__class__":
            self._may_write_dunder(o, name)
        return _Updated(self, o)

    def set(self, o: Any, name: str, value: Any) -> None:
        """``setattr``."""
        self._may_write(o, name, value)
        setattr(o, name, value)

    def set_natively(self, o: Any, name: str, value: Any) -> None:
        """``object.__setattr__``."""
        self._may_write_natively(o, name, value)
        object.__setattr__(o, name, value)

    def delete(self, o: Any, name: str) -> None:
        """``delattr``."""
        self._may_write(o, name)
        delattr(o, name)


class _StandIn:
    """Stands for an object in a statement of which a part is left to the interpreter."""

    __slots__ = ("_guards", "_o")
    _guards: Writing
    _o: Any

    def __init__(self, guards: Writing, o: Any) -> None:
        object.__setattr__(self, "_guards", guards)
        object.__setattr__(self, "_o", o)


class _Updated(_StandIn):
    """Stands for an object whose attribute is loaded and stored by the interpreter, so that both are done under guard: what was looked at before
    could be another one by then."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__
        return own(self, "_guards").read(own(self, "_o"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = object.__getattribute__
        own(self, "_guards").set(own(self, "_o"), name, value)


class _ClassSetter(_StandIn):
    """Takes the assignment ``o.__class__ = …``, so that the new class is looked at."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        self._guards.set(self._o, "__class__", value)
