"""Targets that are programs: a plain interpreter, any command that reads code on its standard input, any factory of callables."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any

from .adapter import Adapter, Outcome, Session


class Command(Adapter):
    """A command that gets each step on its standard input. It is killed, with its process group, at the limit on time."""

    batch = True
    capabilities = frozenset(("threads",))

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._command = options["command"]

    def open(self, tools: Any, kind: Any) -> Any:
        limits = self.options["limits"]
        return CommandSession(
            self._command, limits["benign_time"] if kind == "benign" else limits["time"], limits["output"]
        )

    def version(self) -> Any:
        return " ".join(self._command)


class Subprocess(Command):
    """``python -I -`` in a folder of its own with a clean environment: what many projects call a sandbox."""

    def __init__(self, options: Any) -> None:
        super().__init__({**options, "command": [sys.executable, "-I", "-"]})

    def version(self) -> Any:
        return "Python " + ".".join(map(str, sys.version_info[:3]))


class CommandSession(Session):
    def __init__(self, command: Any, seconds: Any, output: Any) -> None:
        self._command, self._seconds, self._output = command, seconds, output
        # Beside this process' own, in the folder that goes with it: it may be killed before it closes its sessions.
        self._folder = tempfile.mkdtemp(prefix="session-", dir=os.path.dirname(os.getcwd()))

    def run(self, code: Any) -> Any:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._folder,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            start_new_session=True,
        )
        error = None
        try:
            out, err = process.communicate(code.encode("utf-8", "surrogatepass"), timeout=self._seconds)
            if process.returncode:
                lines = err.decode("utf-8", "replace").strip().splitlines() or [f"exit code {process.returncode}"]
                name = lines[-1].partition(":")[0].rpartition(".")[2]
                error = ("exception", name, lines[-1])
        except subprocess.TimeoutExpired:
            self._end(process)
            out, err = process.communicate()
            error = ("time", "TimeoutError", "killed")
        finally:
            self._end(process)
        return Outcome(None, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), error, has_value=False)

    def _end(self, process: Any) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class Factory(Adapter):
    """``module:factory``: called without arguments it returns ``run(code)``; what that returns, or an ``(output, value)`` pair, is the outcome."""

    capabilities = frozenset(("sessions", "value", "threads"))

    def __init__(self, factory: Any, options: Any) -> None:
        super().__init__(options)
        self._factory = factory

    def open(self, tools: Any, kind: Any) -> Any:
        return FactorySession(self._factory())

    def version(self) -> Any:
        return self.options["factory"]


class FactorySession(Session):
    def __init__(self, run: Any) -> None:
        self._run = run

    def run(self, code: Any) -> Any:
        try:
            made = self._run(code)
        except Exception as error:
            return Outcome(None, "", "", ("exception", type(error).__name__, str(error)))
        if type(made) is tuple and len(made) == 2 and type(made[0]) is str:
            return Outcome(made[1], made[0])
        return Outcome(made, made if type(made) is str else "")

    def close(self) -> None:
        close = getattr(self._run, "close", None)
        if callable(close):
            close()
