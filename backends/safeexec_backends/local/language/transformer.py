"""From a program's syntax tree to the tree that is compiled.

Most of Python passes unchanged. What changes:

* reading an attribute whose name may lead somewhere (`names.py` says which may not) goes through `guards.read`;
* every attribute that is written or deleted has its object checked by `guards.writable`;
* imports become calls of the gate, because CPython's own ``from a import b`` falls back to ``sys.modules``;
* ``except*`` becomes an ordinary ``except`` with a helper, because CPython before 3.12.9 and 3.13.2 trusts what a program's own
  ``ExceptionGroup.split`` returns (CVE-2025-22153);
* class patterns with positions have their class checked first: ``__match_args__`` names attributes.

The guards are constants of the code object. The tree holds a random text in their place, and `bind` puts the function in after
compilation. There is no name to shadow: no parameter, global, class body, builtins dictionary or ``exec`` namespace can come between.
"""

from __future__ import annotations

import ast
import itertools
import os
from collections.abc import Iterable
from types import CodeType
from typing import Any, TypeVar

from RestrictedPython.transformer import RestrictingNodeTransformer

from . import names
from .identity import LanguageRefused

_Node = TypeVar("_Node", bound=ast.AST)
_numbers = itertools.count(1)  # shared: a step and what it gives to exec() may run in one namespace
_MARK = "\0" + os.urandom(16).hex() + " "  # cannot be guessed, so no literal of a program turns into a guard
_READ, _WRITABLE, _WRITABLE_DUNDER, _UPDATABLE = (
    _MARK + n for n in ("read", "writable", "writable_dunder", "updatable")
)
_UPDATABLE_DUNDER = _MARK + "updatable_dunder"
_TYPE, _ID, _PLAIN = _MARK + "type", _MARK + "id", _MARK + "plain"
_IMPORT, _IMPORT_TOP, _IMPORT_FROM = _MARK + "import", _MARK + "import_top", _MARK + "import_from"
_MATCH, _STAR, _IMPORT_ALL = _MARK + "match", _MARK + "star", _MARK + "import_all"


def token(name: str) -> str:
    """The text that stands for the guard called `name` until `bind`."""
    return _MARK + name


def bind(code: CodeType, guards: dict[str, Any]) -> CodeType:
    """`code` with the guards in the places of their tokens, in nested code too."""
    changed = False
    constants: list[Any] = []
    for constant in code.co_consts:
        kind = type(constant)
        if kind is str:
            if constant[:1] == "\0" and constant in guards:
                constant = guards[constant]
                changed = True
        elif kind is CodeType:
            inner = bind(constant, guards)
            changed = changed or inner is not constant
            constant = inner
        constants.append(constant)
    return code.replace(co_consts=tuple(constants)) if changed else code


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


def attribute_names(tree: ast.AST) -> set[str]:
    """Names that the program itself gives to attributes, in classes and by assignment."""
    found: set[str] = set()
    for node in ast.walk(tree):
        kind = type(node)
        if kind is ast.Attribute:
            if type(node.ctx) is ast.Store:  # type: ignore[attr-defined]
                found.add(node.attr)  # type: ignore[attr-defined]
        elif kind is ast.ClassDef:
            for item in node.body:  # type: ignore[attr-defined]
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    found.add(item.name)
                elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    found.add(item.target.id)
                elif isinstance(item, ast.Assign):
                    found.update(t.id for target in item.targets for t in ast.walk(target) if isinstance(t, ast.Name))
    return found


class _Receiver:
    """The first parameter of a method, and the variable that says whether it is an instance of a plain class."""

    __slots__ = ("name", "used", "variable")

    def __init__(self, name: str, variable: str) -> None:
        self.name = name
        self.variable = variable
        self.used = False


