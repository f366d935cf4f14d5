"""The language wall: ordinary Python, rewritten so that a program reaches nothing but itself and reviewed modules.

`RestrictedLanguage` is what the guest program asks for a namespace and for code. `transformer` rewrites, `guards` decide at run time,
`facades` are the modules. Why this holds, and what it costs, is said in `names` and `identity`; behind it stands the operating system's
wall, which does not depend on any of it.
"""

from __future__ import annotations
import __future__

import ast
import os
import sys
import types
from typing import Any

from safeexec.guest import source_lines

from . import loops, remembered, scopes, tokens, transformer
from .builtins_ import make_builtins, run_with
from .facades import Gate, paths
from .facades.facade import make
from .facades.views import globals_view
from .guards import Guards
from .identity import MAIN, PLAIN, LanguageRefused, is_guest_frame, mark
from .patches import install
from .star import star

__all__ = ["RestrictedLanguage"]

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_COROUTINE = 0x80  # inspect.CO_COROUTINE


class RestrictedLanguage:
    """The restricted language, as :class:`safeexec.guest.Guest` takes it.

    :param imports: module patterns of the policy, or None for every module that has a facade.
    :param environ: what ``os.environ`` holds; None for what is put into the process's environment between now and the
        beginning of the session, which is the policy's own.
    """

    hidden: tuple[str, ...] = (
        os.path.dirname(os.path.abspath(__file__)) + os.sep,
        os.path.dirname(os.__file__) + os.sep,  # where the interpreter lies says something of the host
        "<frozen ",
    )
    """File-name prefixes left out of tracebacks."""

    def __init__(self, imports: tuple[str, ...] | None = None, environ: dict[str, str] | None = None) -> None:
        install()
        self.gate: Gate = Gate(self, imports)
        self._third_party = _third_party(imports)
        self.guards = Guards(third_party=self._third_party)
        self.main: dict[str, Any] = {}
        self._base_environ = dict(os.environ) if environ is None else None
        self.environ: dict[str, str] = dict(environ or {})
        self._streams: Any = None
        self._library: Any = None
        self._main_module: Any = None
        self._views: dict[int, tuple[dict[str, Any], Any]] = {}
        self.builtins = mark(make_builtins(self))
        self._own: set[str] = set()
        guards = self.guards
        self.constants: dict[str, Any] = {
            tokens.token(name): item
            for name, item in {
                "read": guards.read,
                "writable": guards.writable,
                "writable_dunder": guards.writable_dunder,
                "updatable": guards.updatable,
                "updatable_dunder": guards.updatable_dunder,
                "match": guards.match,
                "star": star,
                "type": type,
                "id": id,
                "plain": PLAIN,
                "import": self.gate.whole,
                "import_top": self.gate.top,
                "import_from": self.gate.member,
                "import_all": self.gate.every,
            }.items()
        }

    def may_load(self, library: str) -> bool:
        """Whether arrays, images and tables of the host's may become objects of `library`: nobody reviewed numpy's, pandas' and PIL's, and
        ``DataFrame.eval`` alone reads every attribute of everything. So only where the language is no wall any more."""
        return bool(self._third_party)

    def namespace(self) -> dict[str, Any]:
        """The globals of a fresh session."""
        if self._base_environ is not None:
            now = dict(os.environ)
            self.environ.update({k: v for k, v in now.items() if self._base_environ.get(k) != v})
        remembered.forget()
        paths.set_roots(os.getcwd(), "/tmp")
        self.main = {"__name__": MAIN, "__doc__": None, "__builtins__": self.builtins}
        return self.main

    def module(self, name: str) -> tuple[Any, dict[str, Any]]:
        """A namespace for a module that the host gives the session: its code is the program's, under the same rules."""
        # Called MAIN, by which the wall knows what belongs to the program.
        namespace = {"__name__": MAIN, "__doc__": None, "__builtins__": self.builtins}
        return namespace, namespace

    def add_module(self, name: str, module: dict[str, Any]) -> None:
        """Let the session's code import it, as a frozen selection like every module here."""
        names = {key: value for key, value in module.items() if key[:2] != "__"}
        self.gate.add(name, make(name, names, module.get("__doc__")))

    def compile(self, source: str, filename: str) -> list[types.CodeType]:
        """Code objects to evaluate in order; the last one yields the step's value.

        :raises SyntaxError: as CPython does.
        :raises safeexec.guest.Refused: for what the language leaves out.
        """
        self.restore()
        tree = self._parse(source, filename, "exec")
        assert isinstance(tree, ast.Module)
        codes = []
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = tree.body[-1]
            del tree.body[-1]
        if tree.body:
            codes.append(self._generate(tree, source, filename, "exec", _FLAGS))
        if last is not None:
            codes.append(self._generate(ast.Expression(last.value), source, filename, "eval", _FLAGS))
        if any(code.co_flags & _COROUTINE for code in codes):  # there will be a loop
            loops.hide()
        return codes

    def restore(self) -> None:
        """Put back what the session's globals must hold, whoever took it away."""
        if self._streams is not None:
            self._streams.reset()
        if self.main:
            self.main["__builtins__"] = self.builtins
            self.main["__name__"] = MAIN

    def compile_one(self, source: str, filename: str, mode: str) -> types.CodeType:
        """One code object, for ``eval``, ``exec`` and ``compile``."""
        return self._generate(self._parse(source, filename, mode, True), source, filename, mode)

    def compile_module(self, source: str, filename: str, guards: dict[str, Any]) -> types.CodeType:
        """The code object of a module of the program's own, with `guards` for those of a step that it names."""
        tree = self._parse(source, filename, "exec")
        return self._generate(tree, source, filename, "exec", guards={**self.constants, **guards})

    def compile_tree(self, tree: Any, filename: str, mode: str) -> types.CodeType:
        """One code object from a syntax tree that the program built."""
        return self._generate(self._transform(tree, True), "", filename, mode)

    def _parse(self, source: str, filename: str, mode: str, dynamic: bool = False) -> Any:
        # compile() takes a tree, too, and what is in a program's own is not what is visited.
        if type(source) is not str:
            raise TypeError("source is an exact str")
        tree = compile(source, filename, mode, _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
        # Without a dot or a class a program names no attributes; looking for them costs as much as compiling a short step.
        try:
            return self._transform(tree, dynamic, "." in source or "class" in source)
        except SyntaxError as error:
            error.filename = filename
            error.text = source_lines(source)[(error.lineno or 1) - 1]
            raise

    def _transform(self, tree: Any, dynamic: bool = False, names: bool = True) -> Any:
        if names:
            self._own |= scopes.attribute_names(tree)
        visitor = transformer.Transformer(self._own, dynamic)
        before = sys.getrecursionlimit()
        # The visitor recurses in Python only, which costs no C stack; what CPython's parser took, it shall take.
        sys.setrecursionlimit(max(before, 50_000))
        try:
            return visitor.visit(tree)
        finally:
            sys.setrecursionlimit(before)

    def _generate(
        self,
        tree: Any,
        source: str,
        filename: str,
        mode: str,
        flags: int = 0,
        guards: dict[str, Any] | None = None,
    ) -> types.CodeType:
        texts = transformer.annotations_are_texts(tree)
        try:
            code: types.CodeType = compile(tree, filename, mode, flags, dont_inherit=True)
        except SyntaxError as error:
            lines = source_lines(source)
            if error.text is None and error.lineno and error.lineno <= len(lines):
                error.text = lines[error.lineno - 1]
            raise
        if texts and not code.co_flags & __future__.annotations.compiler_flag:
            # What the transformer went by is not so.
            raise LanguageRefused("annotations would run that were left as they are")
        return tokens.bind(code, self.constants if guards is None else guards)

    # -- for the facades ---------------------------------------------------------------------------------------------------

    def caller(self, what: str, depth: int = 2) -> types.FrameType:
        """The frame of the program that called a builtin.

        :raises RuntimeError: when library code called it: its variables are not the program's business.
        """
        frame = sys._getframe(depth)
        if not is_guest_frame(frame):
            raise RuntimeError(f"{what}() must be called by the program itself")
        return frame

    def own_space(self, names: dict[Any, Any]) -> dict[str, Any]:
        """A namespace with what `names` calls by an exact str.

        Another key could pass for ``__builtins__`` at one look and not at the next, and CPython would put in those of whoever calls.
        """
        return {**{k: v for k, v in names.items() if type(k) is str}, "__builtins__": self.builtins}

    def run(self, code: types.CodeType, space: dict[str, Any], names: Any = None) -> Any:
        """``eval(code, space, names)`` with the program's builtins, for a namespace of :meth:`own_space`'s kind."""
        space["__builtins__"] = self.builtins
        return run_with(self.builtins, eval, code, space, space if names is None else names)

    def view(self, namespace: dict[str, Any]) -> Any:
        """``globals()`` of a program's frame."""
        entry = self._views.get(id(namespace))
        if entry is None:
            entry = self._views[id(namespace)] = (namespace, globals_view(namespace))
        return entry[1]

    def behind(self, view: Any) -> dict[str, Any] | None:
        """The namespace that `view` stands for."""
        for namespace, known in self._views.values():
            if known is view:
                return namespace
        return None

    def space_of(self, module: Any) -> dict[str, Any] | None:
        """The globals of the program's module that `module` is the ``__name__`` of, by its identity."""
        spaces = [self.main, *self.gate.own.spaces()]
        return next((space for space in spaces if space.get("__name__") is module), None)

    def fresh_builtins(self) -> dict[str, Any]:
        """Builtins for a namespace that the program holds: a copy, as the program can reach and change it there."""
        return dict(self.builtins)

    @property
    def main_module(self) -> Any:
        """``__main__`` as a module."""
        if self._main_module is None:
            from .facades.views import main_module

            self._main_module = main_module(self)
        return self._main_module

    @property
    def library(self) -> Any:
        """The library modules that run as the program's own."""
        if self._library is None:
            from .facades.borrowed import Library

            self._library = Library(self)
        return self._library

    @property
    def streams(self) -> Any:
        """The output streams as the program sees them."""
        if self._streams is None:
            from .facades.streams import Streams

            self._streams = Streams()
        return self._streams


def _third_party(imports: tuple[str, ...] | None) -> frozenset[str]:
    if imports is None:
        return frozenset()
    tops = {pattern.partition(".")[0] for pattern in imports}
    return frozenset(top for top in tops if top not in sys.stdlib_module_names)
