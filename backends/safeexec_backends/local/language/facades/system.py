"""sys, logging, traceback and other modules that speak of the interpreter itself."""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import WriteRefused, as_facade, exact_name

from .facade import Facade, missing
from .streams import no_input

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]
_MAX_RECURSION = 10_000
"""Frames: more is not granted, whatever a program asks for, as C code that calls itself runs out of its stack before that says so."""


def _sys(language: RestrictedLanguage) -> Exports:
    streams = language.streams
    outputs = streams.outputs

    def getter(name: str) -> Callable[[Any], Any]:
        return lambda self: streams.shown(name)

    def setter(name: str) -> Callable[[Any, Any], None]:
        return lambda self, value: streams.put(name, value)

    def exc_info() -> Any:
        return sys.exc_info()

    def setrecursionlimit(limit: int, /) -> None:
        # Programs ask for a million out of habit, and few go that deep: those get the RecursionError that there is for it.
        sys.setrecursionlimit(min(int(operator.index(limit)), _MAX_RECURSION))

    def nobody() -> None:
        """Nothing watches what runs."""

    def exit(status: Any = None, /) -> None:
        sys.exit(status)  # None and tuples become the exception's arguments

    def displayhook(value: object, /) -> None:
        if value is not None:
            outputs["stdout"].write(repr(value) + "\n")

    stdin = no_input()
    shown = """version version_info hexversion api_version maxsize maxunicode byteorder platform float_info int_info hash_info
        float_repr_style getsizeof getrecursionlimit getdefaultencoding getfilesystemencoding intern getrefcount
        exception getswitchinterval get_int_max_str_digits set_int_max_str_digits copyright abiflags getallocatedblocks
        getfilesystemencodeerrors is_finalizing platlibdir thread_info""".split()
    values: dict[str, Any] = {n: getattr(sys, n) for n in shown if hasattr(sys, n)}
    values |= {
        "exc_info": exc_info, "exit": exit, "setrecursionlimit": setrecursionlimit, "gettrace": nobody, "getprofile": nobody,
        "__stdout__": outputs["stdout"], "__stderr__": outputs["stderr"], "__stdin__": stdin,
        "flags": types.SimpleNamespace(
            optimize=0, debug=0, verbose=0, utf8_mode=1, dev_mode=False, interactive=0, inspect=0, ignore_environment=1, bytes_warning=0,
            isolated=1, warn_default_encoding=0, hash_randomization=1),
        "executable": "", "prefix": "", "base_prefix": "", "exec_prefix": "", "base_exec_prefix": "", "implementation": types.SimpleNamespace(name=sys.implementation.name,
        version=sys.implementation.version), "builtin_module_names": (), "warnoptions": [],
        "stdlib_module_names": sys.stdlib_module_names, "orig_argv": [], "dont_write_bytecode": True,
    }  # fmt: skip

    class Modules(dict):  # type: ignore[type-arg]
        """``sys.modules``: what the program imported; a module of its own that is taken out is run anew by its next import."""

        def __delitem__(self, key: Any) -> None:
            dict.__delitem__(self, key)
            language.gate.own.forget(key)

        def pop(self, key: Any, *default: Any) -> Any:
            found = dict.pop(self, key, *default)
            language.gate.own.forget(key)
            return found

    settings: dict[str, Any] = {"argv": [""], "path": [], "stdin": stdin}

    def setting(name: str) -> property:
        return property(lambda self: settings[name], lambda self, value: settings.__setitem__(name, value))

    hooks: dict[str, Any] = {}

    def hook(name: str) -> property:
        def get(self: Any) -> Any:
            if name not in hooks:
                raise AttributeError(f"module 'sys' has no attribute {name!r}")
            return hooks[name]

        return property(get, lambda self, value: hooks.__setitem__(name, value))

    def excepthook(exctype: Any, value: Any, traceback: Any, /) -> None:
        """Print the exception."""
        language.gate.build("traceback").print_exception(exctype, value, traceback)

    def modules(self: Any) -> Any:
        return Modules(language.gate.loaded())

    body: dict[str, Any] = {
        "__slots__": (),
        "__module__": Facade.__module__,
        "__name__": "sys",
        "__all__": sorted([*(n for n in values if n[:1] != "_"), *settings, "stdout", "stderr", "modules"]),
        "__dir__": lambda self: list(type(self).__all__),
        "__setattr__": _set,
        "stdout": property(getter("stdout"), setter("stdout")),
        "stderr": property(getter("stderr"), setter("stderr")),
        "modules": property(modules),
        **{name: setting(name) for name in settings},
        # Of a prompt or a script that ends: here a step's error goes to the host.
        **{name: hook(name) for name in _HOOKS},
        "__excepthook__": staticmethod(excepthook),
        "__displayhook__": staticmethod(displayhook),
    }
    hooks |= {"excepthook": excepthook, "displayhook": displayhook}
    for name, value in values.items():
        body[name] = staticmethod(value) if isinstance(value, types.FunctionType) else value
    kind = type("module", (SysFacade,), body)
    as_facade(kind)
    return {"": object.__new__(kind)}


