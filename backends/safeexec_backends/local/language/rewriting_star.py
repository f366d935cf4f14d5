"""``except*`` as an ordinary ``except`` with a helper (`star`).

CPython before 3.12.9 and 3.13.2 trusts what a program's own ``ExceptionGroup.split`` returns (CVE-2025-22153).
"""

from __future__ import annotations

import ast
from typing import Any

from .rewriting import Rewriter, placed, store
from .scopes import stays_inside
from .tokens import token

_STAR = token("star")


class StarRewriter(Rewriter):
    """Rewrites ``try`` statements with ``except*``."""

    def visit_TryStar(self, node: Any) -> ast.stmt:
        """As the language reference says it: each clause takes its part of the group, what is left and what was raised goes on."""
        caught, state = self._variable("group"), self._variable("state")
        body: list[ast.stmt] = [
            store(state, self._call(_STAR, node, ast.Name(caught, ast.Load())), node),
        ]
        for handler in node.handlers:
            stays_inside(handler.body)
            self.check_bound(handler, handler.name)
            part, raised = self._variable("part"), self._variable("raised")
            inner = ast.ExceptHandler(ast.Name("BaseException", ast.Load()), handler.name, handler.body)
            self._body(inner)
            inner.body.insert(0, placed(ast.Expr(self._method(state, "begin")), handler))
            inner.type = self._call(_STAR, handler)  # called without a group: BaseException itself
            attempt = ast.Try([ast.Raise(ast.Name(part, ast.Load()))], [inner], [], [])
            keep = ast.Expr(self._method(state, "keep", ast.Name(raised, ast.Load())))
            outer = ast.ExceptHandler(self._call(_STAR, handler), raised, [keep])
            take = self._method(state, "take", self.visit(handler.type))
            some = ast.Compare(ast.Name(part, ast.Load()), [ast.IsNot()], [ast.Constant(None)])
            body.append(placed(store(part, take, handler), handler))
            guarded = ast.Try([attempt], [outer], [], [ast.Delete([ast.Name(part, ast.Del())])])
            drop = ast.Delete([ast.Name(part, ast.Del())])
            body.append(placed(ast.If(some, [guarded], [drop]), handler))
        # Whatever happens, nothing of the statement stays in the program's variables.
        gone = ast.Delete([ast.Name(state, ast.Del())])
        left = self._variable("raised")
        settle = ast.Expr(self._method(state, "settle", ast.Name(left, ast.Load())))
        # Raised once more without a word it keeps the traceback that it has; from end() it would have got the line of the last clause.
        again = ast.ExceptHandler(self._call(_STAR, node), left, [settle, ast.Raise()])
        body.append(ast.Try([ast.Expr(self._method(state, "end"))], [again], [], [gone]))
        catch = ast.ExceptHandler(self._call(_STAR, node), caught, body)
        self._body(node)
        other = ast.Try(node.body, [catch], self._statements(node.orelse), self._statements(node.finalbody))
        return placed(other, node)

    def _statements(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        holder = ast.Module(statements, [])
        self._body(holder)
        return holder.body

    def _method(self, variable: str, name: str, *arguments: ast.expr) -> ast.expr:
        return ast.Call(ast.Attribute(ast.Name(variable, ast.Load()), name, ast.Load()), list(arguments), [])
