"""Modules of which some functions read attributes by name, evaluate text or change what they are given."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.denied import deny_class
from safeexec_backends.local.language.identity import (
    MAIN,
    PLAIN,
    AttributeRefused,
    LanguageRefused,
    WriteRefused,
    exact_name,
    is_class,
    is_guest_class,
    is_guest_function,
    native_metaclass,
)

from . import Facade, reviewed

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
            if func is None and not (is_class(cls) or type(cls) is types.UnionType or not callable(cls)):
                # CPython would evaluate annotations that are text.
                hints = type_hints(language, cls)
                for name, hint in hints.items():
                    if name != "return":
                        register(hint)(cls)
                        return cls
                raise TypeError(f"Invalid first argument to `register()`: {cls!r}. Use either `@register(some_class)` or "
                                "plain `@register` on an annotated function.")  # fmt: skip
            return register(cls, func) if func is not None else register(cls)

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


def type_hints(
    language: RestrictedLanguage, obj: Any, globals: Any = None, locals: Any = None, extras: bool = False
) -> dict[str, Any]:
    """``typing.get_type_hints``: text is evaluated in the program's language, in the program's globals."""
    import typing

    def resolve(value: Any) -> Any:
        if value is None:
            return type(None)
        if type(value) is typing.ForwardRef:
            value = value.__forward_arg__
        if isinstance(value, str):
            code = language.compile_one(str.__str__(value), "<annotation>", "eval")
            return resolve(eval(code, language.main, dict(locals or {}) | dict(globals or {})))
        origin = typing.get_origin(value)
        if origin is not None and any(type(a) is typing.ForwardRef for a in getattr(value, "__args__", ())):
            arguments = tuple(resolve(a) if type(a) is typing.ForwardRef else a for a in value.__args__)
            return value.copy_with(arguments) if hasattr(value, "copy_with") else origin[arguments]
        if not extras and origin is typing.Annotated:
            return value.__origin__
        return value

    found: dict[str, Any] = {}
    if is_class(obj):
        for base in reversed(type.__dict__["__mro__"].__get__(obj)):
            if is_guest_class(base):
                found.update(getattr(base, "__annotations__", {}) if "__annotations__" in vars(base) else {})
    else:
        found.update(language.guards.read(obj, "__annotations__") or {})
    return {exact_name(k): resolve(v) for k, v in found.items()}


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
    return exports | {"new_class": new_class, "ModuleType": Facade, "CodeType": CodeView}


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


def _warnings(language: RestrictedLanguage) -> Exports:
    import contextlib
    import warnings

    @contextlib.contextmanager
    def catch_warnings(*, record: bool = False, action: Any = None, category: Any = Warning, lineno: int = 0,
                       append: bool = False) -> Any:  # fmt: skip
        """As `warnings.catch_warnings`, which would show the module itself to a subclass."""
        with warnings.catch_warnings(record=record) as log:
            if action is not None:
                warnings.simplefilter(action, category, lineno, append)
            yield log

    def formatwarning(message: Any, category: Any, filename: Any, lineno: Any, line: Any = None) -> str:
        """As `warnings.formatwarning`, which would read the line from any file."""
        return warnings.formatwarning(message, category, filename, lineno, "" if line is None else line)

    def warn(message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, **options: Any) -> None:
        """As `warnings.warn`."""
        warnings.warn(message, category, stacklevel + 1, source)

    def showwarning(
        message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None
    ) -> None:
        """As `warnings.showwarning`."""
        text = formatwarning(message, category, filename, lineno, line)
        (language.streams.shown("stderr") if file is None else file).write(text)

    shown = ("simplefilter", "filterwarnings", "resetwarnings", "WarningMessage")
    exports: Exports = {n: getattr(warnings, n) for n in shown}
    exports |= {"catch_warnings": catch_warnings, "warn": warn}
    own = {"showwarning": showwarning, "formatwarning": formatwarning}
    originals = {name: getattr(warnings, name) for name in own}

    def getter(name: str) -> Callable[[Any], Any]:
        def get(self: Any) -> Any:
            now = getattr(warnings, name)
            return own[name] if now is originals[name] else now

        return get

    def assign(self: Any, name: str, value: Any) -> None:
        if name not in own or not callable(value):
            raise WriteRefused(f"warnings.{name} cannot be set to that in this sandbox")
        setattr(warnings, name, originals[name] if value is own[name] else value)

    body: dict[str, Any] = {
        "__slots__": (), "__module__": Facade.__module__, "__name__": "warnings", "__setattr__": assign,
        "__all__": sorted([*exports, *own]), "__dir__": lambda self: list(type(self).__all__),
        **{name: staticmethod(value) if isinstance(value, types.FunctionType) else value for name, value in exports.items()},
        **{name: property(getter(name)) for name in own},
    }  # fmt: skip
    kind = type("warnings", (Facade,), body)
    PLAIN[id(kind)] = kind
    return {"": object.__new__(kind)}


def _copy(language: RestrictedLanguage) -> Exports:
    import copy

    shown = {n: getattr(copy, n) for n in ("copy", "deepcopy", "Error", "error", "replace") if hasattr(copy, n)}
    return shown


_DATACLASS_PARTS = ("field", "is_dataclass", "KW_ONLY", "MISSING", "InitVar", "FrozenInstanceError", "Field", "fields")


def _dataclasses(language: RestrictedLanguage) -> Exports:
    import copy
    import dataclasses
    import keyword

    guards = language.guards
    class_dict = type.__dict__["__dict__"].__get__
    class_mro = type.__dict__["__mro__"].__get__

    def check_name(name: Any) -> str:
        """A field's name becomes source text of the methods that dataclasses writes: it must be a name."""
        if type(name) is not str or not name.isidentifier() or keyword.iskeyword(name):
            raise TypeError(f"Field names must be valid identifiers: {name!r}")
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeRefused(f"a field cannot be called {name!r} in this sandbox")
        return name

    def check_class(cls: Any) -> None:
        guards.writable(cls)
        for base in class_mro(cls):
            # Every base, not those marked as the program's only: it can call its own by a module of the library.
            if not native_metaclass(base) and any(
                m is not type
                and m is not object
                and (
                    class_dict(m).keys() & {"__getattribute__", "__getattr__", "__setattr__", "__delattr__"}
                    or any(n.startswith("__dataclass") for n in class_dict(m))
                )
                for m in class_mro(type(base))
            ):
                raise LanguageRefused("dataclass() does not take classes whose metaclass answers for their attributes")
            if base is cls:
                continue
            known = class_dict(base).get("__dataclass_fields__")
            if known is None:
                continue
            if type(known) is not dict or type(class_dict(base).get("__dataclass_params__")) is not _Params:
                raise TypeError("a base class is not a dataclass")
            known = dict(known)  # the program may hold the other one, and change it in a thread
            for key, item in known.items():
                if type(item) is not dataclasses.Field or type(item.name) is not str or item.name != check_name(key):
                    raise TypeError("a base class has fields that dataclass() did not make")
            type.__setattr__(base, "__dataclass_fields__", known)

    _Params = type(dataclasses.dataclass(type("_", (), {})).__dataclass_params__)  # type: ignore[attr-defined]

    def process(cls: Any, options: dict[str, Any]) -> Any:
        check_class(cls)
        own = class_dict(cls)
        if "__annotate_func__" not in own and "__annotate__" not in own and "__annotations__" in own:
            annotations = own["__annotations__"]
            if type(annotations) is not dict:
                raise TypeError("__annotations__ must be a dict")
            checked = {check_name(name): value for name, value in annotations.items()}
            # While dataclasses reads it, code of the program may run (descriptors, __class__ of defaults): it must find
            # nothing to change. 3.12 makes a copy itself and wants a dict.
            import sys

            type.__setattr__(cls, "__annotations__",
                             types.MappingProxyType(checked) if sys.version_info < (3, 12) else checked)  # fmt: skip
            try:
                made = dataclasses.dataclass(**options)(cls)
            finally:
                type.__setattr__(cls, "__annotations__", annotations)
            if made is not cls:  # slots=True makes a new class, from a copy of the dictionary
                type.__setattr__(made, "__annotations__", annotations)
            return made
        for name in list(getattr(cls, "__annotations__", {})):
            check_name(name)
        return dataclasses.dataclass(**options)(cls)

    allowed = ("init", "repr", "eq", "order", "unsafe_hash", "frozen", "match_args", "kw_only", "slots", "weakref_slot")

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        """As `dataclasses.dataclass`; the field names are checked before they become source text."""
        for name in options:
            if name not in allowed:
                raise TypeError(f"dataclass() got an unexpected keyword argument {name!r}")
        options = {name: bool(value) for name, value in options.items()}
        if cls is None:
            return lambda c: process(c, options)
        return process(cls, options)

    def make_dataclass(cls_name: str, fields: Any, *, bases: Any = (), namespace: Any = None, module: Any = None,
                       decorator: Any = None, **options: Any) -> Any:  # fmt: skip
        """As `dataclasses.make_dataclass`."""
        body: dict[str, Any] = dict(namespace or {})
        annotations: dict[str, Any] = {}
        for item in fields:
            if isinstance(item, str):
                name, kind = exact_name(item), Any
            else:
                item = tuple(item)
                name, kind = item[0], item[1]
                if len(item) == 3:
                    body[check_name(exact_name(name))] = item[2]
            name = check_name(exact_name(name))
            if name in annotations:
                raise TypeError(f"Field name duplicated: {name!r}")
            annotations[name] = kind
        body["__annotations__"] = annotations
        body["__module__"] = MAIN
        cls = types.new_class(exact_name(cls_name), tuple(bases), {}, lambda ns: ns.update(body))
        return dataclass(cls, **options)

    def known_fields(obj: Any) -> list[Any]:
        return list(dataclasses.fields(obj))

    def _walk(obj: Any, factory: Callable[..., Any], as_dict: bool) -> Any:
        kind = type(obj)
        if dataclasses.is_dataclass(obj) and not is_class(obj):
            pairs = [(f.name, _walk(guards.read(obj, exact_name(f.name)), factory, as_dict)) for f in known_fields(obj)]
            return factory(pairs) if as_dict else factory([v for _, v in pairs])
        if isinstance(obj, tuple) and hasattr(obj, "_fields"):
            return kind(*[_walk(v, factory, as_dict) for v in obj])
        if isinstance(obj, list | tuple):
            return kind(_walk(v, factory, as_dict) for v in obj)
        if isinstance(obj, dict):
            pairs = [(_walk(k, factory, as_dict), _walk(v, factory, as_dict)) for k, v in obj.items()]
            if hasattr(kind, "default_factory"):
                factory_: Any = getattr(obj, "default_factory", None)
                made: Any = kind(factory_)
                for k, v in pairs:
                    made[k] = v
                return made
            return kind(pairs)
        return copy.deepcopy(obj)

    def _instance(obj: Any, what: str) -> None:
        if is_class(obj) or not dataclasses.is_dataclass(obj):
            raise TypeError(f"{what}() should be called on dataclass instances")

    def asdict(obj: Any, *, dict_factory: Callable[..., Any] = dict) -> Any:
        """As `dataclasses.asdict`."""
        _instance(obj, "asdict")
        return _walk(obj, dict_factory, True)

    def astuple(obj: Any, *, tuple_factory: Callable[..., Any] = tuple) -> Any:
        """As `dataclasses.astuple`."""
        _instance(obj, "astuple")
        return _walk(obj, tuple_factory, False)

    def replace(obj: Any, /, **changes: Any) -> Any:
        """As `dataclasses.replace`."""
        _instance(obj, "replace")
        for f in obj.__dataclass_fields__.values():
            kind = f._field_type.name if hasattr(f._field_type, "name") else ""
            if kind == "_FIELD_CLASSVAR":
                continue
            if not f.init:
                if f.name in changes:
                    raise ValueError(
                        f"field {f.name} is declared with init=False, it cannot be specified with replace()"
                    )
                continue
            if f.name not in changes:
                if kind == "_FIELD_INITVAR" and f.default is dataclasses.MISSING:
                    raise ValueError(f"InitVar {f.name!r} must be specified with replace()")
                changes[f.name] = guards.read(obj, exact_name(f.name))
        return type(obj)(**changes)

    return {n: getattr(dataclasses, n) for n in _DATACLASS_PARTS} | {
        "dataclass": dataclass,
        "make_dataclass": make_dataclass,
        "asdict": asdict,
        "astuple": astuple,
        "replace": replace,
    }