_HOOKS = ("excepthook", "displayhook", "tracebacklimit", "ps1", "ps2")


class SysFacade(Facade):
    """``sys``: the one module of which something may be set, its output streams."""

    __slots__ = ()


def _set(self: Any, name: str, value: Any) -> None:
    name = exact_name(name)
    if name in ("stdout", "stderr"):
        if not callable(getattr(value, "write", None)):
            raise TypeError(f"sys.{name} must have a write method")
        object.__setattr__(self, name, value)
    elif name in _HOOKS:
        object.__setattr__(self, name, value)
    elif name in ("argv", "path"):
        if type(value) is not list:  # argparse and the imports read it: what reads it shall not run the program's code
            raise TypeError(f"sys.{name} must be a list")
        object.__setattr__(self, name, value)
    elif name == "stdin":
        object.__setattr__(self, name, value)
    else:
        raise WriteRefused("the module 'sys' cannot be changed in this sandbox")


def _builtins(language: RestrictedLanguage) -> Exports:
    table = language.builtins
    known = {n for n in table if " " not in n and n != "__name__"}
    changeable = {n for n in known if n[:1] != "_"}

    class Builtins(Facade):
        """``builtins``, of which a program may exchange the public names, for itself: tests replace ``print`` and ``input``."""

        __slots__ = ()

        def __getattr__(self, name: str) -> Any:
            if name in known and name in table:
                return table[name]
            raise missing(self, name)

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in changeable:
                raise WriteRefused(f"builtins.{name} cannot be changed in this sandbox")
            table[name] = value

        def __delattr__(self, name: str) -> None:
            if name not in changeable or name not in table:
                raise AttributeError(name)
            del table[name]

        def __dir__(self) -> list[str]:
            return sorted(n for n in known if n in table)

    type.__setattr__(Builtins, "__name__", "builtins")
    body: Any = Builtins
    as_facade(body)
    return {"": object.__new__(Builtins)}


def _importlib(language: RestrictedLanguage) -> Exports:
    def import_module(name: str, package: str | None = None) -> Any:
        """As `importlib.import_module`."""
        return language.gate.find(_absolute(exact_name(name), package))

    def reload(module: Any) -> Any:
        """As `importlib.reload` for the program's own modules; of the others there is nothing to load again."""
        return language.gate.own.reload(module)

    def invalidate_caches() -> None:
        """Nothing to forget: every import looks for its file."""

    return {
        "import_module": import_module, "reload": reload, "invalidate_caches": invalidate_caches, "__import__": staticmethod(language.builtins["__import__"]),
    }  # fmt: skip


def _absolute(name: str, package: str | None) -> str:
    if name[:1] != ".":
        return name
    parts = exact_name(package).split(".") if package else []
    level = len(name) - len(name.lstrip("."))
    if level > len(parts):
        raise ImportError("attempted relative import beyond top-level package" if parts else
                          "the 'package' argument is required to perform a relative import for " + repr(name))  # fmt: skip
    return ".".join([*parts[: len(parts) - level + 1], *([name[level:]] if name[level:] else [])])


def _importlib_util(language: RestrictedLanguage) -> Exports:
    def find_spec(name: str, package: str | None = None) -> Any:
        """Something true where the module may be imported, None where not."""
        path = language.gate.own.locate(exact_name(name))
        if path is not None:
            return types.SimpleNamespace(name=exact_name(name), origin=path)
        try:
            language.gate.find(exact_name(name))
        except ImportError:
            return None
        return types.SimpleNamespace(name=exact_name(name), origin=None)

    return {"find_spec": find_spec}


def _timeit(language: RestrictedLanguage) -> Exports:
    import time

    def namespace(globals: Any) -> dict[str, Any]:
        space = language.behind(globals) if globals is not None else None
        return language.own_space(dict(globals or {})) if space is None else space

    def prepared(stmt: Any, space: dict[str, Any]) -> Callable[[], Any]:
        if callable(stmt):
            return stmt  # type: ignore[no-any-return]
        code = language.compile_one(exact_name(stmt), "<timeit>", "exec")
        return lambda: language.run(code, space)

    def timeit(stmt: Any = "pass", setup: Any = "pass", timer: Any = time.perf_counter, number: int = 1_000_000,
               globals: Any = None) -> float:  # fmt: skip
        """As `timeit.timeit`; text is run in the program's language."""
        space = namespace(globals)  # one for both: the statement uses what the set-up made
        prepared(setup, space)()
        run = prepared(stmt, space)
        started = timer()
        for _ in range(number):
            run()
        return float(timer() - started)

    def repeat(stmt: Any = "pass", setup: Any = "pass", timer: Any = time.perf_counter, repeat: int = 5,
               number: int = 1_000_000, globals: Any = None) -> list[float]:  # fmt: skip
        """As `timeit.repeat`."""
        return [timeit(stmt, setup, timer, number, globals) for _ in range(repeat)]

    class Timer:
        """As `timeit.Timer`."""

        __slots__ = ("_all",)

        def __init__(
            self, stmt: Any = "pass", setup: Any = "pass", timer: Any = time.perf_counter, globals: Any = None
        ) -> None:
            self._all = stmt, setup, timer, globals

        def timeit(self, number: int = 1_000_000) -> float:
            """As `timeit.Timer.timeit`."""
            stmt, setup, timer, globals = self._all
            return timeit(stmt, setup, timer, number, globals)

        def repeat(self, repeat: int = 5, number: int = 1_000_000) -> list[float]:
            """As `timeit.Timer.repeat`."""
            return [self.timeit(number) for _ in range(repeat)]

        def autorange(self, callback: Any = None) -> tuple[int, float]:
            """As `timeit.Timer.autorange`."""
            scale = 1
            while True:
                for number in (scale, scale * 2, scale * 5):
                    taken = self.timeit(number)
                    if callback is not None:
                        callback(number, taken)
                    if taken >= 0.2:
                        return number, taken
                scale *= 10

    return {"timeit": timeit, "repeat": repeat, "default_timer": time.perf_counter, "Timer": Timer}


