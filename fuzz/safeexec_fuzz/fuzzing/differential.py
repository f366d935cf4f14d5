"""The same ordinary program in plain CPython and in sandboxes: value, output and type of exception must agree."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

import safeexec
from safeexec import Executor, Limits, Policy

_REFERENCE = """
import ast, contextlib, io, json, sys
lines = sys.stdin
for line in lines:
    out, value, error = io.StringIO(), None, None
    tree = ast.parse(json.loads(line))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    space = {"__name__": "__main__"}
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(tree, "<step 1>", "exec"), space)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), "<step 1>", "eval"), space)
        except Exception as caught:
            error = type(caught).__name__
    print(json.dumps([repr(value), out.getvalue(), error]), flush=True)
"""


class Answer(NamedTuple):
    """What a program came to."""

    value: str
    stdout: str
    error: str | None


class Reference:
    """Plain CPython in a process of its own. Only for programs that this package generated itself."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _REFERENCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C at a terminal is for whoever asked, who then closes this one
        )

    def run(self, code: str) -> Answer:
        """The answer. Raises RuntimeError when the process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the reference interpreter ended")
        return Answer(*json.loads(line))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Comparison:
    """Runs programs everywhere and says where they differ."""

    def __init__(self, sandboxes: tuple[str, ...] = ("local", "wasm")) -> None:
        self._reference = Reference()
        policy = Policy(limits=Limits(time=20.0))
        self._executors: Mapping[str, Executor] = {name: Executor(name, policy=policy) for name in sandboxes}

    def __enter__(self) -> Comparison:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reference.close()
        for executor in self._executors.values():
            executor.close()

    def differences(self, code: str) -> list[str]:
        """One line for each sandbox that answers otherwise than CPython."""
        expected = self._reference.run(code)
        found = []
        for name, executor in self._executors.items():
            answer = _answer(executor, code)
            if answer != expected:
                found.append(f"{name}: {answer} instead of {expected}")
        return found


def _answer(executor: Executor, code: str) -> Answer:
    result: safeexec.Result = executor.run(code)
    value: Any = result.value
    # What cannot cross arrives as its repr; the programs are made so that it says nothing of identity.
    shown = value.repr if isinstance(value, safeexec.Opaque) else repr(value)
    return Answer(shown if result.error is None else "None", result.stdout, result.error.type if result.error else None)
