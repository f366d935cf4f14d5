"""importlib, timeit, codecs and other modules of which a few functions are shown, or stand-ins of ours."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import WriteRefused, exact_name

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


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
        format_string getdefaultlocale getencoding getlocale getpreferredencoding localeconv localize normalize setlocale str strcoll strxfrm"""
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
