"""inspect and ast: what a program may learn of its own functions and classes."""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import (
    exact_name,
    is_class,
    is_guest_class,
    is_guest_function,
)

from .annotations import own_annotations
from .frames import FrameView, chain, here, of_traceback

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def _inspect(language: RestrictedLanguage) -> Exports:
    import inspect

    guards = language.guards
    shown = """Parameter cleandoc getdoc isabstract isasyncgen isasyncgenfunction isawaitable isbuiltin isclass iscoroutine
        iscoroutinefunction isfunction isgenerator isgeneratorfunction ismethod ismodule isroutine isdatadescriptor
        ismethoddescriptor BoundArguments CO_OPTIMIZED CO_NEWLOCALS CO_VARARGS CO_VARKEYWORDS CO_NESTED CO_GENERATOR CO_COROUTINE
        CO_ITERABLE_COROUTINE CO_ASYNC_GENERATOR isgetsetdescriptor ismemberdescriptor ismethodwrapper""".split()

    def signature(
        obj: Any, *, follow_wrapped: bool = True, globals: Any = None, locals: Any = None, eval_str: bool = False
    ) -> inspect.Signature:
        """As `inspect.signature`; annotations that are text are evaluated in the program's language."""
        found = inspect.signature(obj, follow_wrapped=bool(follow_wrapped))
        if not eval_str:
            return found
        function = unwrap(obj) if follow_wrapped else obj
        if is_class(function):
            function = guards.readable(function, "__init__", function)
        hints = own_annotations(language, function, globals, locals, True)

        def evaluated(name: str, known: Any) -> Any:
            return hints.get(name, known) if isinstance(known, str) else known

        parameters = [p.replace(annotation=evaluated(p.name, p.annotation)) for p in found.parameters.values()]
        return found.replace(parameters=parameters, return_annotation=evaluated("return", found.return_annotation))

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

    def get_annotations(obj: Any, *, globals: Any = None, locals: Any = None, eval_str: bool = False) -> dict[str, Any]:
        """As `inspect.get_annotations`; annotations that are text are evaluated in the program's language."""
        return own_annotations(language, obj, globals, locals, bool(eval_str))

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

    def currentframe() -> Any:
        """As `inspect.currentframe`: the program's own, and what may be known of it."""
        return here()

    def facts(frame: Any, lineno: int, context: int) -> tuple[str, int, str, list[str] | None, int | None]:
        code = frame.f_code
        lines = _step(code.co_filename)
        if context <= 0 or not lines:
            return code.co_filename, lineno, code.co_name, None, None
        first = max(0, min(lineno - 1 - context // 2, len(lines) - context))
        return code.co_filename, lineno, code.co_name, lines[first : first + context], lineno - 1 - first

    def getframeinfo(frame: Any, context: int = 1) -> Any:
        """As `inspect.getframeinfo`."""
        lineno = None
        if type(frame) is types.TracebackType:
            frame, lineno = of_traceback(frame), frame.tb_lineno
        if type(frame) is not FrameView:
            raise TypeError(f"{frame!r} is not a frame or traceback object")
        return inspect.Traceback(*facts(frame, lineno or frame.f_lineno, operator.index(context)))

    info: Any = inspect.FrameInfo

    def stack(context: int = 1) -> list[Any]:
        """As `inspect.stack`, the program's own frames only."""
        return [info(f, *facts(f, f.f_lineno, operator.index(context))) for f in chain(None)]

    def trace(context: int = 1) -> list[Any]:
        """As `inspect.trace`, the program's own frames only."""
        error = sys.exc_info()[1]
        frames = language.gate.build("traceback").walk_tb(error and error.__traceback__)
        return [info(frame, *facts(frame, line, operator.index(context))) for frame, line in frames]

    generator = ("GEN_CREATED", "GEN_RUNNING", "GEN_SUSPENDED", "GEN_CLOSED")
    coroutine = ("CORO_CREATED", "CORO_RUNNING", "CORO_SUSPENDED", "CORO_CLOSED")
    table = {n: getattr(inspect, n) for n in shown if hasattr(inspect, n)}
    return table | {
        "signature": signature,
        "getmembers": getmembers,
        "currentframe": currentframe,
        "getframeinfo": getframeinfo,
        "stack": stack,
        "trace": trace,
        "isframe": lambda object: type(object) is FrameView,
        "istraceback": inspect.istraceback,
        "FrameInfo": inspect.FrameInfo,
        "Traceback": inspect.Traceback,
        "get_annotations": get_annotations,
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
        get_source_segment increment_lineno iter_child_nodes iter_fields literal_eval parse unparse walk"""
    return exports | {n: getattr(ast, n) for n in shown.split()}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "inspect": _inspect,
    "ast": _ast,
}
