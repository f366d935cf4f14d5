"""What the parts of the transformer share: a node that no part knows is refused, and how the nodes that take its place are built."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from RestrictedPython.transformer import RestrictingNodeTransformer

from . import names
from .identity import LanguageRefused
from .tokens import token

_Node = TypeVar("_Node", bound=ast.AST)
_numbers = itertools.count(1)  # shared: a step and what it gives to exec() may run in one namespace
_TYPE, _ID, _PLAIN = token("type"), token("id"), token("plain")


class Receiver:
    """The first parameter of a method, and the variable that says whether it is an instance of a plain class."""

    __slots__ = ("name", "used", "variable")

    def __init__(self, name: str, variable: str) -> None:
        self.name = name
        self.variable = variable
        self.used = False


class Rewriter(RestrictingNodeTransformer):
    """RestrictedPython's transformer as an allow-list of our own: a node without an entry in `methods` is refused.

    :param own: attribute names of the program's own classes; those are read directly unless `names` suspects them.
    :param dynamic: whether the code will run with namespaces that the program holds, as ``exec`` lets it.
    """

    methods: ClassVar[dict[type, Callable[[Any, Any], Any]]]

    def __init__(self, own: Iterable[str] = (), dynamic: bool = False) -> None:
        super().__init__()
        self.own = set(own)
        self._dynamic = dynamic
        self._locals: list[frozenset[str]] = [frozenset()]
        self._classes: list[str] = []
        self._scopes = ["module"]
        self._receivers: list[Receiver | None] = [None]
        self._texts = False  # annotations are kept as such

    # -- refusing ----------------------------------------------------------------------------------------------------------

    def error(self, node: ast.AST, info: str) -> None:
        """Refuse at the first finding."""
        refusal = LanguageRefused(info)
        refusal.lineno = getattr(node, "lineno", None)  # type: ignore[attr-defined]
        raise refusal

    def not_allowed(self, node: ast.AST) -> None:
        self.error(node, f"{type(node).__name__} is not part of the language that this sandbox runs")

    def visit(self, node: ast.AST) -> Any:
        method = self.methods.get(type(node))
        if method is None:
            self.not_allowed(node)
        return method(self, node)  # type: ignore[misc]

    def pass_through(self, node: ast.AST) -> ast.AST:
        """A node that needs nothing itself; its children do."""
        for name in node._fields:
            value = getattr(node, name, None)
            if type(value) is list:
                changed: list[Any] = []
                for item in value:
                    if isinstance(item, ast.AST):
                        item = self.visit(item)
                        if type(item) is list:
                            changed += item
                            continue
                    changed.append(item)
                value[:] = changed
            elif isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
        return node

    def leaf(self, node: ast.AST) -> ast.AST:
        """A node without children that matter."""
        return node

    def check_bound(self, node: ast.AST, name: str | None) -> None:
        """A name that the program binds. Taking ``__builtins__`` away would make CPython use the real ones."""
        if name is None or name[:2] != "__":
            return
        method = self._scopes[-1] == "class" and isinstance(node, ast.FunctionDef)
        if (
            name in names.NEVER_BOUND
            or (name == names.ONLY_METHOD and not method)
            or (name in names.NOT_GLOBAL and self._scopes[-1] == "module")
        ):
            self.error(node, f"the name {name!r} belongs to the sandbox")

    # -- building ----------------------------------------------------------------------------------------------------------

    def _guard(self, mark: str) -> ast.expr:
        # CPython warns of a constant that is called, but does not look into a conditional; it costs nothing when compiled.
        return ast.IfExp(ast.Constant(True), ast.Constant(mark), ast.Constant(None))

    def _call(self, mark: str, at: ast.AST, *arguments: ast.expr) -> ast.expr:
        return placed(ast.Call(self._guard(mark), list(arguments), []), at)

    def _if_plain(self, value: ast.Name, at: ast.AST, yes: ast.expr, no: ast.expr) -> ast.expr:
        """`yes` when the object in the variable is an instance of a program's plain class, else `no`: 30 ns instead of a call.

        For variables of the function itself only: `yes` loads the variable again, and any other could hold something else by then.
        """
        receiver = self._receivers[-1]
        if receiver is not None and receiver.name == value.id:
            receiver.used = True
            return placed(ast.IfExp(ast.Name(receiver.variable, ast.Load()), yes, no), at)
        return placed(ast.IfExp(self._is_plain(value.id), yes, no), at)

    def _is_plain(self, variable: str) -> ast.expr:
        kind = ast.Call(self._guard(_TYPE), [ast.Name(variable, ast.Load())], [])
        return ast.Compare(ast.Call(self._guard(_ID), [kind], []), [ast.In()], [ast.Constant(_PLAIN)])

    def _is_local(self, value: ast.AST) -> bool:
        return isinstance(value, ast.Name) and value.id in self._locals[-1]

    def _mangle(self, name: str) -> str:
        if name[:2] != "__" or name[-2:] == "__" or not self._classes:
            return name
        owner = self._classes[-1].lstrip("_")
        return f"_{owner}{name}" if owner else name

    def _variable(self, purpose: str) -> str:
        # A name with a space cannot be spelled; one that begins with "__" is not listed among the session's variables.
        return f"__{purpose} {next(_numbers)}__"

    def _body(self, node: Any) -> None:
        body: list[ast.stmt] = []
        for statement in node.body:
            made = self.visit(statement)
            if type(made) is list:
                body += made
            else:
                body.append(made)
        node.body = body

    def direct(self, name: str) -> bool:
        """Whether reading `name` can be left to the interpreter, whatever the object is."""
        if name[:1] == "_":
            return name in names.DUNDER_DIRECT
        return name in names.DIRECT or (name in self.own and name not in names.SUSPECT and name not in names.MODULES)


def store(name: str, value: ast.expr, at: ast.AST) -> ast.stmt:
    return placed(ast.Assign([ast.Name(name, ast.Store())], value), at)


def placed(node: _Node, place: Any) -> _Node:
    """`node` and its new children, placed where `place` is."""
    made: Any = node
    made.lineno, made.col_offset = place.lineno, place.col_offset
    made.end_lineno, made.end_col_offset = place.end_lineno, place.end_col_offset
    for child in ast.iter_child_nodes(node):
        if not hasattr(child, "lineno") and "lineno" in child._attributes:
            placed(child, place)
        elif "lineno" not in child._attributes:
            for grandchild in ast.iter_child_nodes(child):
                if not hasattr(grandchild, "lineno"):
                    placed(grandchild, place)
    return node
