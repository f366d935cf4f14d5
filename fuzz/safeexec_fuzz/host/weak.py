"""The deliberately weak executor. It has every hole that the corpus attacks, so that an attack can be seen to bite.

Never use it for anything else: it runs code in its own process and believes what the code prints.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import pickle
from typing import Any

from .adapter import Adapter, Outcome, Session


class Weak(Adapter):
    """exec() in the host process, live objects both ways, a protocol of printed lines without authentication, and no limit at all."""

    capabilities = frozenset(("tools", "sessions", "files", "variables", "value", "threads"))

    def open(self, tools: Any, kind: Any) -> Any:
        return WeakSession(tools)

    def version(self) -> Any:
        return "built in"


class WeakSession(Session):
    def __init__(self, tools: Any) -> None:
        self.tools = tools
        self.names_ = {"__name__": "__main__", **tools}
        self.kept = None

    def run(self, code: Any) -> Any:
        import ast

        out, err = io.StringIO(), io.StringIO()
        value, error = None, None
        kept, self.kept = self.kept, None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                tree = ast.parse(code)
                last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
                exec(compile(tree, "<step>", "exec", dont_inherit=True), self.names_)
                if last is not None:
                    value = eval(compile(ast.Expression(last.value), "<step>", "eval", dont_inherit=True), self.names_)
            except Exception as caught:
                error = ("exception", type(caught).__name__, str(caught))
        for line in out.getvalue().splitlines():
            value = self._believe(line, value)
        if kept is not None:
            value = kept
        return Outcome(value, out.getvalue(), err.getvalue(), error)

    def _believe(self, line: Any, value: Any) -> Any:
        # Executors that talk to their guest over its standard output have believed lines like these.
        mark, _, rest = line.partition(" ")
        try:
            if mark == "::value::":
                return json.loads(rest)
            if mark == "::next::":
                self.kept = json.loads(rest)
            if mark == "::tool::":
                call = json.loads(rest)
                self.tools["__all__"](call["tool"], call.get("args", []), call.get("kwargs", {}))
            if mark in ("::pickle::", "RESULT_PICKLE:"):
                return pickle.loads(base64.b64decode(rest))
            if mark == "::eval::":
                return eval(rest)
        except Exception:
            return value
        return value

    def read(self, name: Any) -> Any:
        with open(name, "rb") as file:
            return file.read()

    def names(self) -> Any:
        return [entry for entry in os.listdir(".") if os.path.isfile(entry)]

    def get(self, name: Any) -> Any:
        return self.names_[name]