class Transformer(RestrictingNodeTransformer):
    """RestrictedPython's transformer with our rules. It stays an allow-list: a node without a method here is refused.

    :param own: attribute names of the program's own classes; those are read directly unless `names` suspects them.
    :param dynamic: whether the code will run with namespaces that the program holds, as ``exec`` lets it.
    """

    def __init__(self, own: Iterable[str] = (), dynamic: bool = False) -> None:
        super().__init__()
        self.own = set(own)
        self._dynamic = dynamic
        self._locals: list[frozenset[str]] = [frozenset()]
        self._classes: list[str] = []
        self._scopes = ["module"]
        self._receivers: list[_Receiver | None] = [None]
        self._texts = False

    # -- refusing ----------------------------------------------------------------------------------------------------------

    def error(self, node: ast.AST, info: str) -> None:
        """Refuse at the first finding."""
        refusal = LanguageRefused(info)
        refusal.lineno = getattr(node, "lineno", None)  # type: ignore[attr-defined]
        raise refusal

    def not_allowed(self, node: ast.AST) -> None:
        self.error(node, f"{type(node).__name__} is not part of the language that this sandbox runs")

    def visit(self, node: ast.AST) -> Any:
        method = _METHODS.get(type(node))
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
        return _at(ast.Call(self._guard(mark), list(arguments), []), at)

    def _if_plain(self, value: ast.Name, at: ast.AST, yes: ast.expr, no: ast.expr) -> ast.expr:
        """`yes` when the object in the variable is an instance of a program's plain class, else `no`: 30 ns instead of a call.

        For variables of the function itself only: `yes` loads the variable again, and any other could hold something else by then.
        """
        receiver = self._receivers[-1]
        if receiver is not None and receiver.name == value.id:
            receiver.used = True
            return _at(ast.IfExp(ast.Name(receiver.variable, ast.Load()), yes, no), at)
        return _at(ast.IfExp(self._is_plain(value.id), yes, no), at)

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

    # -- attributes --------------------------------------------------------------------------------------------------------

    def direct(self, name: str) -> bool:
        """Whether reading `name` can be left to the interpreter, whatever the object is."""
        if name[:1] == "_":
            return name in names.DUNDER_DIRECT
        return name in names.DIRECT or (name in self.own and name not in names.SUSPECT and name not in names.MODULES)

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
            again = _at(ast.Name(value.id, ast.Load()), value)
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
            again = _at(ast.Name(value.id, ast.Load()), value) if isinstance(value, ast.Name) else value
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
                self.error(node, f"the name {node.id!r} belongs to the sandbox")
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
        return node if self._texts else self.visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
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
        self._locals.append(_locals_of(node))
        self._body(node)
        self._locals.pop()
        self._receivers.pop()
        self._scopes.pop()
        if receiver is not None and receiver.used:
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            asked = _store(receiver.variable, self._is_plain(receiver.name), first)
            node.body.insert(1 if documented else 0, asked)
        return node

    def _receiver(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> _Receiver | None:
        """``self`` of a method that does not bind the name anew: its class is looked at once per call."""
        positional = node.args.posonlyargs + node.args.args
        if self._scopes[-1] != "class" or not positional or positional[0].arg == "cls":
            return None
        name = positional[0].arg
        for item in ast.walk(node):
            kind = type(item)
            if kind is ast.Name:
                if item.id == name and type(item.ctx) is not ast.Load:  # type: ignore[attr-defined]
                    return None
            elif kind is ast.Nonlocal:
                if name in item.names:  # type: ignore[attr-defined]
                    return None
            elif kind is ast.alias:
                if name in (item.name, item.asname):  # type: ignore[attr-defined]
                    return None
            elif item is not node and (getattr(item, "name", None) == name or getattr(item, "rest", None) == name):
                return None  # definitions, except … as, captures
        return _Receiver(name, self._variable("plain"))

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
        self._locals.append(_parameters_of(node.args))
        node.body = self.visit(node.body)
        self._locals.pop()
        self._receivers.pop()
        self._scopes.pop()
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        self.check_bound(node, node.name)
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        self._parameters(node)
        node.bases = [self.visit(b) for b in node.bases]
        for keyword in node.keywords:
            keyword.value = self.visit(keyword.value)
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
            node.type_params = [self.visit(p) for p in node.type_params]

    def _body(self, node: Any) -> None:
        body: list[ast.stmt] = []
        for statement in node.body:
            made = self.visit(statement)
            if type(made) is list:
                body += made
            else:
                body.append(made)
        node.body = body

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
            made.append(_at(ast.Assign([ast.Name(name, ast.Store())], value), node))
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
            return _at(ast.Expr(self._call(_IMPORT_ALL, node, ast.Constant(module))), node)
        made: list[ast.stmt] = []
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            name = alias.asname or alias.name
            self.check_bound(node, name)
            value = self._call(_IMPORT_FROM, alias, ast.Constant(module), ast.Constant(alias.name))
            made.append(_at(ast.Assign([ast.Name(name, ast.Store())], value), node))
        return made

    # -- match -------------------------------------------------------------------------------------------------------------

    def visit_Match(self, node: ast.Match) -> ast.stmt | list[ast.stmt]:
        before: list[ast.stmt] = []
        for case in node.cases:
            for pattern in ast.walk(case.pattern):
                if isinstance(pattern, ast.MatchClass):
                    self._class_pattern(pattern, before)
        self.pass_through(node)
        if not before:
            return node
        if self._scopes[-1] == "function":
            return [*before, node]
        used = [ast.Name(s.targets[0].id, ast.Del()) for s in before]  # type: ignore[attr-defined]
        tidy = ast.Try([node], [], [], [ast.Delete([*used])])
        return [*before, _at(tidy, node)]

    def _class_pattern(self, node: ast.MatchClass, before: list[ast.stmt]) -> None:
        suspicious = [n for n in node.kwd_attrs if n[:1] == "_" or n in names.SUSPECT or n in names.MODULES]
        if not node.patterns and not suspicious and self._is_harmless_path(node.cls):
            return
        if self._scopes[-1] == "class" or (self._dynamic and self._scopes[-1] == "module"):
            # The class that was looked at would wait in a namespace that the program holds, and could be exchanged there.
            self.error(node, "a class pattern with positions must be in a function, or at the top of the program")
        variable = self._variable("class")
        listed = _at(ast.Tuple([ast.Constant(n) for n in suspicious], ast.Load()), node)
        check = self._call(_MATCH, node.cls, self.visit(node.cls), ast.Constant(len(node.patterns)), listed)
        before.append(_at(ast.Assign([ast.Name(variable, ast.Store())], check), node.cls))
        node.cls = _at(ast.Name(variable, ast.Load()), node.cls)

    def _is_harmless_path(self, node: ast.AST) -> bool:
        """Whether a dotted name can stay one: patterns allow nothing else."""
        while isinstance(node, ast.Attribute):
            if not self.direct(node.attr) and (node.attr[:1] == "_" or node.attr in names.SUSPECT | names.MODULES):
                return False
            node = node.value
        return True

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.AST:
        if not isinstance(node.value, ast.Attribute):
            return self.pass_through(node)
        if not self._is_harmless_path(node.value):
            self.error(node, f"the attribute {node.value.attr!r} cannot be used in a pattern")
        return node

    def visit_MatchClass(self, node: ast.MatchClass) -> ast.AST:
        node.patterns = [self.visit(p) for p in node.patterns]
        node.kwd_patterns = [self.visit(p) for p in node.kwd_patterns]
        return node  # its class is in a variable, or a harmless path

    # -- except* -----------------------------------------------------------------------------------------------------------

    def visit_TryStar(self, node: Any) -> ast.stmt:
        """As the language reference says it: each clause takes its part of the group, what is left and what was raised goes on."""
        caught, state = self._variable("group"), self._variable("state")
        body: list[ast.stmt] = [
            _store(state, self._call(_STAR, node, ast.Name(caught, ast.Load())), node),
        ]
        for handler in node.handlers:
            _stays_inside(handler.body)
            self.check_bound(handler, handler.name)
            part, raised = self._variable("part"), self._variable("raised")
            inner = ast.ExceptHandler(ast.Name("BaseException", ast.Load()), handler.name, handler.body)
            self._body(inner)
            inner.body.insert(0, _at(ast.Expr(self._method(state, "begin")), handler))
            inner.type = self._call(_STAR, handler)  # called without a group: BaseException itself
            attempt = ast.Try([ast.Raise(ast.Name(part, ast.Load()))], [inner], [], [])
            keep = ast.Expr(self._method(state, "keep", ast.Name(raised, ast.Load())))
            outer = ast.ExceptHandler(self._call(_STAR, handler), raised, [keep])
            take = self._method(state, "take", self.visit(handler.type))
            some = ast.Compare(ast.Name(part, ast.Load()), [ast.IsNot()], [ast.Constant(None)])
            body.append(_at(_store(part, take, handler), handler))
            guarded = ast.Try([attempt], [outer], [], [ast.Delete([ast.Name(part, ast.Del())])])
            drop = ast.Delete([ast.Name(part, ast.Del())])
            body.append(_at(ast.If(some, [guarded], [drop]), handler))
        # Whatever happens, nothing of the statement stays in the program's variables.
        gone = ast.Delete([ast.Name(state, ast.Del())])
        body.append(ast.Try([ast.Expr(self._method(state, "end"))], [], [], [gone]))
        catch = ast.ExceptHandler(self._call(_STAR, node), caught, body)
        self._body(node)
        other = ast.Try(node.body, [catch], self._statements(node.orelse), self._statements(node.finalbody))
        return _at(other, node)

    def _statements(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        holder = ast.Module(statements, [])
        self._body(holder)
        return holder.body

    def _method(self, variable: str, name: str, *arguments: ast.expr) -> ast.expr:
        return ast.Call(ast.Attribute(ast.Name(variable, ast.Load()), name, ast.Load()), list(arguments), [])


def _stays_inside(body: list[ast.stmt]) -> None:
    """As CPython's compiler, which would not see the statement as it was written.

    :raises SyntaxError: for a jump out of an ``except*`` block.
    """
    queue: list[tuple[ast.AST, bool]] = [(statement, False) for statement in body]
    while queue:
        node, looping = queue.pop()
        if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not looping):
            place = (None, node.lineno, node.col_offset + 1, None)
            raise SyntaxError("'break', 'continue' and 'return' cannot appear in an except* block", place)
        if not isinstance(node, _SCOPES):
            looping = looping or isinstance(node, ast.For | ast.AsyncFor | ast.While)
            queue += [(child, looping) for child in ast.iter_child_nodes(node)]


def _parameters_of(node: ast.arguments) -> frozenset[str]:
    every = [*node.posonlyargs, *node.args, *node.kwonlyargs, node.vararg, node.kwarg]
    return frozenset(a.arg for a in every if a is not None)


def _locals_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    """Variables that nothing but the function's own statements binds: not every one there is, but none that is not."""
    found = set(_parameters_of(node.args))
    shared: set[str] = set()
    for item in ast.walk(node):
        if isinstance(item, ast.Global | ast.Nonlocal):
            shared.update(item.names)
    queue: list[ast.AST] = list(node.body)
    while queue:
        item = queue.pop()
        if isinstance(item, _SCOPES):
            continue
        if isinstance(item, ast.Name) and type(item.ctx) is ast.Store:
            found.add(item.id)
        queue += ast.iter_child_nodes(item)
    return frozenset(found - shared)


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
           ast.GeneratorExp)  # fmt: skip


