"""What one sandbox of the server consists of."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from safeexec.errors import LimitExceeded, SessionBusy, SessionClosed
from safeexec.executor import Executor
from safeexec.files import Files
from safeexec.result import Result
from safeexec.session import Session
from safeexec.step import Output, Step
from safeexec.tools import Tools

MOST_WAITING = 16
"""Executions of one context at once, the one that runs among them."""
MOST_CONTEXTS = 16
"""Contexts of one sandbox beside its default one: each is a session, with the memory of one."""

_SET_ENV = """import os as safeexec_os
safeexec_env = {{name: safeexec_os.environ.get(name) for name in {0!r}}}
safeexec_os.environ.update({0!r})
"""
_RESTORE_ENV = """for safeexec_name, safeexec_value in safeexec_env.items():
    if safeexec_value is None:
        safeexec_os.environ.pop(safeexec_name, None)
    else:
        safeexec_os.environ[safeexec_name] = safeexec_value
del safeexec_os, safeexec_env, safeexec_name, safeexec_value
"""


class Unsupported(Exception):
    """This machine has no such thing; the message says what."""


@dataclass(frozen=True)
class Entry:
    """A file or folder of a machine; `path` is absolute in the machine's view."""

    path: str
    size: int
    folder: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


class Process(ABC):
    """One running command."""

    pid: int

    @abstractmethod
    def events(self) -> Iterator[tuple[str, Any]]:
        """("stdout", bytes) and ("stderr", bytes) as they come, then ("exit", code), negative for a signal. Called once."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """To its standard input. Raises OSError when it is closed."""

    @abstractmethod
    def close_input(self) -> None:
        """End its standard input."""

    @abstractmethod
    def signal(self, number: int) -> None:
        """Send it a signal; nothing if it is gone."""


class Abandoned(Exception):
    """Nobody waits for this execution any more."""


class Execution:
    """One execution as its client has it, who may go away. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop: Callable[[], object] = lambda: None
        self.abandoned = False

    def stopped_by(self, stop: Callable[[], object]) -> None:
        """What ends it from now on. Raises Abandoned where that comes too late."""
        with self._lock:
            if self.abandoned:
                raise Abandoned
            self._stop = stop

    def abandon(self) -> None:
        """Its client is gone: it does not begin, or is interrupted."""
        with self._lock:
            self.abandoned, stop = True, self._stop
        stop()


