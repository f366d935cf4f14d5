"""Modules of which some functions read attributes by name, evaluate text or change what they are given."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.denied import deny_class
from safeexec_backends.local.language.identity import (
    MAIN,
    as_library,
    exact_name,
    is_class,
    is_guest_function,
)

from . import reviewed
from .annotations import type_hints
from .facade import Facade

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def _operator(language: RestrictedLanguage) -> Exports:
    read = language.guards.read

    class attrgetter:
        """As `operator.attrgetter`, reading as the program itself would."""

        __slots__ = ("_paths",)

        def __init__(self, attr: str, /, *attrs: str) -> None:
            self._paths = [exact_name(a).split(".") for a in (attr, *attrs)]

        def __call__(self, obj: Any, /) -> Any:
            found = []
            for path in self._paths:
                item = obj
                for name in path:
                    item = read(item, name)
                found.append(item)
            return found[0] if len(found) == 1 else tuple(found)

        def __repr__(self) -> str:
            return f"operator.attrgetter({', '.join(repr('.'.join(p)) for p in self._paths)})"

    class methodcaller:
        """As `operator.methodcaller`, reading as the program itself would."""

        __slots__ = ("_args", "_kwargs", "_name")

        def __init__(self, name: str, /, *args: Any, **kwargs: Any) -> None:
            self._name = exact_name(name)
            self._args = args
            self._kwargs = kwargs

        def __call__(self, obj: Any, /) -> Any:
            return read(obj, self._name)(*self._args, **self._kwargs)

        def __repr__(self) -> str:
            given = [self._name, *self._args]
            return f"operator.methodcaller({', '.join([*map(repr, given), *(f'{k}={v!r}' for k, v in self._kwargs.items())])})"

    as_library(attrgetter)
    as_library(methodcaller)
    return reviewed("operator") | {"attrgetter": attrgetter, "methodcaller": methodcaller}


def _string(language: RestrictedLanguage) -> Exports:
    return reviewed("string") | {"Formatter": language.guards.formatter}


def _functools(language: RestrictedLanguage) -> Exports:
    guards = language.guards

    def update_wrapper(
        wrapper: Any,
        wrapped: Any,
        assigned: Any = functools.WRAPPER_ASSIGNMENTS,
        updated: Any = functools.WRAPPER_UPDATES,
    ) -> Any:
        """As `functools.update_wrapper`; the names are read and set as the program itself would."""
        for name in assigned:
            name = exact_name(name)
            if name == "__annotate__":  # 3.14: annotations are copied below
                name = "__annotations__"
            try:
                value = guards.read(wrapped, name)
            except AttributeError:
                continue
            guards.set(wrapper, name, value)
        for name in updated:
            guards.read(wrapper, exact_name(name)).update(guards.readable(wrapped, exact_name(name), {}))
        guards.set(wrapper, "__wrapped__", wrapped)
        return wrapper

    def wraps(
        wrapped: Any, assigned: Any = functools.WRAPPER_ASSIGNMENTS, updated: Any = functools.WRAPPER_UPDATES
    ) -> Callable[[Any], Any]:
        """As `functools.wraps`."""
        return lambda wrapper: update_wrapper(wrapper, wrapped, assigned, updated)

    def total_ordering(cls: type) -> type:
        """As `functools.total_ordering`."""
        guards.writable(cls)
        return functools.total_ordering(cls)

    def registering(register: Callable[..., Any]) -> Callable[..., Any]:
        def safe_register(cls: Any, func: Any = None) -> Any:
            # With one argument CPython evaluates the annotations of whatever is no class, callable or not, with everybody's builtins: it gets two.
            if func is not None:
                return register(cls, func)
            if is_class(cls) or (type(cls) is types.UnionType and all(map(is_class, cls.__args__))):
                return lambda function: register(cls, function)
            hints = type_hints(language, cls) if guards.readable(cls, "__annotations__", None) else {}
            for name, hint in hints.items():
                if name != "return":
                    register(hint, cls)
                    return cls
            raise TypeError(f"Invalid first argument to `register()`: {cls!r}. Use either `@register(some_class)` or "
                            "plain `@register` on an annotated function.")  # fmt: skip

        return safe_register

    def singledispatch(func: Any) -> Any:
        """As `functools.singledispatch`."""
        wrapper = functools.singledispatch(func)
        wrapper.register = registering(wrapper.register)  # type: ignore[method-assign]
        return wrapper

    deny_class(functools.singledispatchmethod)  # its own register() evaluates annotations that are text

    class singledispatchmethod(functools.singledispatchmethod):  # type: ignore[type-arg]
        def __init__(self, func: Any) -> None:
            super().__init__(func)
            self.dispatcher.register = registering(self.dispatcher.register)  # type: ignore[method-assign]

    return reviewed("functools") | {
        "update_wrapper": update_wrapper,
        "wraps": wraps,
        "total_ordering": total_ordering,
        "singledispatch": singledispatch,
        "singledispatchmethod": singledispatchmethod,
    }


def _typing(language: RestrictedLanguage) -> Exports:
    def get_type_hints(
        obj: Any, globalns: Any = None, localns: Any = None, include_extras: bool = False
    ) -> dict[str, Any]:
        """As `typing.get_type_hints`; annotations that are text are evaluated in the program's language."""
        return type_hints(language, obj, globalns, localns, include_extras)

    def no_type_check(arg: Any) -> Any:
        """As `typing.no_type_check`, which changes nothing that runs."""
        return arg

    return reviewed("typing") | {"get_type_hints": get_type_hints, "no_type_check": no_type_check}


