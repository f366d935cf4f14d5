"""sys, logging, traceback and other modules that speak of the interpreter itself."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.denied import deny_class
from safeexec_backends.local.language.identity import PLAIN, WriteRefused, exact_name, is_guest_frame

from . import Facade, missing

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]
_MAX_RECURSION = 10_000


class _Output:
    """``sys.stdout`` or ``sys.stderr`` as a program sees it: the stream itself holds the channel to the host."""

    __slots__ = ("_name", "_streams", "encoding", "errors", "name")

    def __init__(self, name: str, streams: Streams) -> None:
        self._name = name
        self._streams = streams
        self.name = f"<{name}>"
        self.encoding = "utf-8"
        self.errors = "backslashreplace"

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        return int(self._streams.own(self._name).write(text))

    def writelines(self, lines: Any, /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._streams.own(self._name).flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def fileno(self) -> int:
        import io

        raise io.UnsupportedOperation("fileno")

    @property
    def closed(self) -> bool:
        return False

    @property
    def buffer(self) -> Any:
        return _Bytes(self._name, self._streams)


class _Bytes:
    """``sys.stdout.buffer``."""

    __slots__ = ("_name", "_streams")

    def __init__(self, name: str, streams: Streams) -> None:
        self._name = name
        self._streams = streams

    def write(self, data: Any, /) -> int:
        raw = bytes(data)
        stream = self._streams.own(self._name)
        buffer = getattr(stream, "buffer", None)
        if buffer is None:
            stream.write(raw.decode("utf-8", "replace"))
        else:
            buffer.write(raw)
        return len(raw)

    def flush(self) -> None:
        self._streams.own(self._name).flush()


class Streams:
    """The output streams, of which a program may put others in place; the guest program's own stay out of its reach."""

    def __init__(self) -> None:
        self.outputs = {"stdout": _Output("stdout", self), "stderr": _Output("stderr", self)}
        self._replaced: dict[str, Any] = {}
        self._stack: dict[str, list[Any]] = {"stdout": [], "stderr": []}

    def own(self, name: str) -> Any:
        """The guest program's stream."""
        return self._replaced.get(name, getattr(sys, name))

    def shown(self, name: str) -> Any:
        """``sys.stdout``, ``sys.stderr``."""
        now = getattr(sys, name)
        return self.outputs[name] if now is self.own(name) else now

    def put(self, name: str, value: Any) -> None:
        """``sys.stdout = value``."""
        own = self.own(name)
        if value is self.outputs[name]:
            self._replaced.pop(name, None)
            setattr(sys, name, own)
        else:
            self._replaced[name] = own
            setattr(sys, name, value)

    def push(self, name: str, value: Any) -> None:
        """``redirect_stdout``, beginning."""
        self._stack[name].append(self.shown(name))
        self.put(name, value)

    def pop(self, name: str) -> None:
        """``redirect_stdout``, ending."""
        self.put(name, self._stack[name].pop())

    def reset(self) -> None:
        """A step begins: the guest program has put its own streams back."""
        self._replaced.clear()


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
        if limit > _MAX_RECURSION:
            raise ValueError(f"the recursion limit is at most {_MAX_RECURSION} in this sandbox")
        sys.setrecursionlimit(limit)

    def exit(status: object = None, /) -> None:
        raise SystemExit(status)

    def displayhook(value: object, /) -> None:
        if value is not None:
            outputs["stdout"].write(repr(value) + "\n")

    import io

    stdin = io.StringIO()
    shown = """version version_info hexversion api_version maxsize maxunicode byteorder platform float_info int_info hash_info
        float_repr_style getsizeof getrecursionlimit getdefaultencoding getfilesystemencoding intern getrefcount
        exception get_int_max_str_digits set_int_max_str_digits copyright""".split()
    values: dict[str, Any] = {n: getattr(sys, n) for n in shown if hasattr(sys, n)}
    values |= {
        "exc_info": exc_info, "exit": exit, "setrecursionlimit": setrecursionlimit,
        "__stdout__": outputs["stdout"], "__stderr__": outputs["stderr"], "stdin": stdin,
        "argv": [""], "path": [], "flags": types.SimpleNamespace(
            optimize=0, debug=0, verbose=0, utf8_mode=1, dev_mode=False, interactive=0, inspect=0, ignore_environment=1, bytes_warning=0,
            isolated=1, warn_default_encoding=0, hash_randomization=1),
        "executable": "", "prefix": "", "base_prefix": "", "exec_prefix": "", "base_exec_prefix": "", "implementation": types.SimpleNamespace(name=sys.implementation.name,
        version=sys.implementation.version), "builtin_module_names": (), "warnoptions": [],
        "stdlib_module_names": sys.stdlib_module_names, "orig_argv": [], "dont_write_bytecode": True,
    }  # fmt: skip

    class Modules(dict):  # type: ignore[type-arg]
        """``sys.modules``: what the program imported."""

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
        "__all__": sorted([*(n for n in values if n[:1] != "_"), "stdout", "stderr", "modules"]),
        "__dir__": lambda self: list(type(self).__all__),
        "__setattr__": _set,
        "stdout": property(getter("stdout"), setter("stdout")),
        "stderr": property(getter("stderr"), setter("stderr")),
        "modules": property(modules),
        # Of a prompt or a script that ends: here a step's error goes to the host.
        **{name: hook(name) for name in _HOOKS},
        "__excepthook__": staticmethod(excepthook),
        "__displayhook__": staticmethod(displayhook),
    }
    hooks |= {"excepthook": excepthook, "displayhook": displayhook}
    for name, value in values.items():
        body[name] = staticmethod(value) if isinstance(value, types.FunctionType) else value
    kind = type("sys", (SysFacade,), body)
    PLAIN[id(kind)] = kind
    return {"": object.__new__(kind)}


