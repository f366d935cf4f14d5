"""The executor for asyncio: the same names, awaited.

A step occupies a thread only while it runs; an idle session holds none.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from safeexec import threads
from safeexec.ahead import DEFAULT_SANDBOX
from safeexec.backend import Backend, Wall
from safeexec.executor import Executor
from safeexec.policy import Policy
from safeexec.result import FileInfo, Result
from safeexec.session import Session
from safeexec.step import OnOutput, Output, Step
from safeexec.tools import Tools

if TYPE_CHECKING:
    from safeexec.snapshot import Snapshot

T = TypeVar("T")


async def _in_thread(work: Callable[[], T], on_cancel: Callable[[], object] | None = None) -> T:
    """Run `work` in a thread. Cancelled, it calls `on_cancel` and still waits for the thread: nothing is left running."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]

    def main() -> None:
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = work()
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(deliver, value, failure)
        except RuntimeError:  # the loop was closed: nobody waits any more
            return

    # Who runs a step is known to its tools by context, to tracing for instance, as it is without asyncio.
    threads.start(partial(contextvars.copy_context().run, main))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            if cancelled is None and on_cancel is not None:
                on_cancel()
            cancelled = error
    if cancelled is not None:
        future.exception()  # taken note of: the cancellation is what the caller hears about
        raise cancelled
    return future.result()


