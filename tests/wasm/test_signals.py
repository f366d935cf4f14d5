"""A host that takes wasmtime's signal handlers away, as turning faulthandler off does, survives a guest's trap all the same."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import faulthandler
faulthandler.enable()
from safeexec import Executor
with Executor("wasm", workers=0) as executor:
    assert executor.run("1 + 1").value == 2
    faulthandler.disable()
    faulthandler.enable()
    deep = "def f(t):\\n    for _ in range(10**6): t = (t,)\\n    return t\\nhash(f(1))"
    for code in ("import os\\nos.abort()", deep):
        print(executor.run(code).error.kind, executor.run("40 + 2").value)
"""


def test_a_host_whose_handlers_were_taken_away_survives_a_trap() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=110)
    assert (ended.returncode, ended.stdout) == (0, "crash 42\ncrash 42\n"), ended.stderr[-2000:]


DURING = """
import faulthandler, sys
from safeexec import Executor

def again(*_):
    faulthandler.disable()
    faulthandler.enable()

deep = "def f(t):\\n    for _ in range(10**6): t = (t,)\\n    return t\\nhash(f(1))"
with Executor("wasm", workers=0) as executor:
    for code, callback in (("print('x')\\n", again), ("", None), ("again()\\n", None), ("again()\\n" * 5, None)):
        with executor.session([again]) as session:
            session.run("x = 1")
            if not code:  # by anybody, between two requests
                again()
            print(session.run(code + deep, on_output=callback).error.kind, session.run("x").value)
"""


def test_handlers_may_be_taken_away_while_a_session_lives() -> None:
    ended = subprocess.run([sys.executable, "-c", DURING], capture_output=True, text=True, timeout=110)
    assert (ended.returncode, ended.stdout) == (0, "crash 1\n" * 4), ended.stderr[-2000:]
