"""logging, its handlers within the working directory."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.denied import deny_class
from safeexec_backends.local.language.identity import (
    WriteRefused,
    class_mro,
    class_name,
    describe,
    exact_name,
    is_class,
    passes_on,
)

from .frames import caller, view

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def _tame_styles(logging: Any, language: RestrictedLanguage) -> None:
    """A style formats whatever it is told is a record, and hands all its variables to a template: of ``type``, what nobody may read of it.

    A program comes by its formatter's style, and may begin that anew with another template, or inherit from its class.
    """

    def values_of(style: Any, record: Any) -> dict[str, Any]:
        found = record.__dict__ if type(record) is logging.LogRecord else language.guards.variables(record)
        return {**(getattr(style, "_defaults", None) or {}), **found}

    def percent(self: Any, record: Any) -> Any:
        return self._fmt % values_of(self, record)

    def braces(self: Any, record: Any) -> str:  # every field goes through the guard
        found: str = language.guards.formatter().vformat(exact_name(self._fmt), (), values_of(self, record))
        return found

    def dollar(self: Any, record: Any) -> Any:
        return self._tpl.substitute(values_of(self, record))

    for kind, method in (("PercentStyle", percent), ("StrFormatStyle", braces), ("StringTemplateStyle", dollar)):
        getattr(logging, kind)._format = method


def _callers_of_the_program(logging: Any, language: RestrictedLanguage) -> None:
    """Who logs: the library's own finds any frame of the process, at the level that the program names, and shows the lines of its files."""

    def findCaller(self: Any, stack_info: bool = False, stacklevel: int = 1) -> tuple[str, int, str, str | None]:
        frame = caller(sys._getframe(1), operator.index(stacklevel))
        text = None
        if stack_info:
            lines = language.gate.build("traceback").format_stack(view(frame))
            text = "".join(["Stack (most recent call last):\n", *lines]).rstrip("\n")
        if frame is None:  # the library, in a thread of its own
            return "(unknown file)", 0, "(unknown function)", text
        return frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, text

    logging.Logger.findCaller = findCaller


def _no_writes_by_adapters(logging: Any) -> None:
    """The manager of a logger's adapter is set on whatever it adapts."""
    adapter = logging.LoggerAdapter
    original = adapter.manager

    def set_manager(self: Any, value: Any) -> None:
        # Asked once, and its class not by what it says of itself: the next answer could be a class of the library.
        logger = self.logger
        if not issubclass(type(logger), logging.Logger | logging.LoggerAdapter):
            raise WriteRefused("an adapter's manager is its logger's")
        logger.manager = value

    if original.fset.__module__ != __name__:
        adapter.manager = property(original.fget, set_manager)


def _errors_of_the_program(logging: Any, language: RestrictedLanguage) -> None:
    """What a handler says when it fails: the library's own shows every frame of the process, and where its files lie."""

    def handleError(self: Any, record: Any) -> None:
        if not logging.raiseExceptions:
            return
        tracebacks = language.gate.build("traceback")
        lines = [
            "--- Logging error ---\n",
            *tracebacks.format_exception(sys.exc_info()[1]),
            "Call stack:\n",
            *tracebacks.format_stack(),
        ]
        try:
            lines.append(f"Message: {record.msg!r}\nArguments: {record.args}\n")
        except RecursionError:
            raise
        except Exception:
            lines.append("Unable to print the message and arguments - possible formatting error.\n")
        language.streams.shown("stderr").write("".join(lines))

    logging.Handler.handleError = handleError


def _made_by_the_program(logging: Any) -> Exports:
    """Classes of loggers and factories of records that the program names.

    The library sets the manager and the parent of a logger, and whatever ``extra`` names in a record's variables, on what these give: of that it
    is asked first whether it is one, and no alias of something else, which would pass the variables of that on.
    """

    def checked(make: Any, kind: type) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            found = make(*args, **kwargs)
            if not issubclass(type(found), kind) or passes_on(type(found)):
                raise WriteRefused(f"{describe(found)} is no {kind.__name__}")
            return found

        return made

    # Of a manager, with the manager itself, so that no other gets its id.
    given: dict[int, tuple[Any, Callable[..., Any]]] = {}
    own: dict[str, Any] = {"class": logging.Logger, "record": logging.LogRecord}

    def class_of(manager: Any) -> Any:
        return given[id(manager)][1] if id(manager) in given else checked(own["class"], logging.Logger)

    def set_class_of(manager: Any, kind: Any) -> None:
        given.pop(id(manager), None)
        if kind is not None:
            given[id(manager)] = manager, checked(kind, logging.Logger)

    def setLoggerClass(klass: Any) -> None:
        """As `logging.setLoggerClass`."""
        if not is_class(klass) or not any(base is logging.Logger for base in class_mro(klass)):
            name = class_name(klass if is_class(klass) else type(klass))
            raise TypeError(f"logger not derived from logging.Logger: {name}")
        own["class"] = klass

    def setLogRecordFactory(factory: Any) -> None:
        """As `logging.setLogRecordFactory`."""
        own["record"] = factory
        logging._logRecordFactory = factory if factory is logging.LogRecord else checked(factory, logging.LogRecord)

    logging.Manager.loggerClass = property(class_of, set_class_of)
    setLogRecordFactory(logging.LogRecord)
    return {
        "setLoggerClass": setLoggerClass, "getLoggerClass": lambda: own["class"],
        "setLogRecordFactory": setLogRecordFactory, "getLogRecordFactory": lambda: own["record"],
    }  # fmt: skip