def _inspect(language: RestrictedLanguage) -> Exports:
    import inspect

    guards = language.guards
    shown = """Parameter cleandoc getdoc isabstract isasyncgen isasyncgenfunction isawaitable isbuiltin isclass iscoroutine
        iscoroutinefunction isfunction isgenerator isgeneratorfunction ismethod ismodule isroutine isdatadescriptor
        ismethoddescriptor BoundArguments CO_OPTIMIZED CO_NEWLOCALS CO_VARARGS CO_VARKEYWORDS CO_NESTED CO_GENERATOR CO_COROUTINE
        CO_ITERABLE_COROUTINE CO_ASYNC_GENERATOR""".split()

    def signature(obj: Any, *, follow_wrapped: bool = True) -> inspect.Signature:
        """As `inspect.signature`; annotations that are text stay text."""
        return inspect.signature(obj, follow_wrapped=bool(follow_wrapped))

    def getmembers(obj: Any, predicate: Any = None) -> list[tuple[str, Any]]:
        """As `inspect.getmembers`, for what the program may read."""
        found = []
        for name in dir(obj):
            try:
                value = guards.read(obj, exact_name(name))
            except AttributeError:
                continue
            native = name in ("__getattribute__", "__setattr__", "__delattr__") and not is_guest_function(value)
            if native and predicate is not None:
                continue  # a guard's stand-in for a method of `object`
            if predicate is None or predicate(value):
                found.append((name, value))
        return found

    absent = object()

    def getattr_static(obj: Any, attr: Any, default: Any = absent) -> Any:
        """As `inspect.getattr_static` for what the program defined; of anything else, what reading the name gives."""
        name = exact_name(attr)
        kinds = type.__dict__["__mro__"].__get__(obj if is_class(obj) else type(obj))
        if not is_class(obj):
            try:
                own = guards.variables(obj)
            except AttributeError:
                own = {}
            if name in own:
                return own[name]
        for kind in kinds:
            if is_guest_class(kind) and name in guards.variables(kind):
                return guards.variables(kind)[name]
        try:
            return guards.read(obj, name)
        except AttributeError:
            if default is absent:
                raise
            return default

    def unwrap(func: Any, *, stop: Any = None) -> Any:
        """As `inspect.unwrap`."""
        seen = {id(func)}
        while stop is None or not stop(func):
            inner = guards.readable(func, "__wrapped__", absent)
            if inner is absent:
                break
            func = inner
            if id(func) in seen:
                raise ValueError(f"wrapper loop when unwrapping {func!r}")
            seen.add(id(func))
        return func

    def lines_of(obj: Any) -> tuple[list[str], int]:
        if type(obj) is types.MethodType:
            obj = obj.__func__
        obj = unwrap(obj)
        if is_guest_function(obj):
            lines = _step(obj.__code__.co_filename)
            if lines and obj.__code__.co_firstlineno <= len(lines):
                first = obj.__code__.co_firstlineno
                return inspect.getblock(lines[first - 1 :]), first
        elif is_class(obj) and is_guest_class(obj):
            name = type.__dict__["__qualname__"].__get__(obj)
            for lines in _steps():
                found = _class_in(lines, name)
                if found is not None:
                    return lines[found[0] - 1 : found[1]], found[0]
        else:
            raise TypeError(f"the source of {type(obj).__name__!r} objects is not available in this sandbox")
        raise OSError("could not get source code")

    def getsourcelines(obj: Any) -> tuple[list[str], int]:
        """As `inspect.getsourcelines`, of what the program itself defined."""
        return lines_of(obj)

    def getsource(obj: Any) -> str:
        """As `inspect.getsource`, of what the program itself defined."""
        return "".join(lines_of(obj)[0])

    def getfullargspec(func: Any) -> inspect.FullArgSpec:
        """As `inspect.getfullargspec`."""
        return inspect.getfullargspec(func)

    def state_of(prefix: str, states: tuple[str, str, str, str]) -> Callable[[Any], str]:
        def state(suspended: Any) -> str:
            if type(suspended) not in (types.GeneratorType, types.CoroutineType):
                raise TypeError(f"expected a generator or a coroutine, not {type(suspended).__name__}")
            created, running, paused, closed = states
            if getattr(suspended, f"{prefix}_running"):
                return running
            if getattr(suspended, f"{prefix}_suspended"):
                return paused
            return closed if getattr(suspended, f"{prefix}_frame") is None else created

        return state

    generator = ("GEN_CREATED", "GEN_RUNNING", "GEN_SUSPENDED", "GEN_CLOSED")
    coroutine = ("CORO_CREATED", "CORO_RUNNING", "CORO_SUSPENDED", "CORO_CLOSED")
    table = {n: getattr(inspect, n) for n in shown if hasattr(inspect, n)}
    return table | {
        "signature": signature,
        "getmembers": getmembers,
        "getattr_static": getattr_static,
        "unwrap": unwrap,
        "getsource": getsource,
        "getsourcelines": getsourcelines,
        "getmro": lambda cls: guards.read(cls, "__mro__"),
        "getfullargspec": getfullargspec,
        "FullArgSpec": inspect.FullArgSpec,
        "getgeneratorstate": state_of("gi", generator),
        "getcoroutinestate": state_of("cr", coroutine),
        **{n: n for n in (*generator, *coroutine)},
        "_empty": inspect.Parameter.empty,
        "Signature": inspect.Signature,
    }