_HOOKS = ("excepthook", "displayhook", "tracebacklimit", "ps1", "ps2")


class SysFacade(Facade):
    """``sys``: the one module of which something may be set, its output streams."""

    __slots__ = ()


def _set(self: Any, name: str, value: Any) -> None:
    if name in ("stdout", "stderr"):
        if not callable(getattr(value, "write", None)):
            raise TypeError(f"sys.{name} must have a write method")
        object.__setattr__(self, name, value)
    elif name in _HOOKS:
        object.__setattr__(self, name, value)
    elif name in ("argv", "stdin", "path"):
        raise WriteRefused(f"sys.{name} cannot be replaced in this sandbox; its contents can be changed")
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

        def __delattr__(self, name: str) -> None:  # type: ignore[override]
            if name not in changeable or name not in table:
                raise AttributeError(name)
            del table[name]

        def __dir__(self) -> list[str]:
            return sorted(n for n in known if n in table)

    type.__setattr__(Builtins, "__name__", "builtins")
    body: Any = Builtins
    PLAIN[id(body)] = body
    return {"": object.__new__(Builtins)}


def _importlib(language: RestrictedLanguage) -> Exports:
    def import_module(name: str, package: str | None = None) -> Any:
        """As `importlib.import_module`."""
        return language.gate.find(exact_name(name))

    def reload(module: Any) -> Any:
        """Nothing to load again: the module itself."""
        return module

    return {"import_module": import_module, "reload": reload, "__import__": language.gate.function}


def _importlib_util(language: RestrictedLanguage) -> Exports:
    def find_spec(name: str, package: str | None = None) -> Any:
        """Something true where the module may be imported, None where not."""
        try:
            language.gate.find(exact_name(name))
        except ImportError:
            return None
        return types.SimpleNamespace(name=exact_name(name), origin=None)

    return {"find_spec": find_spec}


class FrameSummary:
    """As `traceback.FrameSummary`, which would read its line from any file."""

    __slots__ = ("filename", "line", "lineno", "name")

    def __init__(self, filename: Any, lineno: Any, name: Any, *, line: Any = None, **more: Any) -> None:
        self.filename = filename
        self.lineno = lineno
        self.name = name
        self.line = line

    def __iter__(self) -> Any:
        return iter([self.filename, self.lineno, self.name, self.line])

    def __getitem__(self, index: Any) -> Any:
        return (self.filename, self.lineno, self.name, self.line)[index]

    def __len__(self) -> int:
        return 4

    def __repr__(self) -> str:
        return f"<FrameSummary file {self.filename}, line {self.lineno} in {self.name}>"


