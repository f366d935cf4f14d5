"""What every adapter is built on: a session for each of a framework's own conversations, and steps run there for a model to see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from safeexec.aio import AsyncSession
from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._kept import Kept
from safeexec.integrations._shown import Shown
from safeexec.integrations._turns import Turns
from safeexec.integrations._used import use, used
from safeexec.policy import Policy
from safeexec.session import Session
from safeexec.tools import Tools, collect


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
        if options and isinstance(sandbox, Executor):
            raise TypeError(f"options {sorted(options)} go to the Executor itself when one is passed")
        self._tools = collect(tools)
        self._variables: dict[str, Any] = {}
        self._owned = not isinstance(sandbox, Executor)
        self.executor = sandbox if isinstance(sandbox, Executor) else Executor(sandbox, policy=policy, **options)
        self._policy = policy
        self._kept = Kept(limit, idle)
        self._turns = Turns()

    def run(self, code: str, key: Hashable = None) -> Shown:
        """Run a step in the conversation `key`. Raises what ``Executor.session`` and ``Session.run`` do."""
        with self.turn(key) as session:
            return Shown.of(session.run(code), session)

    async def arun(self, code: str, key: Hashable = None) -> Shown:
        """As :meth:`run`, awaited."""
        async with self.aturn(key) as session:
            return Shown.of(await session.run(code), session)

    @contextmanager
    def turn(self, key: Hashable = None) -> Iterator[Session]:
        """The session of conversation `key`, where nobody else runs anything meanwhile; a fresh one when there is none, or when it was lost."""
        with self._turns.wait(key), use(self._kept, key, self.fresh) as session:
            session._loop = None
            yield session

    @asynccontextmanager
    async def aturn(self, key: Hashable = None) -> AsyncIterator[AsyncSession]:
        """As :meth:`turn`, awaited; asynchronous tools run on the event loop that awaits."""
        async with self._turns.awaited(key), used(self._kept, key, self.fresh) as session:
            yield AsyncSession(session)

    def fresh(self, tools: Tools = (), variables: Mapping[str, Any] | None = None) -> Session:
        """A session outside of all conversations, which the caller closes. Raises what ``Executor.session`` does."""
        given = self._tools | collect(tools)
        return self.executor.session([*given.values()], {**self._variables, **(variables or {})}, policy=self._policy)

    def give(self, tools: Tools = (), variables: Mapping[str, Any] | None = None) -> None:
        """Tools and variables for the sessions there are and those to come. A name that is in use is replaced."""
        self._tools |= collect(tools)
        self._variables |= variables or {}
        for session in self._kept.open():
            session.add_tools(tools)
            session.variables.update(variables or {})

    def drop(self, key: Hashable = None) -> None:
        """End one conversation's session, if there is one."""
        self._kept.drop(key)

    def close(self) -> None:
        """End all sessions, and the executor unless it was passed in."""
        self._kept.close()
        if self._owned:
            self.executor.close()