def _step(filename: str) -> list[str]:
    """The lines of a step, and of nothing else: a function's file name may be the program's choice."""
    import linecache

    entry: Any = linecache.cache.get(filename) if filename[:6] == "<step " else None
    return list(entry[2]) if entry is not None else []


def _steps() -> list[list[str]]:
    """The lines of all steps, the latest first."""
    import linecache

    return [lines for name in reversed([*linecache.cache]) if (lines := _step(name))]


def _class_in(lines: list[str], qualname: str) -> tuple[int, int] | None:
    """First and last line of the last class called `qualname`, decorators included."""
    import ast

    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return None
    found = None
    queue: list[tuple[ast.AST, str]] = [(tree, "")]
    while queue:
        node, above = queue.pop(0)
        for child in ast.iter_child_nodes(node):
            inside = above
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inside = f"{above}{child.name}" + ("." if isinstance(child, ast.ClassDef) else ".<locals>.")
                if isinstance(child, ast.ClassDef) and above + child.name == qualname:
                    found = (min([child.lineno, *(d.lineno for d in child.decorator_list)]), child.end_lineno or 0)
            queue.append((child, inside))
    return found


def _ast(language: RestrictedLanguage) -> Exports:
    # A program may call its own objects nodes: ``_fields`` then names what is read from them, set and deleted.
    from .programs import guard, private_copy

    ast = private_copy("ast")
    guard(ast, language, ast.AST)
    exports = {
        n: getattr(ast, n)
        for n in dir(ast)
        if isinstance(getattr(ast, n), type) and issubclass(getattr(ast, n), ast.AST) and n[:1] != "_"
    }
    shown = """NodeTransformer NodeVisitor PyCF_ONLY_AST copy_location dump fix_missing_locations get_docstring
        increment_lineno iter_child_nodes iter_fields literal_eval parse unparse walk"""
    return exports | {n: getattr(ast, n) for n in shown.split()}


