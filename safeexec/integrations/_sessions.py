"""What the adapters share: sessions known by a framework's own conversation identity, and a result as text for a model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from time import monotonic
from typing import Any

from safeexec.aio import AsyncSession
from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.policy import Policy
from safeexec.result import Result
from safeexec.session import Session
from safeexec.text import neutralise, neutralise_line
from safeexec.tools import Tools
from safeexec.wire import Array, Image, Table

_MAX_VALUE = 20_000


class Sessions:
    """One session for each conversation, made on first use, closed by :meth:`drop`, after `idle` seconds without use, or with the rest.

    `sandbox` is a name or an Executor; an Executor that was passed in is not closed here. Of more than `limit` conversations the one unused for
    longest loses its session: a host of strangers must not be made to hold sandboxes without end.
    """

    def __init__(
        self,
        sandbox: str | Executor = DEFAULT_SANDBOX,
        *,
        policy: Policy | None = None,
        tools: Tools = (),
        limit: int = 256,
        idle: float = 1800.0,
        **options: Any,
    ) -> None:
        self._given = isinstance(sandbox, Executor)
        if isinstance(sandbox, Executor):
            if options:
                raise TypeError(f"options {sorted(options)} go to the Executor itself when one is passed")
            self.executor = sandbox
        else:
            self.executor = Executor(sandbox, policy=policy, **options)
        self.policy = policy
        self.tools = tools
        self._limit = limit
        self._idle = idle
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}
        self._sessions: OrderedDict[Hashable, tuple[Session, float]] = OrderedDict()

    def get(self, key: Hashable = None) -> Session:
        """The session of conversation `key`; a fresh one when there is none, or when it was lost. Raises what ``Executor.session`` does."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                found, _ = self._sessions.pop(key, (None, 0.0))
                if found is not None and not found.closed:
                    self._sessions[key] = found, monotonic()
                surplus = self._surplus()
            for session in surplus:
                session.close()
            if found is not None and not found.closed:
                return found
            session = self.executor.session(self.tools, policy=self.policy)
            with self._lock:
                self._sessions[key] = session, monotonic()
                self._making.pop(key, None)
            return session

    def _surplus(self) -> list[Session]:
        old = monotonic() - self._idle
        surplus = []
        while self._sessions and (len(self._sessions) > self._limit or next(iter(self._sessions.values()))[1] < old):
            surplus.append(self._sessions.popitem(last=False)[1][0])
        return surplus

    def drop(self, key: Hashable = None) -> None:
        """End one conversation's session, if there is one."""
        with self._lock:
            found = self._sessions.pop(key, None)
        if found is not None:
            found[0].close()

    def close(self) -> None:
        """End all sessions, and the executor unless it was passed in."""
        with self._lock:
            sessions = [session for session, _ in self._sessions.values()]
            self._sessions.clear()
        for session in sessions:
            session.close()
        if not self._given:
            self.executor.close()


def observation(result: Result, session: Session | AsyncSession | None = None) -> str:
    """A result as the text that a model is shown: output, value, error with its lines, names of files; all of it made harmless for a terminal."""
    parts = []
    for name, text in (("", result.stdout), ("stderr: ", result.stderr)):
        if text:
            parts.append(name + neutralise(text).rstrip("\n"))
    if result.truncated:
        parts.append("(the output was cut at its limit)")
    if result.value is not None:
        parts.append("value: " + clip(neutralise(repr(result.value))))
    if result.error is not None:
        parts.append(failure(result))
    if result.files:
        parts.append("files: " + ", ".join(f"{neutralise_line(f.name)} ({f.size} bytes)" for f in result.files))
    if session is not None and session.closed:
        parts.append("(the session ended; its variables and files are gone, the next step starts afresh)")
    return "\n".join(parts) or "(no output)"


def failure(result: Result) -> str:
    """The error of a failed step as text: the traceback where there is one, else type and message."""
    error = result.error
    if error is None:
        return ""
    text = neutralise(error.traceback).rstrip("\n")
    said = neutralise(str(error))
    # A step that a limit ended shows where it was interrupted; that it was the limit, and which, says the error itself.
    return clip(text if said in text else f"{text}\n{said}".lstrip("\n"))


def clip(text: str, length: int = _MAX_VALUE) -> str:
    """`text`, without its middle when it has more than `length` characters."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half} characters left out) ...\n{text[-half:]}"


def images(result: Result) -> list[tuple[str, bytes]]:
    """The pictures a step displayed, as (MIME type, bytes); of kinds that a viewer renders without running anything."""
    found = []
    for display in result.displays:
        for mime in ("image/png", "image/jpeg", "image/gif", "image/webp"):
            data = display.data.get(mime)
            if isinstance(data, bytes):
                found.append((mime, data))
                break
    return found


def native(value: Any) -> Any:
    """An Array, Image or Table as numpy's, PIL's or pandas' own object where that library is installed here; anything else as it is."""
    for kind, name in ((Array, "to_numpy"), (Image, "to_pil"), (Table, "to_pandas")):
        if isinstance(value, kind):
            try:
                return getattr(value, name)()
            except ImportError:
                return value
    return value