def _logging(language: RestrictedLanguage) -> Exports:
    import logging

    _no_writes_by_adapters(logging)
    _errors_of_the_program(logging, language)

    from .paths import open_file, text_path

    deny_class(logging.Formatter)
    _tame_styles(logging, language)
    _callers_of_the_program(logging, language)

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
            super().__init__(language.streams.shown("stderr") if stream is None else stream)

    def file_of(handler: Any) -> Any:
        return open_file(handler.baseFilename, handler.mode, encoding=handler.encoding, errors=handler.errors)

    class FileHandler(StreamHandler):
        """Writes to a file in the places that `open` allows."""

        def __init__(
            self, filename: Any, mode: str = "a", encoding: Any = None, delay: bool = False, errors: Any = None
        ) -> None:
            self.baseFilename = os.path.abspath(text_path(filename))
            self.mode, self.encoding, self.errors, self.delay = mode, encoding, errors, delay
            super().__init__(None if delay else file_of(self))
            if delay:
                self.stream = None

        def emit(self, record: Any) -> None:
            if self.stream is None and (self.mode != "w" or not getattr(self, "_closed", False)):
                self.stream = file_of(self)
            if self.stream is not None:
                super().emit(record)

        def close(self) -> None:
            stream, self.stream = self.stream, None
            if stream is not None:
                stream.close()
            super().close()

    def basicConfig(**given: Any) -> None:
        """As `logging.basicConfig`."""
        root = logging.root
        if given.pop("force", False):
            for handler in root.handlers[:]:
                root.removeHandler(handler)
                handler.close()
        encoding, errors = given.pop("encoding", None), given.pop("errors", "backslashreplace")
        if root.handlers:
            return
        handlers = given.pop("handlers", None)
        if handlers is None and {"stream", "filename"} <= given.keys():
            raise ValueError("'stream' and 'filename' should not be specified together")
        if handlers is not None and {"stream", "filename"} & given.keys():
            raise ValueError("'stream' or 'filename' should not be specified together with 'handlers'")
        filename, filemode, stream = given.pop("filename", None), given.pop("filemode", "a"), given.pop("stream", None)
        if handlers is None:
            made: Any = FileHandler(filename, filemode, encoding, errors=errors) if filename else StreamHandler(stream)
            handlers = [made]
        datefmt, style = given.pop("datefmt", None), exact_name(given.pop("style", "%"))
        default = {
            "%": logging.BASIC_FORMAT,
            "{": "{levelname}:{name}:{message}",
            "$": "${levelname}:${name}:${message}",
        }
        if style not in default:
            raise ValueError(f"Style must be one of: {','.join(default)}")
        formatter = Formatter(given.pop("format", default[style]), datefmt, style)
        for handler in handlers:
            if handler.formatter is None:
                handler.setFormatter(formatter)
            root.addHandler(handler)
        level = given.pop("level", None)
        if level is not None:
            root.setLevel(level)
        if given:
            raise ValueError(f"Unrecognised argument(s): {', '.join(given)}")

    def getLogger(name: Any = None) -> logging.Logger:
        """As `logging.getLogger`."""
        return logging.getLogger(None if name is None else exact_name(name))

    def through(method: str) -> Callable[..., None]:
        def log(*args: Any, **kwargs: Any) -> None:
            if not logging.root.handlers:
                basicConfig()
            getattr(logging.root, method)(*args, **kwargs)

        log.__name__ = method
        return log

    shown = """CRITICAL DEBUG ERROR FATAL INFO NOTSET WARN WARNING BASIC_FORMAT Filter Filterer Handler LogRecord Logger
        LoggerAdapter NullHandler PercentStyle addLevelName captureWarnings disable getLevelName getLevelNamesMapping
        makeLogRecord root raiseExceptions shutdown""".split()
    exports = {n: getattr(logging, n) for n in shown if hasattr(logging, n)}
    exports |= {n: through(n) for n in ("critical", "debug", "error", "exception", "info", "log", "warning")}
    return exports | _made_by_the_program(logging) | {
        "Formatter": Formatter, "StreamHandler": StreamHandler, "FileHandler": FileHandler, "basicConfig": basicConfig,
        "_nameToLevel": dict(logging._nameToLevel),  # unittest reads it
        "getLogger": getLogger, "fatal": exports["critical"], "warn": exports["warning"],
    }  # fmt: skip


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "logging": _logging,
}