def _uuid(language: RestrictedLanguage) -> Exports:
    import random
    import uuid

    node = random.SystemRandom().getrandbits(48) | (1 << 40)

    def uuid1(node_: int | None = None, clock_seq: int | None = None) -> uuid.UUID:
        """As `uuid.uuid1`, with a random node: the standard one runs programs to find the hardware address."""
        return uuid.uuid1(
            node if node_ is None else node_, clock_seq if clock_seq is not None else random.getrandbits(14)
        )

    def getnode() -> int:
        """A random number that says nothing of the machine."""
        return node

    shown = "UUID SafeUUID uuid3 uuid4 uuid5 uuid8 NAMESPACE_DNS NAMESPACE_URL NAMESPACE_OID NAMESPACE_X500 RFC_4122"
    return {n: getattr(uuid, n) for n in shown.split() if hasattr(uuid, n)} | {"uuid1": uuid1, "getnode": getnode}


def _future(language: RestrictedLanguage) -> Exports:
    import __future__

    return {n: getattr(__future__, n) for n in __future__.all_feature_names}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "operator": _operator,
    "string": _string,
    "functools": _functools,
    "typing": _typing,
    "types": _types,
    "collections": _collections,
    "contextlib": _contextlib,
    "warnings": _warnings,
    "copy": _copy,
    "dataclasses": _dataclasses,
    "inspect": _inspect,
    "ast": _ast,
    "uuid": _uuid,
    "__future__": _future,
}