def _gc(language: RestrictedLanguage) -> Exports:
    import gc

    shown = "collect disable enable isenabled get_count get_stats get_threshold is_finalized is_tracked set_threshold".split()
    return {n: getattr(gc, n) for n in shown}


def _atexit(language: RestrictedLanguage) -> Exports:
    import atexit

    registered: list[tuple[Any, Callable[[], Any]]] = []

    def register(func: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As `atexit.register`."""
        if not callable(func):
            raise TypeError("the first argument must be callable")

        def call() -> None:
            func(*args, **kwargs)

        registered.append((func, call))
        atexit.register(call)
        return func

    def unregister(func: Any, /) -> None:
        """As `atexit.unregister`, which compares what it is told with everybody's."""
        for known in list(registered):
            if known[0] is func or known[0] == func:
                registered[:] = [other for other in registered if other is not known]
                atexit.unregister(known[1])

    return {"register": register, "unregister": unregister}


def _codecs(language: RestrictedLanguage) -> Exports:
    import codecs

    from .paths import open_file

    def open(filename: Any, mode: str = "r", encoding: Any = None, errors: str = "strict", buffering: int = -1) -> Any:
        """As `codecs.open`, in the places that the builtin opens."""
        return open_file(filename, mode, encoding=encoding, errors=None if encoding is None else errors)

    own: set[str] = set()

    def register_error(errors: Any, handler: Any, /) -> None:
        """As `codecs.register_error`, for names that are not taken: what decodes paths and answers goes by the standard ones."""
        name = exact_name(errors)
        if name not in own:
            try:
                codecs.lookup_error(name)
            except LookupError:
                own.add(name)
            else:
                raise WriteRefused(f"the error handler {name!r} cannot be changed in this sandbox; take another name")
        codecs.register_error(name, handler)

    shown = """encode decode lookup getreader getwriter lookup_error strict_errors ignore_errors replace_errors backslashreplace_errors
        namereplace_errors xmlcharrefreplace_errors BOM BOM_LE BOM_BE BOM_UTF8 BOM_UTF16 BOM_UTF32 BOM_UTF16_LE BOM_UTF16_BE BOM_UTF32_LE BOM_UTF32_BE
        getdecoder getencoder getincrementaldecoder getincrementalencoder iterdecode iterencode"""
    return {n: getattr(codecs, n) for n in shown.split()} | {"open": open, "register_error": register_error}


def _locale(language: RestrictedLanguage) -> Exports:
    import locale

    shown = """LC_ALL LC_COLLATE LC_CTYPE LC_MESSAGES LC_MONETARY LC_NUMERIC LC_TIME CHAR_MAX Error atof atoi currency delocalize
        format_string getdefaultlocale getlocale getpreferredencoding localeconv localize normalize setlocale str strcoll strxfrm"""
    return {n: getattr(locale, n) for n in shown.split() if hasattr(locale, n)}


def _tracemalloc(language: RestrictedLanguage) -> Exports:
    import tracemalloc

    shown = "start stop is_tracing get_traced_memory reset_peak clear_traces get_tracemalloc_memory"
    return {n: getattr(tracemalloc, n) for n in shown.split()}


def _etree(language: RestrictedLanguage) -> Exports:
    import xml.etree.ElementTree as etree

    from .paths import open_file

    # Its functions look the builtin up in their module first, and find the one that checks the path; buffers that show their memory to nobody; and the
    # stream that a program's own tree may be given.
    vars(etree).update(open=open_file, io=language.gate.build("io"), sys=language.gate.build("sys"))
    shown = """Comment Element ElementTree ParseError ProcessingInstruction QName SubElement TreeBuilder XML XMLID XMLParser
        XMLPullParser dump fromstring fromstringlist indent iselement iterparse parse register_namespace tostring
        tostringlist""".split()
    return {n: getattr(etree, n) for n in shown if hasattr(etree, n)}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "sys": _sys,
    "builtins": _builtins,
    "importlib": _importlib,
    "importlib.util": _importlib_util,
    "timeit": _timeit,
    "gc": _gc,
    "atexit": _atexit,
    "codecs": _codecs,
    "locale": _locale,
    "tracemalloc": _tracemalloc,
    "xml.etree.ElementTree": _etree,
}
