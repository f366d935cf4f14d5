"""What a syntax tree says of its names: which ones the program gives to attributes, which are a function's own variables."""

from __future__ import annotations

import ast

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
           ast.GeneratorExp)  # fmt: skip


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


def stays_bound(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> bool:
    """Whether a parameter keeps its value: nothing in the function, or in what is defined there, binds the name anew."""
    for item in ast.walk(node):
        kind = type(item)
        if kind is ast.Name:
            if item.id == name and type(item.ctx) is not ast.Load:  # type: ignore[attr-defined]
                return False
        elif kind is ast.Nonlocal:
            if name in item.names:  # type: ignore[attr-defined]
                return False
        elif kind is ast.alias:
            if name in (item.name, item.asname):  # type: ignore[attr-defined]
                return False
        elif item is not node and (getattr(item, "name", None) == name or getattr(item, "rest", None) == name):
            return False  # definitions, except … as, captures
    return True


def stays_inside(body: list[ast.stmt]) -> None:
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


def parameters_of(node: ast.arguments) -> frozenset[str]:
    every = [*node.posonlyargs, *node.args, *node.kwonlyargs, node.vararg, node.kwarg]
    return frozenset(a.arg for a in every if a is not None)


def locals_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    """Variables that nothing but the function's own statements binds: not every one there is, but none that is not."""
    found = set(parameters_of(node.args))
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