def _is_dunder(name: str) -> bool:
    return name[:2] == "__" and name[-2:] == "__" and len(name) > 4


def _store(name: str, value: ast.expr, at: ast.AST) -> ast.stmt:
    return _at(ast.Assign([ast.Name(name, ast.Store())], value), at)


def _at(node: _Node, place: Any) -> _Node:
    """`node` and its new children, placed where `place` is."""
    made: Any = node
    made.lineno, made.col_offset = place.lineno, place.col_offset
    made.end_lineno, made.end_col_offset = place.end_lineno, place.end_col_offset
    for child in ast.iter_child_nodes(node):
        if not hasattr(child, "lineno") and "lineno" in child._attributes:
            _at(child, place)
        elif "lineno" not in child._attributes:
            for grandchild in ast.iter_child_nodes(child):
                if not hasattr(grandchild, "lineno"):
                    _at(grandchild, place)
    return node


_PASSED = """Interactive Expression Expr Assign Delete Return Raise Assert For AsyncFor While If With AsyncWith Try
    BoolOp BinOp UnaryOp NamedExpr IfExp Dict Set Await Yield YieldFrom Compare Call
    FormattedValue JoinedStr TemplateStr Interpolation Subscript Starred List Tuple Slice comprehension arguments keyword withitem
    match_case MatchSequence MatchOr TypeAlias"""
_LEAVES = """Pass Break Continue Constant Nonlocal MatchSingleton
    Load Store Del And Or Add BitAnd BitOr BitXor Div FloorDiv LShift Mod Mult MatMult Pow RShift Sub Invert Not UAdd USub
    Eq Gt GtE In Is IsNot Lt LtE NotEq NotIn"""
_CAPTURES = "MatchAs MatchStar TypeVar ParamSpec TypeVarTuple"
_OWN = """Module AnnAssign Attribute AugAssign Name Global arg ExceptHandler MatchMapping FunctionDef AsyncFunctionDef Lambda ClassDef Import
    ImportFrom ListComp SetComp DictComp GeneratorExp Match MatchValue MatchClass TryStar"""

_METHODS: dict[type, Any] = {}
for _text, _method in (
    (_PASSED, Transformer.pass_through),
    (_LEAVES, Transformer.leaf),
    (_CAPTURES, Transformer._named),
):
    for _name in _text.split():
        if hasattr(ast, _name):  # some exist only in later versions
            _METHODS[getattr(ast, _name)] = _method
for _name in _OWN.split():
    if hasattr(ast, _name):
        _METHODS[getattr(ast, _name)] = getattr(Transformer, f"visit_{_name}")
