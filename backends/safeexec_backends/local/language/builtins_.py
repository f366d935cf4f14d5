"""The builtins of programs: CPython's own, except for those that read attributes by name, see frames, run code or open files."""

from __future__ import annotations

import builtins
import functools
import operator
import types
import warnings
from ast import AST, PyCF_ONLY_AST
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from safeexec.guest import fast_print, input_from, leave, refuse_input

from .identity import MAIN, AttributeRefused, LanguageRefused, class_dict, class_mro, exact_name, is_guest_class

if TYPE_CHECKING:
    from . import RestrictedLanguage

_AS_THEY_ARE = """
    abs aiter all anext any ascii bin bool bytearray bytes callable chr classmethod complex dict divmod enumerate filter float
    format frozenset hash hex id int isinstance issubclass iter len list map max memoryview min next object oct ord pow
    property range repr reversed round set slice sorted staticmethod str sum super tuple type zip
    None True False Ellipsis NotImplemented __debug__ __build_class__
"""

_OPTIMIZED = 0x1
"""Of code whose variables are in no dictionary (inspect.CO_OPTIMIZED): a function's."""


class Code:
    """What ``compile()`` gives: for ``exec`` and ``eval``, and to be asked for the names that are in it."""

    __slots__ = ("__weakref__", "_names")
    _names: Callable[[], tuple[str, ...]]

    def __repr__(self) -> str:
        return "<code object>"


def names_of(code: Code) -> tuple[str, ...]:
    """``co_names`` of the program as it was written, which those look through who evaluate what others wrote."""
    return code._names()


def _names(source: Any, filename: str, mode: str) -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were shown when it was compiled
        return compile(source, filename, mode, dont_inherit=True).co_names


