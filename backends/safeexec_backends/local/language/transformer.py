"""From a program's syntax tree to the tree that is compiled.

Most of Python passes unchanged. What changes:

* reading an attribute whose name may lead somewhere (`names.py` says which may not) goes through `guards.read`;
* every attribute that is written or deleted has its object checked by `guards.writable`;
* imports become calls of the gate, because CPython's own ``from a import b`` falls back to ``sys.modules``;
* ``except*`` becomes an ordinary ``except`` with a helper (`rewriting_star.py`);
* class patterns with positions have their class checked first (`rewriting_match.py`).

The guards are constants of the code object (`tokens.py`).
"""

from __future__ import annotations

import ast
from typing import Any

from . import names
from .rewriting import Receiver, placed, store
from .rewriting_match import MatchRewriter
from .rewriting_star import StarRewriter
from .scopes import locals_of, parameters_of, stays_bound
from .tokens import token

_READ, _WRITABLE, _WRITABLE_DUNDER = token("read"), token("writable"), token("writable_dunder")
_UPDATABLE, _UPDATABLE_DUNDER = token("updatable"), token("updatable_dunder")
_IMPORT, _IMPORT_TOP = token("import"), token("import_top")
_IMPORT_FROM, _IMPORT_ALL = token("import_from"), token("import_all")


def annotations_are_texts(tree: ast.AST) -> bool:
    """Whether the compiler keeps the annotations of `tree` as texts, so that none of them runs.

    Exactly what the compiler takes for a future statement: behind nothing but a docstring and others of its kind (Python/future.c). One that
    comes later on the same line is no error everywhere, and means nothing.
    """
    if not isinstance(tree, ast.Module):
        return False
    for place, item in enumerate(tree.body):
        if isinstance(item, ast.ImportFrom) and item.module == "__future__" and not item.level:
            if any(alias.name == "annotations" for alias in item.names):
                return True
        elif not (
            place == 0
            and isinstance(item, ast.Expr)
            and isinstance(item.value, ast.Constant)
            and type(item.value.value) is str
        ):
            return False
    return False