def _traceback(language: RestrictedLanguage) -> Exports:
    import traceback

    def trimmed(error: BaseException, limit: Any = None, chain: bool = True) -> Any:
        report = traceback.TracebackException(type(error), error, error.__traceback__, limit=limit)
        queue: list[Any] = [report]
        seen: set[int] = set()
        while queue:
            item = queue.pop()
            if item is None or id(item) in seen:
                continue
            seen.add(id(item))
            # Where the interpreter lies is nobody's business; the program's own lines are in "<…>".
            item.stack = traceback.StackSummary.from_list([f for f in item.stack if keep(f)])
            queue += [item.__cause__, item.__context__, *(getattr(item, "exceptions", None) or ())]
        return report

    def keep(frame: traceback.FrameSummary) -> bool:
        return frame.filename[:1] == "<" and not frame.filename.startswith("<frozen")

    def format_exception(
        exc: Any, /, value: Any = None, tb: Any = None, limit: Any = None, chain: bool = True
    ) -> list[str]:
        """As `traceback.format_exception`, the program's own lines only."""
        error = value if value is not None else exc
        if not isinstance(error, BaseException):
            return ["NoneType: None\n"]
        return list(trimmed(error, limit).format(chain=chain))

    def format_exc(limit: Any = None, chain: bool = True) -> str:
        """As `traceback.format_exc`."""
        return "".join(format_exception(sys.exc_info()[1], None, None, limit, chain))

    def print_exception(exc: Any, /, value: Any = None, tb: Any = None, limit: Any = None, file: Any = None,
                        chain: bool = True) -> None:  # fmt: skip
        """As `traceback.print_exception`."""
        text = "".join(format_exception(exc, value, tb, limit, chain))
        (sys.stderr if file is None else file).write(text)

    def print_exc(limit: Any = None, file: Any = None, chain: bool = True) -> None:
        """As `traceback.print_exc`."""
        print_exception(sys.exc_info()[1], None, None, limit, file, chain)

    def own(tb: Any, limit: Any) -> list[traceback.FrameSummary]:
        return [f for f in traceback.extract_tb(tb, limit) if keep(f)]

    def extract_tb(tb: Any, limit: Any = None) -> list[FrameSummary]:
        """As `traceback.extract_tb`."""
        return [FrameSummary(f.filename, f.lineno, f.name, line=f.line) for f in own(tb, limit)]

    def format_list(frames: Any) -> list[str]:
        """As `traceback.format_list`."""
        made = [f if type(f) is FrameSummary else FrameSummary(f[0], f[1], f[2], line=f[3]) for f in frames]
        lines = [f'  File "{f.filename}", line {f.lineno}, in {f.name}\n' for f in made]
        return [a + (f"    {f.line.strip()}\n" if f.line else "") for a, f in zip(lines, made, strict=True)]

    def format_tb(tb: Any, limit: Any = None) -> list[str]:
        """As `traceback.format_tb`."""
        return list(traceback.StackSummary.from_list(own(tb, limit)).format())

    def print_tb(tb: Any, limit: Any = None, file: Any = None) -> None:
        """As `traceback.print_tb`."""
        (sys.stderr if file is None else file).write("".join(format_tb(tb, limit)))

    def clear_frames(tb: Any) -> None:
        """As `traceback.clear_frames`, the program's own frames only."""
        while tb is not None:
            if is_guest_frame(tb.tb_frame):
                try:
                    tb.tb_frame.clear()
                except RuntimeError:
                    pass  # it still runs
            tb = tb.tb_next

    return {
        "clear_frames": clear_frames,
        "format_exception": format_exception, "format_exc": format_exc, "print_exception": print_exception,
        "print_exc": print_exc, "extract_tb": extract_tb, "format_tb": format_tb, "print_tb": print_tb,
        "format_exception_only": traceback.format_exception_only, "format_list": format_list,
        "FrameSummary": FrameSummary,
    }  # fmt: skip


def _str_style(language: RestrictedLanguage) -> Callable[[Any, Any], str]:
    def format_record(self: Any, record: Any) -> str:
        values = {**(getattr(self, "_defaults", None) or {}), **record.__dict__}
        found: str = language.guards.formatter().vformat(exact_name(self._fmt), (), values)
        return found

    return format_record