class Machine(ABC):
    """A sandbox: code contexts, files, and commands where it has them. Methods raise Unsupported for what it has not, FileNotFoundError, OSError."""

    home = "/home/user"

    @abstractmethod
    def execute(
        self,
        context: str | None,
        code: str,
        on_output: Callable[[Output], object],
        env: Mapping[str, str],
        execution: Execution | None = None,
    ) -> Result:
        """Run code in a context, None is the default one, with `env` in its environment meanwhile.

        Raises KeyError for an unknown context, Abandoned where `execution` was given up before it began.
        """

    @abstractmethod
    def add_context(self, name: str) -> None:
        """A fresh context. Raises LimitExceeded where there are too many."""

    @abstractmethod
    def remove_context(self, name: str) -> None:
        """End one. Raises KeyError."""

    @abstractmethod
    def restart_context(self, name: str) -> None:
        """Empty one. Raises KeyError."""

    @abstractmethod
    def contexts(self) -> list[str]:
        """Those added, by name."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The content of a file."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file, with its folders."""

    @abstractmethod
    def entries(self, path: str) -> list[Entry]:
        """What is in a folder."""

    @abstractmethod
    def stat(self, path: str) -> Entry:
        """One file or folder."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Delete a file or a folder with all in it."""

    @abstractmethod
    def make_folder(self, path: str) -> None:
        """Make a folder and those above it. Raises FileExistsError."""

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Rename."""

    @abstractmethod
    def start(self, words: list[str], env: Mapping[str, str], folder: str | None) -> Process:
        """Start a command."""

    @abstractmethod
    def close(self) -> None:
        """End all of it. Idempotent."""


class ExecutorMachine(Machine):
    """A sandbox over an Executor: a context is a session, the files are the default session's. It has no commands. Its code may call `tools`."""

    def __init__(self, executor: Executor, env: Mapping[str, str] | None = None, tools: Tools = ()) -> None:
        self._executor = executor
        self._tools = tools
        self._policy = executor.policy.replace(env={**executor.policy.env, **(env or {})})
        self._lock = threading.Lock()
        self._sessions: dict[str | None, _Context] = {}
        self._adding = 0
        self._closed = False

    def _context(self, name: str | None) -> _Context:
        with self._lock:
            context = self._sessions.get(name)
        if context is None and name is not None:
            raise KeyError(name)
        # The default one comes back after a step that cost it its life; one that was asked for by name does not, unasked.
        if context is None or (context.session.closed and name is None):
            context = self._add(name, context)
        return context

    def _add(self, name: str | None, instead: _Context | None = None) -> _Context:
        """A fresh context under `name`, unless another thread has put one there `instead` meanwhile. Raises SessionClosed."""
        # Outside the lock: a container, or a vendor's machine, takes seconds, and lists, other contexts and the end would wait for it.
        made = _Context(self._executor.session(self._tools, policy=self._policy))
        with self._lock:
            closed, there = self._closed, self._sessions.get(name)
            kept = there if there is not instead and there is not None else made
            if not closed:
                self._sessions[name] = kept
        if closed or kept is not made:
            made.session.close()
        if closed:  # or it would run on, and nobody would end it
            raise SessionClosed("the sandbox has ended")
        return kept

    def execute(
        self,
        context: str | None,
        code: str,
        on_output: Callable[[Output], object],
        env: Mapping[str, str],
        execution: Execution | None = None,
    ) -> Result:
        asked = execution or Execution()
        found = self._context(context)
        with found.taking_turns(asked):  # as E2B does: and the environment of one execution is not another's
            session = found.session

            def begins(step: Step) -> None:
                asked.stopped_by(step.interrupt)

            if not env:
                return session._run(code, on_output, begins)
            ready = session.run(_SET_ENV.format(dict(env)))
            if ready.error is not None:
                return ready
            try:
                return session._run(code, on_output, begins)
            finally:
                if not session.closed:
                    session.run(_RESTORE_ENV)

    def add_context(self, name: str) -> None:
        with self._lock:
            # One client must not have the memory of all: with those that are only being made.
            if sum(there is not None for there in self._sessions) + self._adding >= MOST_CONTEXTS:
                raise LimitExceeded(f"the sandbox has {MOST_CONTEXTS} contexts, and may have no more")
            self._adding += 1
        try:
            self._add(name)
        finally:
            with self._lock:
                self._adding -= 1

    def remove_context(self, name: str) -> None:
        with self._lock:
            context = self._sessions.pop(name)
        context.session.close()

    def restart_context(self, name: str) -> None:
        self.remove_context(name)
        self.add_context(name)

    def contexts(self) -> list[str]:
        with self._lock:
            return [name for name in self._sessions if name is not None]

    @property
    def _files(self) -> Files:
        return self._context(None).session.files

    def _name(self, path: str) -> str:
        if path.startswith(self.home + "/"):
            path = path[len(self.home) + 1 :]
        return path.lstrip("/")

    def read(self, path: str) -> bytes:
        return self._files.read(self._name(path))

    def write(self, path: str, data: bytes) -> None:
        self._files.write(self._name(path), data)

    def entries(self, path: str) -> list[Entry]:
        below = "" if path.rstrip("/") in ("", ".", self.home) else self._name(path).rstrip("/") + "/"
        found: dict[str, Entry] = {}
        for info in self._files.list():
            if info.name.startswith(below):
                first, deeper, _ = info.name[len(below) :].partition("/")
                where = f"{self.home}/{below}{first}"
                found[first] = Entry(where, 0, True) if deeper else Entry(where, info.size)
        if below and not found:
            raise FileNotFoundError(path)
        return list(found.values())

    def stat(self, path: str) -> Entry:
        name = self._name(path).rstrip("/")
        if path.rstrip("/") in ("", self.home):
            return Entry(self.home, 0, True)
        for info in self._files.list():
            if info.name == name:
                return Entry(f"{self.home}/{name}", info.size)
            if info.name.startswith(name + "/"):
                return Entry(f"{self.home}/{name}", 0, True)
        raise FileNotFoundError(path)

    def remove(self, path: str) -> None:
        entry = self.stat(path)
        files = self._files
        name = self._name(path).rstrip("/")
        for info in files.list():
            if info.name == name or (entry.folder and info.name.startswith(name + "/")):
                files.remove(info.name)

    def make_folder(self, path: str) -> None:
        raise Unsupported("folders come with the files in them")

    def move(self, source: str, target: str) -> None:
        data = self.read(source)
        if self._name(source) != self._name(target):  # which removing would lose
            self.write(target, data)
            self.remove(source)

    def start(self, words: list[str], env: Mapping[str, str], folder: str | None) -> Process:
        raise Unsupported("this sandbox runs Python code, no commands")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            contexts = list(self._sessions.values())
            self._sessions.clear()
        with ExitStack() as ending:  # all of them, whatever happens to one
            for context in contexts:
                ending.callback(context.session.close)


class _Context:
    """A session, and whose turn it is to run code in it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._changed = threading.Condition()
        self._waiting: list[Execution] = []
        """In the order in which they came; it is the first one's turn."""

    @contextmanager
    def taking_turns(self, execution: Execution) -> Iterator[None]:
        """Alone. Raises SessionBusy where too many wait already, each of them a thread, and Abandoned where its client went away meanwhile."""
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise SessionBusy(f"{MOST_WAITING} executions wait for this context")
            self._waiting.append(execution)
        try:
            execution.stopped_by(self._look)
            with self._changed:
                self._changed.wait_for(lambda: self._waiting[0] is execution or execution.abandoned)
            if execution.abandoned:
                raise Abandoned
            yield
        finally:
            with self._changed:
                self._waiting.remove(execution)
                self._changed.notify_all()

    def _look(self) -> None:
        with self._changed:
            self._changed.notify_all()