class _Turn:
    """One awaited step. It may be cancelled before the thread that is to run it has come to it, and when the session runs another already."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step: Step | None = None
        self._cancelled = False

    def begins(self, step: Step) -> None:
        """In the thread that runs it, before anything is sent. Raises CancelledError if nobody waits for it any more."""
        with self._lock:
            self._step = step
            if self._cancelled:
                raise asyncio.CancelledError

    def cancel(self) -> None:
        """On the event loop."""
        with self._lock:
            self._cancelled = True
            step = self._step
        if step is not None:
            _interrupt(step)


def _interrupt(step: Step) -> None:
    # In a thread: a guest that does not read, or a worker that takes no orders, would hold up the loop and everything else on it.
    try:
        threads.start(step.interrupt)
    except RuntimeError:  # there is none to be had
        step.interrupt()


class AsyncVariables:
    """The guest's variables: ``await v["x"]`` or ``await v.get("x")``, ``await v.set("x", 1)``, ``await v.delete("x")``, ``await v.names()``."""

    def __init__(self, session: Session) -> None:
        self._variables = session.variables

    async def __getitem__(self, name: str) -> Any:
        return await _in_thread(lambda: self._variables[name])

    async def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default` when there is none."""
        return await _in_thread(lambda: self._variables.get(name, default))

    async def set(self, name: str, value: Any) -> None:
        """Assign one variable."""
        await _in_thread(lambda: self._variables.__setitem__(name, value))

    async def update(self, values: Mapping[str, Any]) -> None:
        """Assign several."""
        await _in_thread(lambda: self._variables.update(values))

    async def delete(self, name: str) -> None:
        """Delete one."""
        await _in_thread(lambda: self._variables.__delitem__(name))

    async def names(self) -> tuple[str, ...]:
        """The names there are."""
        return await _in_thread(lambda: tuple(self._variables))


class AsyncFiles:
    """See :class:`safeexec.files.Files`."""

    def __init__(self, session: Session) -> None:
        self._files = session.files

    async def list(self) -> tuple[FileInfo, ...]:
        """All files, by name."""
        return await _in_thread(self._files.list)

    async def read(self, name: str) -> bytes:
        """The bytes of one file."""
        return await _in_thread(lambda: self._files.read(name))

    async def write(self, name: str, data: bytes | str) -> None:
        """Write one file."""
        await _in_thread(lambda: self._files.write(name, data))

    async def remove(self, name: str) -> None:
        """Delete one file."""
        await _in_thread(lambda: self._files.remove(name))

    async def save(self, directory: Any, names: Any = None) -> Any:
        """Copy files to the host; see :meth:`safeexec.files.Files.save`."""
        return await _in_thread(lambda: self._files.save(directory, names))


class AsyncSession:
    """See :class:`safeexec.session.Session`. Cancelling an awaited step interrupts it and waits until it has ended."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.variables = AsyncVariables(session)
        self.files = AsyncFiles(session)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __bool__(self) -> bool:
        return True

    @property
    def closed(self) -> bool:
        """Whether the session has ended."""
        return self._session.closed

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._session.policy

    async def run(self, code: str, *, on_output: OnOutput | None = None) -> Result:
        """Run one step. `on_output`, a plain function, is called on the event loop, which reports what it raises; asynchronous tools run there."""
        relay: OnOutput | None = None
        self._session._loop = asyncio.get_running_loop()
        if on_output is not None:
            loop = asyncio.get_running_loop()
            callback = on_output

            def relay(piece: Output) -> None:
                loop.call_soon_threadsafe(callback, piece)

        turn = _Turn()
        return await _in_thread(lambda: self._session._run(code, relay, turn.begins), turn.cancel)

    async def add_tools(self, tools: Tools) -> None:
        """Make more host tools callable."""
        await _in_thread(lambda: self._session.add_tools(tools))

    async def add_module(self, name: str, source: str) -> None:
        """Run source as a module that code of the session can import."""
        await _in_thread(lambda: self._session.add_module(name, source))

    def interrupt(self) -> None:
        """Stop the running step, if any. Does not wait."""
        step = self._session._step
        if step is not None:
            _interrupt(step)

    def kill(self) -> None:
        """End the session at once. Does not wait."""
        self._session.kill()

    async def fork(self, tools: Tools | None = None, reseed: bool = False) -> AsyncSession:
        """An independent session with the same state, where the sandbox can."""
        return await _new_session(lambda: self._session.fork(tools, reseed))

    async def snapshot(self, key: bytes | None = None) -> Snapshot:
        """The session's state, to be saved and restored anywhere, where the sandbox can."""
        return await _in_thread(lambda: self._session.snapshot(key))

    async def close(self) -> None:
        """End the session."""
        await _in_thread(self._session.close)


async def _new_session(make: Callable[[], Session]) -> AsyncSession:
    """Make a session in a thread; one that nobody waits for any more is closed."""
    made: list[Session] = []

    def work() -> Session:
        session = make()
        made.append(session)
        return session

    try:
        return AsyncSession(await _in_thread(work))
    except asyncio.CancelledError:
        for session in made:
            session.close()
        raise


class AsyncExecutor:
    """See :class:`safeexec.executor.Executor`. The sandbox is set up on ``async with``, or on first use.

    Asynchronous tools run on the event loop that runs the step.
    """

    def __init__(
        self, sandbox: str | Backend = DEFAULT_SANDBOX, *, policy: Policy | None = None, **backend_options: Any
    ) -> None:
        self._make: Callable[[], Executor] = lambda: Executor(sandbox, policy=policy, **backend_options)
        self._executor: Executor | None = None
        # Not asyncio's: whoever sets it up may be cancelled meanwhile, and others may wait on other loops.
        self._lock = threading.Lock()

    def _set_up(self) -> Executor:
        with self._lock:
            if self._executor is None:
                self._executor = self._make()
            return self._executor

    async def _ready(self) -> Executor:
        return await _in_thread(self._set_up) if self._executor is None else self._executor

    async def __aenter__(self) -> AsyncExecutor:
        await self._ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __bool__(self) -> bool:
        return True

    @property
    def isolation(self) -> Mapping[str, Wall]:
        """Which walls really stand. Raises RuntimeError before the executor is set up."""
        if self._executor is None:
            raise RuntimeError("the executor is not set up yet: use it in 'async with', or await something of it first")
        return self._executor.isolation

    def session(
        self, tools: Tools = (), variables: Mapping[str, Any] | None = None, *, policy: Policy | None = None
    ) -> _SessionMaker:
        """A fresh session: ``async with executor.session() as session``, or ``session = await executor.session()``."""
        return _SessionMaker(self, tools, variables, policy)

    async def run(
        self,
        code: str,
        *,
        tools: Tools = (),
        variables: Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        on_output: OnOutput | None = None,
    ) -> Result:
        """Run one step in a fresh session that is gone afterwards."""
        async with _SessionMaker(self, tools, variables, policy, once=True) as session:
            return await session.run(code, on_output=on_output)

    async def restore(
        self,
        image: Snapshot | bytes | str | os.PathLike[str],
        tools: Tools = (),
        variables: Mapping[str, Any] | None = None,
        *,
        policy: Policy | None = None,
        key: bytes | None = None,
    ) -> AsyncSession:
        """A session from a snapshot, where the sandbox can."""
        executor = await self._ready()
        loop = asyncio.get_running_loop()
        return await _new_session(lambda: executor._restore(image, tools, variables, policy, key, loop))

    async def close(self) -> None:
        """End all sessions and free everything."""
        if self._executor is not None:
            await _in_thread(self._executor.close)


class _SessionMaker:
    """Awaitable and asynchronous context manager, so that both spellings of making a session work."""

    def __init__(
        self, executor: AsyncExecutor, tools: Tools, variables: Any, policy: Policy | None, once: bool = False
    ) -> None:
        self._executor = executor
        self._once = once
        self._arguments = (tools, variables, policy)
        self._session: AsyncSession | None = None

    async def _make(self) -> AsyncSession:
        executor = await self._executor._ready()
        loop = asyncio.get_running_loop()
        return await _new_session(lambda: executor._session(*self._arguments, loop, self._once))

    def __await__(self) -> Any:
        return self._make().__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._make()
        return self._session

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