def _types(language: RestrictedLanguage) -> Exports:
    from .frames import FrameView
    from .views import CodeView

    def new_class(name: str, bases: Any = (), kwds: Any = None, exec_body: Any = None) -> type:
        """As `types.new_class`."""

        def body(namespace: Any) -> None:
            namespace["__module__"] = MAIN
            if exec_body is not None:
                exec_body(namespace)

        return types.new_class(exact_name(name), tuple(bases), kwds, body)

    def bases_of(function: Callable[..., Any]) -> Callable[..., Any]:
        def shown(*args: Any) -> Any:
            found = function(*args)
            language.guards.check(found, "__bases__")
            return found

        return shown

    def coroutine(func: Any) -> Any:
        """As `types.coroutine`, for the program's own generator functions."""
        if not is_guest_function(func):
            raise TypeError("types.coroutine() takes the program's own functions in this sandbox")
        return types.coroutine(func)

    exports = reviewed("types") | {"coroutine": coroutine}
    exports |= {n: bases_of(exports[n]) for n in ("get_original_bases", "resolve_bases") if n in exports}
    return exports | {"new_class": new_class, "ModuleType": Facade, "CodeType": CodeView, "FrameType": FrameView}


def _collections(language: RestrictedLanguage) -> Exports:
    import collections

    def namedtuple(
        typename: str, field_names: Any, *, rename: bool = False, defaults: Any = None, module: Any = None
    ) -> type:
        """As `collections.namedtuple`."""
        if isinstance(field_names, str):
            field_names = str.__str__(field_names).replace(",", " ").split()
        fields = [exact_name(n) for n in field_names]
        make: Any = collections.namedtuple
        kind: type = make(exact_name(typename), fields, rename=bool(rename), defaults=defaults, module=MAIN)
        return kind

    return reviewed("collections") | {"namedtuple": namedtuple}


def _contextlib(language: RestrictedLanguage) -> Exports:
    import contextlib

    streams = language.streams

    def redirect(stream: str) -> type:
        # The standard one reads the name of the stream from a class attribute: a subclass could name sys.modules.
        def prepare(self: Any, new_target: Any) -> None:
            self._new_target = new_target

        def enter(self: Any) -> Any:
            streams.push(stream, self._new_target)
            return self._new_target

        def leave(self: Any, *exc: Any) -> None:
            streams.pop(stream)

        body = {"__init__": prepare, "__enter__": enter, "__exit__": leave, "__module__": __name__}
        return type(f"redirect_{stream}", (contextlib.AbstractContextManager,), body)

    class chdir(contextlib.AbstractContextManager):  # type: ignore[type-arg]
        """As `contextlib.chdir`, within the places that the program may change to."""

        def __init__(self, path: Any) -> None:
            self.path = path
            self._before: list[str] = []

        def __enter__(self) -> None:
            os = language.gate.build("os")
            self._before.append(os.getcwd())
            os.chdir(self.path)

        def __exit__(self, *exc: object) -> None:
            language.gate.build("os").chdir(self._before.pop())

    return reviewed("contextlib") | {
        "redirect_stdout": redirect("stdout"),
        "redirect_stderr": redirect("stderr"),
        "chdir": chdir,
    }


def _copy(language: RestrictedLanguage) -> Exports:
    import copy

    shown = {n: getattr(copy, n) for n in ("copy", "deepcopy", "Error", "error", "replace") if hasattr(copy, n)}
    return shown


def _uuid(language: RestrictedLanguage) -> Exports:
    import random
    import uuid

    own_node = random.SystemRandom().getrandbits(48) | (1 << 40)

    def uuid1(node: int | None = None, clock_seq: int | None = None) -> uuid.UUID:
        """As `uuid.uuid1`, with a random node: the standard one runs programs to find the hardware address."""
        return uuid.uuid1(
            own_node if node is None else node, clock_seq if clock_seq is not None else random.getrandbits(14)
        )

    def getnode() -> int:
        """A random number that says nothing of the machine."""
        return own_node

    shown = "UUID SafeUUID uuid3 uuid4 uuid5 uuid7 uuid8 NIL MAX NAMESPACE_DNS NAMESPACE_URL NAMESPACE_OID NAMESPACE_X500 RFC_4122 RESERVED_NCS RESERVED_MICROSOFT RESERVED_FUTURE"
    return {n: getattr(uuid, n) for n in shown.split() if hasattr(uuid, n)} | {"uuid1": uuid1, "getnode": getnode}


def _threading(language: RestrictedLanguage) -> Exports:
    sizes = [0]

    def stack_size(size: Any = 0, /) -> int:
        """As `threading.stack_size`, for what it returns: a thread's memory is the sandbox's business, and enough for every depth that it grants."""
        size = int(operator.index(size))
        if size and size < 32_768:
            raise ValueError(f"size not valid: {size} bytes")
        sizes.append(size)
        return sizes.pop(0)

    return reviewed("threading") | {"stack_size": stack_size}


def _future(language: RestrictedLanguage) -> Exports:
    import __future__

    return {n: getattr(__future__, n) for n in __future__.all_feature_names}


def _zoneinfo(language: RestrictedLanguage) -> Exports:
    from zoneinfo import _tzpath

    module: Any = _tzpath
    original = module._validate_tzfile_path

    def validate(path: Any, *rest: Any) -> None:
        if type(path) is not str:  # joined to the folder by its own __radd__
            raise TypeError("the key of a time zone is a str")
        original(path, *rest)

    if original.__module__ != __name__:
        module._validate_tzfile_path = validate
    return reviewed("zoneinfo")


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "operator": _operator,
    "string": _string,
    "functools": _functools,
    "typing": _typing,
    "types": _types,
    "collections": _collections,
    "contextlib": _contextlib,
    "copy": _copy,
    "uuid": _uuid,
    "threading": _threading,
    "__future__": _future,
    "zoneinfo": _zoneinfo,
}