def make_builtins(language: RestrictedLanguage) -> dict[str, Any]:
    """The builtins dictionary of one session."""
    table: dict[str, Any] = {name: getattr(builtins, name) for name in _AS_THEY_ARE.split()}
    for name, item in vars(builtins).items():
        if isinstance(item, type) and issubclass(item, BaseException):
            table[name] = item
    guards = language.guards
    codes: dict[int, tuple[Code, types.CodeType, str]] = {}
    missing = object()

    def getattr_(o: Any, name: Any, /, default: Any = missing) -> Any:
        name = exact_name(name)
        try:
            return guards.read(o, name)
        except AttributeError:
            if default is missing:
                raise
            return default

    def hasattr_(o: Any, name: Any, /) -> bool:
        name = exact_name(name)
        try:
            guards.read(o, name)
        except AttributeError:
            return False
        return True

    def setattr_(o: Any, name: Any, value: Any, /) -> None:
        guards.set(o, exact_name(name), value)

    def delattr_(o: Any, name: Any, /) -> None:
        guards.delete(o, exact_name(name))

    def globals_() -> Any:
        return language.view(language.caller("globals").f_globals)

    def variables(what: str) -> Any:
        frame = language.caller(what, 3)
        if frame.f_locals is frame.f_globals:
            return language.view(frame.f_globals)
        if not frame.f_code.co_flags & _OPTIMIZED:
            from .facades.views import class_view

            return class_view(frame.f_locals)
        return {k: v for k, v in dict(frame.f_locals).items() if " " not in k}

    def locals_() -> Any:
        return variables("locals")

    def vars_(*objects: Any) -> Any:
        if not objects:
            return variables("vars")
        if len(objects) > 1:
            raise TypeError(f"vars expected at most 1 argument, got {len(objects)}")
        try:
            return guards.read(objects[0], "__dict__")
        except AttributeRefused:
            raise
        except AttributeError:
            raise TypeError("vars() argument must have __dict__ attribute") from None

    def dir_(*objects: Any) -> list[str]:
        if not objects:
            frame = language.caller("dir")
            return sorted(k for k in dict(frame.f_locals) if " " not in k and k != "__builtins__")
        return dir(*objects)

    def _spaces(what: str, globals: Any, locals: Any) -> tuple[dict[str, Any], Any]:
        if globals is None:
            frame = language.caller(what, 3)
            space = frame.f_globals
            if locals is None:
                locals = (
                    space
                    if frame.f_locals is space
                    else {k: v for k, v in dict(frame.f_locals).items() if " " not in k}
                )
        else:
            known = language.behind(globals)
            space = globals if known is None else known
            if type(space) is not dict:
                if what == "exec":
                    raise TypeError(f"exec() globals must be a dict, not {type(space).__name__}")
                other = any("__getitem__" in class_dict(base) for base in class_mro(type(space)))
                raise TypeError(f"globals must be a {'real dict; try eval(expr, {}, mapping)' if other else 'dict'}")
            if known is None:
                named = "__name__" in space
                given = space.get("__builtins__")
                if type(given) is not dict:
                    # Were none there, CPython would put the real ones in.
                    given = space["__builtins__"] = language.fresh_builtins()
                    if not named:  # what marks its classes as the program's; in `space` itself the program would find it among its own names
                        given["__name__"] = MAIN
                if not named and given.get("__name__") is not MAIN:
                    space["__name__"] = MAIN
        if locals is None:
            locals = space
        known = language.behind(locals)
        return space, locals if known is None else known

    def _code(source: Any, mode: str) -> types.CodeType:
        if type(source) is Code:
            return codes[id(source)][1]
        return language.compile_one(_text(source), "<string>", mode)

    def eval_(source: Any, /, globals: Any = None, locals: Any = None) -> Any:
        if type(source) is not Code:
            source = _text(source).lstrip(" \t")
        code = _code(source, "eval")  # first: a warning may be shown meanwhile, by the program's own stream
        space, names = _spaces("eval", globals, locals)
        return run_with(language.fresh_builtins(), eval, code, space, names)

    def exec_(source: Any, /, globals: Any = None, locals: Any = None) -> None:
        code = _code(source, "exec")
        space, names = _spaces("exec", globals, locals)
        run_with(language.fresh_builtins(), exec, code, space, names)

    def compile_(
        source: Any, filename: Any, mode: Any, flags: int = 0, dont_inherit: bool = False, optimize: int = -1
    ) -> Any:
        if type(optimize) is not int or not -1 <= optimize <= 2:
            raise ValueError("compile(): invalid optimize value")
        flags = int(operator.index(flags))  # a number, the same each time: other flags give code
        if flags == PyCF_ONLY_AST:
            return compile(_text(source), exact_name(filename), exact_name(mode), PyCF_ONLY_AST, dont_inherit=True)
        if flags:
            raise LanguageRefused("compile() takes no flags in this sandbox")
        mode = exact_name(mode)
        # A traceback shows lines of the file that a code object names: it must not be a file.
        filename = exact_name(filename)
        filename = filename if filename[:1] == "<" else f"<{filename}>"
        if mode not in ("exec", "eval", "single"):
            raise ValueError("compile() mode must be 'exec', 'eval' or 'single'")
        if any(base is AST for base in class_mro(type(source))) and not is_guest_class(type(source)):
            # By the program's own `ast`, which reads under guard: names of its methods are made of what a class says that it is called.
            text = language.gate.build("ast").unparse(source)
            made = language.compile_tree(_parsed(text, mode), filename, mode)
        else:
            text = _text(source)
            made = language.compile_one(text, filename, mode)
        shown = Code()
        shown._names = functools.partial(_names, str.__str__(text), filename, mode)
        codes[id(shown)] = (shown, made, mode)
        return shown

    def help_(*objects: Any) -> None:
        if not objects:
            fast_print("help(object) describes an object.")
        for o in objects:
            from .facades.helping import described

            fast_print(described(language, o))

    def open_(file: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:
        from .facades.paths import open_file

        return open_file(file, mode, *args, **kwargs)

    def input_(prompt: Any = "", /) -> str:
        system = language.gate.build("sys")
        if system.stdin is None or system.stdin is system.__stdin__:
            return refuse_input(prompt)
        return input_from(guards.read(system.stdin, "readline"), prompt)

    def breakpoint_(*args: Any, **kwargs: Any) -> None:
        raise LanguageRefused("there is no debugger in this sandbox; print what you want to see")

    # A function, no method of the gate: library code that takes methods apart, as WeakMethod does, would hand out the gate.
    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        return language.gate.function(name, globals, locals, fromlist, level)

    import_.__doc__ = language.gate.function.__doc__
    own = {
        "getattr": getattr_, "hasattr": hasattr_, "setattr": setattr_, "delattr": delattr_, "globals": globals_,
        "locals": locals_, "vars": vars_, "dir": dir_, "eval": eval_, "exec": exec_, "compile": compile_, "open": open_,
        "help": help_, "breakpoint": breakpoint_, "print": fast_print, "input": input_, "exit": leave, "quit": leave,
        "__import__": import_,
    }  # fmt: skip
    for name, item in own.items():
        if isinstance(item, types.FunctionType) and item.__module__ == __name__:
            item.__name__ = item.__qualname__ = name
    table.update(own)
    table["__name__"] = "builtins"
    return table


def run_with(table: dict[str, Any], run: Any, code: types.CodeType, space: dict[str, Any], names: Any) -> Any:
    """``run(code, space, names)`` from a frame whose builtins are `table`.

    Should another thread of the program take ``__builtins__`` out of `space` at the last moment, CPython puts in those of the frame that
    calls: they must not be the real ones.
    """
    return types.FunctionType(_TRAMPOLINE, {"__builtins__": table})(run, code, space, names)


_TRAMPOLINE = (lambda run, code, space, names: run(code, space, names)).__code__


def _text(source: Any) -> str:
    """Source as an exact str, once: what is checked is what is compiled."""
    if type(source) is str:
        return source
    if isinstance(source, str):
        return str.__str__(source)
    # By identity: a metaclass says what equals its class, and what it calls bytes decodes itself.
    if any(type(source) is kind for kind in (bytes, bytearray, memoryview)):
        raw = bytes(source)
        from io import BytesIO
        from tokenize import detect_encoding

        return raw.decode(detect_encoding(BytesIO(raw).readline)[0])
    from .facades.views import CodeView

    if type(source) is CodeView:
        raise TypeError(
            "what __code__ shows cannot be run in this sandbox: call the function, or give exec() source text"
        )
    raise TypeError("source must be a string, bytes or code object")


def _parsed(text: str, mode: str) -> Any:
    """The syntax tree of a tree's text: names in a program's tree may be anything, names in a text are names."""
    return compile(text, "<ast>", mode, PyCF_ONLY_AST, dont_inherit=True)
