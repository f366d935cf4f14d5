"""The ``match`` statement: the class of a pattern with positions is checked first, because ``__match_args__`` names attributes."""

from __future__ import annotations

import ast

from . import names
from .rewriting import Rewriter, placed
from .tokens import token

_MATCH = token("match")


class MatchRewriter(Rewriter):
    """Rewrites class and value patterns."""

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
        return [*before, placed(tidy, node)]

    def _class_pattern(self, node: ast.MatchClass, before: list[ast.stmt]) -> None:
        suspicious = [n for n in node.kwd_attrs if n[:1] == "_" or n in names.SUSPECT or n in names.MODULES]
        if not node.patterns and not suspicious and self._is_harmless_path(node.cls):
            return
        if self._scopes[-1] == "class" or (self._dynamic and self._scopes[-1] == "module"):
            # The class that was looked at would wait in a namespace that the program holds, and could be exchanged there.
            self.error(node, "a class pattern with positions must be in a function, or at the top of the program")
        variable = self._variable("class")
        listed = placed(ast.Tuple([ast.Constant(n) for n in suspicious], ast.Load()), node)
        check = self._call(_MATCH, node.cls, self.visit(node.cls), ast.Constant(len(node.patterns)), listed)
        before.append(placed(ast.Assign([ast.Name(variable, ast.Store())], check), node.cls))
        node.cls = placed(ast.Name(variable, ast.Load()), node.cls)

    def _is_harmless_path(self, node: ast.AST) -> bool:
        """Whether a dotted name can stay one: patterns allow nothing else. What is not visited is looked at here, the name at its beginning, too."""
        while isinstance(node, ast.Attribute):
            if not self.direct(node.attr) and (node.attr[:1] == "_" or node.attr in names.SUSPECT | names.MODULES):
                return False
            node = node.value
        return not (isinstance(node, ast.Name) and node.id in names.NEVER_READ)

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.AST:
        if not isinstance(node.value, ast.Attribute):
            return self.pass_through(node)
        if not self._is_harmless_path(node.value):
            self.error(node, f"{ast.unparse(node.value)!r} cannot be used in a pattern")
        return node

    def visit_MatchClass(self, node: ast.MatchClass) -> ast.AST:
        node.patterns = [self.visit(p) for p in node.patterns]
        node.kwd_patterns = [self.visit(p) for p in node.kwd_patterns]
        return node  # its class is in a variable, or a harmless path