class Transformer(MatchRewriter, StarRewriter):
    """The whole language. It stays an allow-list: a node that is in none of the lists below is refused."""

    # -- attributes --------------------------------------------------------------------------------------------------------

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if type(node.ctx) is not ast.Load:
            return self._target(node, updates=False)
        value = self.visit(node.value)
        node.value = value
        name = node.attr
        if self.direct(name):
            return node
        if name in names.FORMATS and isinstance(value, ast.Constant) and type(value.value) is str:
            from .formatting import is_tame

            if is_tame(value.value):  # "{}".format(…): the template is there to be read
                return node
        read = self._call(_READ, node, value, ast.Constant(self._mangle(name)))
        if self._is_local(value) and name not in names.SPECIAL and not _is_dunder(name):
            again = placed(ast.Name(value.id, ast.Load()), value)
            read.args[0] = again  # type: ignore[attr-defined]
            return self._if_plain(value, node, node, read)
        return read

    def _target(self, node: ast.Attribute, updates: bool) -> ast.expr:
        value = self.visit(node.value)
        name = node.attr
        if _is_dunder(name):
            mark = _UPDATABLE_DUNDER if updates else _WRITABLE_DUNDER
            node.value = self._call(mark, node, value, ast.Constant(name))
        else:
            again = placed(ast.Name(value.id, ast.Load()), value) if isinstance(value, ast.Name) else value
            if updates and not self.direct(name):
                # `x.a += y` hands the old value to y's __radd__: it must be one that may be read.
                checked = self._call(_UPDATABLE, node, again, ast.Constant(self._mangle(name)))
            else:
                checked = self._call(_WRITABLE, node, again)
            plain = self._is_local(value) and name not in names.SPECIAL
            node.value = self._if_plain(value, node, value, checked) if plain else checked
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        if isinstance(node.target, ast.Attribute):
            node.target = self._target(node.target, updates=True)  # type: ignore[assignment]
        else:
            node.target = self.visit(node.target)
        node.value = self.visit(node.value)
        return node

    # -- names -------------------------------------------------------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if type(node.ctx) is ast.Load:
            if node.id in names.NEVER_READ:
                instead = "; import builtins instead" if node.id == "__builtins__" else ""
                self.error(node, f"the name {node.id!r} belongs to the sandbox{instead}")
        else:
            self.check_bound(node, node.id)
        return node

    def visit_Global(self, node: ast.Global) -> ast.stmt:
        for name in node.names:
            if name in names.NEVER_BOUND or name in names.NOT_GLOBAL or name == names.ONLY_METHOD:
                self.error(node, f"the name {name!r} belongs to the sandbox")
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self._texts = annotations_are_texts(node)
        return self.pass_through(node)

    def _annotation(self, node: ast.expr) -> ast.expr:
        """Where it is kept as a text nothing runs it, and the text is the program's: whoever evaluates it transforms it then."""
        return node if self._texts else self._later(node)

    def _later(self, node: Any) -> Any:
        """`node` in a scope of its own, which the compiler makes for it and may run at any time: the function's variables are others' there, too."""
        self._receivers.append(None)
        self._locals.append(frozenset())
        made = self.visit(node)
        self._locals.pop()
        self._receivers.pop()
        return made

    def visit_TypeAlias(self, node: Any) -> Any:
        node.name = self.visit(node.name)
        self._parameters(node)
        node.value = self._later(node.value)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None and isinstance(node.target, ast.Attribute):
            node.target.value = self.visit(node.target.value)  # `x.a: int` sets nothing: only `x` is evaluated
        else:
            node.target = self.visit(node.target)
        node.annotation = self._annotation(node.annotation)
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        self.check_bound(node, node.arg)
        if node.annotation is not None:
            node.annotation = self._annotation(node.annotation)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.check_bound(node, node.name)
        return self.pass_through(node)

    def _named(self, node: Any) -> ast.AST:
        """Captures of patterns, type parameters."""
        self.check_bound(node, getattr(node, "name", None))
        return self.pass_through(node)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> ast.AST:
        self.check_bound(node, node.rest)
        return self.pass_through(node)

    # -- definitions -------------------------------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.stmt:
        self.check_bound(node, node.name)
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        self._parameters(node)
        if node.returns is not None:
            node.returns = self._annotation(node.returns)
        receiver = self._receiver(node)
        self._scopes.append("function")
        self._receivers.append(None)
        self.visit(node.args)
        self._receivers[-1] = receiver
        self._locals.append(locals_of(node))
        self._body(node)
        self._locals.pop()
        self._receivers.pop()
        self._scopes.pop()
        if receiver is not None and receiver.used:
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            asked = store(receiver.variable, self._is_plain(receiver.name), first)
            node.body.insert(1 if documented else 0, asked)
        return node

    def _receiver(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Receiver | None:
        """``self`` of a method that does not bind the name anew: its class is looked at once per call."""
        positional = node.args.posonlyargs + node.args.args
        if self._scopes[-1] != "class" or not positional or positional[0].arg == "cls":
            return None
        name = positional[0].arg
        return Receiver(name, self._variable("plain")) if stays_bound(node, name) else None

    def visit_ListComp(self, node: Any) -> Any:
        """A scope of its own, in which the variable about ``self`` would have to be a closure's."""
        first = node.generators[0]
        first.iter = self.visit(first.iter)  # belongs to the scope around
        iterated, first.iter = first.iter, ast.Constant(None)
        targets = (t for g in node.generators for t in ast.walk(g.target))
        self._receivers.append(None)
        self._locals.append(frozenset(t.id for t in targets if isinstance(t, ast.Name) and type(t.ctx) is ast.Store))
        self.pass_through(node)
        self._locals.pop()
        self._receivers.pop()
        first.iter = iterated
        return node

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        self._scopes.append("function")
        self._receivers.append(None)
        self.visit(node.args)
        self._locals.append(parameters_of(node.args))
        node.body = self.visit(node.body)
        self._locals.pop()
        self._receivers.pop()
        self._scopes.pop()
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        self.check_bound(node, node.name)
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        self._parameters(node)
        visit = self._later if getattr(node, "type_params", None) else self.visit
        node.bases = [visit(b) for b in node.bases]
        for keyword in node.keywords:
            keyword.value = visit(keyword.value)
        self._classes.append(node.name)
        self._scopes.append("class")
        self._receivers.append(None)
        self._locals.append(frozenset())
        self._body(node)
        self._locals.pop()
        self._receivers.pop()
        self._scopes.pop()
        self._classes.pop()
        return node

    def _parameters(self, node: Any) -> None:
        if getattr(node, "type_params", None):
            node.type_params = [self._later(p) for p in node.type_params]

    # -- imports -----------------------------------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        if getattr(node, "is_lazy", 0):  # 3.15: a lazy import would run past the gate
            self.not_allowed(node)
        made: list[ast.stmt] = []
        for alias in node.names:
            whole = alias.asname is not None or "." not in alias.name
            name = alias.asname or alias.name.partition(".")[0]
            self.check_bound(node, name)
            value = self._call(_IMPORT if whole else _IMPORT_TOP, alias, ast.Constant(alias.name))
            made.append(placed(ast.Assign([ast.Name(name, ast.Store())], value), node))
        return made

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt | list[ast.stmt]:
        if getattr(node, "is_lazy", 0):
            self.not_allowed(node)
        if node.module == "__future__" and not node.level:
            return node  # the compiler's business; at run time the gate hands out the feature
        if any(alias.name == "*" for alias in node.names):
            # CPython's own asks __import__ of the program's builtins, and reads of its answer what `__all__` says.
            if self._scopes[-1] != "module":
                self.error(node, "import * is only allowed at module level")
            module = "." * node.level + (node.module or "")
            return placed(ast.Expr(self._call(_IMPORT_ALL, node, ast.Constant(module))), node)
        made: list[ast.stmt] = []
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            name = alias.asname or alias.name
            self.check_bound(node, name)
            value = self._call(_IMPORT_FROM, alias, ast.Constant(module), ast.Constant(alias.name))
            made.append(placed(ast.Assign([ast.Name(name, ast.Store())], value), node))
        return made


def _is_dunder(name: str) -> bool:
    return name[:2] == "__" and name[-2:] == "__" and len(name) > 4


_PASSED = """Interactive Expression Expr Assign Delete Return Raise Assert For AsyncFor While If With AsyncWith Try
    BoolOp BinOp UnaryOp NamedExpr IfExp Dict Set Await Yield YieldFrom Compare Call
    FormattedValue JoinedStr TemplateStr Interpolation Subscript Starred List Tuple Slice comprehension arguments keyword withitem
    match_case MatchSequence MatchOr"""
_LEAVES = """Pass Break Continue Constant Nonlocal MatchSingleton
    Load Store Del And Or Add BitAnd BitOr BitXor Div FloorDiv LShift Mod Mult MatMult Pow RShift Sub Invert Not UAdd USub
    Eq Gt GtE In Is IsNot Lt LtE NotEq NotIn"""
_CAPTURES = "MatchAs MatchStar TypeVar ParamSpec TypeVarTuple"
_OWN = """Module AnnAssign Attribute AugAssign Name Global arg ExceptHandler MatchMapping FunctionDef AsyncFunctionDef Lambda ClassDef Import
    ImportFrom ListComp SetComp DictComp GeneratorExp Match MatchValue MatchClass TryStar TypeAlias"""

Transformer.methods = {}
for _text, _method in (
    (_PASSED, Transformer.pass_through),
    (_LEAVES, Transformer.leaf),
    (_CAPTURES, Transformer._named),
):
    for _name in _text.split():
        if hasattr(ast, _name):  # some exist only in later versions
            Transformer.methods[getattr(ast, _name)] = _method
for _name in _OWN.split():
    if hasattr(ast, _name):
        Transformer.methods[getattr(ast, _name)] = getattr(Transformer, f"visit_{_name}")