def _logging(language: RestrictedLanguage) -> Exports:
    import logging

    from . import files

    deny_class(logging.Formatter)
    # A program comes by its formatter's style, and may begin that anew with another template: every field goes through the guard.
    setattr(logging.StrFormatStyle, "_format", _str_style(language))  # noqa: B010

    class Formatter(logging.Formatter):
        """As `logging.Formatter`; a template of the style ``{`` may not read attributes."""

        def __init__(
            self, fmt: Any = None, datefmt: Any = None, style: str = "%", validate: bool = True, **more: Any
        ) -> None:
            style = exact_name(style)
            if fmt is not None:
                fmt = exact_name(fmt)
                if style == "{":
                    _tame(fmt)
            super().__init__(fmt, datefmt, style, validate, **more)  # type: ignore[arg-type]

        def formatException(self, ei: Any) -> str:
            return "".join(language.gate.build("traceback").format_exception(ei[1])).rstrip("\n")

    def _tame(template: Any) -> None:
        import string

        for _, field, spec, _ in string.Formatter().parse(template):
            if field and ("." in field or "[" in field):  # str.format would read whatever the record holds
                raise ValueError("a logging format may not read attributes in this sandbox")
            if spec and "{" in spec:
                _tame(spec)

    class StreamHandler(logging.StreamHandler):  # type: ignore[type-arg]
        def __init__(self, stream: Any = None) -> None:
            super().__init__(sys.stderr if stream is None else stream)
            self.setFormatter(Formatter())

    class FileHandler(StreamHandler):
        """Writes to a file in the places that `open` allows."""

        def __init__(
            self, filename: Any, mode: str = "a", encoding: Any = None, delay: bool = False, errors: Any = None
        ) -> None:
            self.baseFilename = str(filename)
            super().__init__(files.open_file(filename, mode, encoding=encoding, errors=errors))

        def close(self) -> None:
            self.stream.close()
            super().close()

    def basicConfig(*, filename: Any = None, filemode: str = "a", format: Any = None, datefmt: Any = None, style: str = "%",
                    level: Any = None, stream: Any = None, handlers: Any = None, force: bool = False,
                    encoding: Any = None, errors: Any = None) -> None:  # fmt: skip
        """As `logging.basicConfig`."""
        if force:
            for handler in logging.root.handlers[:]:
                logging.root.removeHandler(handler)
                handler.close()
        if not logging.root.handlers:
            if handlers is None:
                made: Any = (
                    FileHandler(filename, filemode, encoding, errors=errors) if filename else StreamHandler(stream)
                )
                handlers = [made]
            default = {
                "%": logging.BASIC_FORMAT,
                "{": "{levelname}:{name}:{message}",
                "$": "${levelname}:${name}:${message}",
            }
            formatter = Formatter(default[style] if format is None else format, datefmt, style)
            for handler in handlers:
                if handler.formatter is None or type(handler.formatter) is Formatter:
                    handler.setFormatter(formatter)
                logging.root.addHandler(handler)
            if level is not None:
                logging.root.setLevel(level)

    def getLogger(name: Any = None) -> logging.Logger:
        """As `logging.getLogger`."""
        return logging.getLogger(None if name is None else exact_name(name))

    def through(method: str) -> Callable[..., None]:
        def log(*args: Any, **kwargs: Any) -> None:
            if not logging.root.handlers:
                basicConfig()
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            getattr(logging.root, method)(*args, **kwargs)

        log.__name__ = method
        return log

    shown = """CRITICAL DEBUG ERROR FATAL INFO NOTSET WARN WARNING BASIC_FORMAT Filter Filterer Handler LogRecord Logger
        LoggerAdapter NullHandler PercentStyle addLevelName captureWarnings disable getLevelName getLevelNamesMapping
        makeLogRecord root raiseExceptions shutdown""".split()
    exports = {n: getattr(logging, n) for n in shown if hasattr(logging, n)}
    exports |= {n: through(n) for n in ("critical", "debug", "error", "exception", "info", "log", "warning")}
    return exports | {
        "Formatter": Formatter, "StreamHandler": StreamHandler, "FileHandler": FileHandler, "basicConfig": basicConfig,
        "_nameToLevel": dict(logging._nameToLevel),  # unittest reads it
        "getLogger": getLogger, "fatal": exports["critical"], "warn": exports["warning"],
    }  # fmt: skip


def _logging_handlers(language: RestrictedLanguage) -> Exports:
    import logging.handlers

    return {"MemoryHandler": logging.handlers.MemoryHandler, "BufferingHandler": logging.handlers.BufferingHandler}


def _platform(language: RestrictedLanguage) -> Exports:
    import platform

    values = {
        "system": "Linux", "node": "sandbox", "release": "", "version": "", "machine": "", "processor": "",
        "python_version": platform.python_version(), "python_implementation": platform.python_implementation(),
        "platform": "Linux",
    }  # fmt: skip
    return {name: _constant(value) for name, value in values.items()} | {
        "python_version_tuple": lambda: tuple(platform.python_version().split(".")),
        "architecture": lambda: ("64bit", "ELF"),
    }


def _constant(value: str) -> Callable[[], str]:
    return lambda: value


def _timeit(language: RestrictedLanguage) -> Exports:
    import time

    def prepared(stmt: Any, globals: Any) -> Callable[[], Any]:
        if callable(stmt):
            return stmt  # type: ignore[no-any-return]
        code = language.compile_one(exact_name(stmt), "<timeit>", "exec")
        space = language.behind(globals) if globals is not None else None
        if space is None:
            space = {"__builtins__": language.fresh_builtins(), **dict(globals or {})}
            space["__builtins__"] = language.fresh_builtins()
        return lambda: exec(code, space)

    def timeit(stmt: Any = "pass", setup: Any = "pass", timer: Any = time.perf_counter, number: int = 1_000_000,
               globals: Any = None) -> float:  # fmt: skip
        """As `timeit.timeit`; text is run in the program's language."""
        space: Any = globals if globals is not None else {}
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

    return {"timeit": timeit, "repeat": repeat, "default_timer": time.perf_counter}


def _gc(language: RestrictedLanguage) -> Exports:
    import gc

    return {n: getattr(gc, n) for n in ("collect", "disable", "enable", "isenabled", "get_count", "get_threshold")}


def _atexit(language: RestrictedLanguage) -> Exports:
    import atexit

    return {"register": atexit.register, "unregister": atexit.unregister}


def _codecs(language: RestrictedLanguage) -> Exports:
    import codecs

    from . import files

    def open(filename: Any, mode: str = "r", encoding: Any = None, errors: str = "strict", buffering: int = -1) -> Any:
        """As `codecs.open`, in the places that the builtin opens."""
        return files.open_file(filename, mode, encoding=encoding, errors=None if encoding is None else errors)

    shown = """encode decode lookup BOM BOM_LE BOM_BE BOM_UTF8 BOM_UTF16 BOM_UTF32 BOM_UTF16_LE BOM_UTF16_BE BOM_UTF32_LE BOM_UTF32_BE
        getincrementaldecoder getincrementalencoder"""
    return {n: getattr(codecs, n) for n in shown.split()} | {"open": open}


def _locale(language: RestrictedLanguage) -> Exports:
    import locale

    shown = """LC_ALL LC_COLLATE LC_CTYPE LC_MESSAGES LC_MONETARY LC_NUMERIC LC_TIME CHAR_MAX Error atof atoi currency delocalize
        format_string getdefaultlocale getlocale getpreferredencoding localeconv localize normalize setlocale str strcoll strxfrm"""
    return {n: getattr(locale, n) for n in shown.split() if hasattr(locale, n)}


def _tracemalloc(language: RestrictedLanguage) -> Exports:
    import tracemalloc

    shown = "start stop is_tracing get_traced_memory reset_peak clear_traces get_tracemalloc_memory"
    return {n: getattr(tracemalloc, n) for n in shown.split()}


def _getpass(language: RestrictedLanguage) -> Exports:
    from safeexec.guest import refuse_input

    return {"getuser": _constant("sandbox"), "getpass": refuse_input, "GetPassWarning": UserWarning}


def _etree(language: RestrictedLanguage) -> Exports:
    import xml.etree.ElementTree as etree

    from .files import open_file

    # Its functions look the builtin up in their module first, and find the one that checks the path.
    setattr(etree, "open", open_file)  # noqa: B010
    shown = """Comment Element ElementTree ParseError ProcessingInstruction QName SubElement TreeBuilder XML XMLID XMLParser
        XMLPullParser dump fromstring fromstringlist indent iselement iterparse parse register_namespace tostring
        tostringlist""".split()
    return {n: getattr(etree, n) for n in shown if hasattr(etree, n)}


def _linecache(language: RestrictedLanguage) -> Exports:
    from .files import open_file

    def getlines(filename: Any, module_globals: Any = None) -> list[str]:
        """As `linecache.getlines`, in the places that the builtin opens."""
        try:
            with open_file(filename, "r", encoding="utf-8") as file:
                lines = file.readlines()
        except (OSError, UnicodeDecodeError):
            return []
        return [*lines[:-1], lines[-1].rstrip("\n") + "\n"] if lines else []

    def getline(filename: Any, lineno: int, module_globals: Any = None) -> str:
        """As `linecache.getline`."""
        lines = getlines(filename)
        return lines[lineno - 1] if 1 <= lineno <= len(lines) else ""

    def nothing(filename: Any = None) -> None:
        """Nothing is kept."""

    return {"getline": getline, "getlines": getlines, "checkcache": nothing, "clearcache": nothing}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "sys": _sys,
    "builtins": _builtins,
    "importlib": _importlib,
    "importlib.util": _importlib_util,
    "traceback": _traceback,
    "logging": _logging,
    "logging.handlers": _logging_handlers,
    "platform": _platform,
    "timeit": _timeit,
    "gc": _gc,
    "atexit": _atexit,
    "codecs": _codecs,
    "locale": _locale,
    "tracemalloc": _tracemalloc,
    "getpass": _getpass,
    "xml.etree.ElementTree": _etree,
    "linecache": _linecache,
}
