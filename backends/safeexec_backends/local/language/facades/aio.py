"""asyncio without sockets, sub-processes and the loop's machinery."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.denied import is_loop

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]

_SHOWN = """ALL_COMPLETED FIRST_COMPLETED FIRST_EXCEPTION BoundedSemaphore Barrier BrokenBarrierError CancelledError Condition
    Event Future InvalidStateError Lock LifoQueue PriorityQueue Queue QueueEmpty QueueFull QueueShutDown Semaphore Task
    TaskGroup Timeout TimeoutError all_tasks as_completed create_task current_task ensure_future gather isfuture iscoroutine
    iscoroutinefunction run shield sleep timeout timeout_at to_thread wait wait_for wrap_future"""


class Loop:
    """An event loop as a program sees it: to run and to schedule, not to open sockets or start programs."""

    __slots__ = ("__weakref__", "_handler", "_loop")

    def __init__(self, loop: Any) -> None:
        # The library would ask another whether it equals the one that runs, and show it that.
        if not is_loop(type(loop)):
            raise TypeError("an event loop is made by new_event_loop() in this sandbox")
        self._loop = loop
        self._handler: Any = None

    def run_until_complete(self, future: Any) -> Any:
        return self._loop.run_until_complete(future)

    def run_forever(self) -> None:
        self._loop.run_forever()

    def stop(self) -> None:
        self._loop.stop()

    def is_running(self) -> bool:
        return bool(self._loop.is_running())

    def is_closed(self) -> bool:
        return bool(self._loop.is_closed())

    def close(self) -> None:
        self._loop.close()

    def time(self) -> float:
        return float(self._loop.time())

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        return self._loop.create_task(coro, name=name, context=context)

    def call_exception_handler(self, context: Any) -> None:
        self._loop.call_exception_handler(_told(context))

    def default_exception_handler(self, context: Any) -> None:
        self._loop.default_exception_handler(_told(context))

    def get_exception_handler(self) -> Any:
        return self._handler

    def set_exception_handler(self, handler: Any) -> None:
        if handler is None:
            self._loop.set_exception_handler(None)
        elif callable(handler):
            # The loop itself is what a handler would be given, and of the context what the program has anyway.
            self._loop.set_exception_handler(lambda loop, context: handler(self, _told(context)))
        else:
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._handler = handler

    async def shutdown_default_executor(self) -> None:
        await self._loop.shutdown_default_executor()

    def create_future(self) -> Any:
        return self._loop.create_future()

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Any:
        return self._loop.call_soon(callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> Any:
        return self._loop.call_soon_threadsafe(callback, *args)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any:
        return self._loop.call_later(delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Any:
        return self._loop.call_at(when, callback, *args)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        return self._loop.run_in_executor(executor, func, *args)

    async def shutdown_asyncgens(self) -> None:
        await self._loop.shutdown_asyncgens()

    def set_debug(self, enabled: bool) -> None:
        self._loop.set_debug(bool(enabled))

    def get_debug(self) -> bool:
        return bool(self._loop.get_debug())


def _told(context: Any) -> dict[str, Any]:
    """Of what a handler of exceptions is told, what a program may hear and say: other keys make the loop's own handler read source lines of any file."""
    return {n: context[n] for n in ("message", "exception", "task", "future", "asyncgen") if n in context}


def _asyncio(language: RestrictedLanguage) -> Exports:
    import asyncio

    from safeexec_backends.local.language import loops, whereabouts

    loops.hide()
    whereabouts.install()

    def view(loop: Any) -> Loop:
        """The one view of a loop: locks and queues compare what they find."""
        known = vars(loop).get("_safeexec_view")
        if known is None:
            known = loop._safeexec_view = Loop(loop)
        return known  # type: ignore[no-any-return]

    def _get_running_loop() -> Any:
        loop = asyncio._get_running_loop()
        return None if loop is None else view(loop)

    def get_running_loop() -> Loop:
        """As `asyncio.get_running_loop`."""
        return view(asyncio.get_running_loop())

    def new_event_loop() -> Loop:
        """As `asyncio.new_event_loop`."""
        return view(asyncio.new_event_loop())

    def get_event_loop() -> Loop:
        """As `asyncio.get_event_loop`, making a loop where there is none."""
        try:
            return view(asyncio.get_running_loop())
        except RuntimeError:
            pass
        if current and not current[0].is_closed():
            return current[0]
        loop = new_event_loop()
        current[:] = [loop]
        return loop

    def behind(loop: Any) -> Any:
        # Nothing else: the library looks a loop up among those that run, and what equals one would be shown it.
        if loop is not None and type(loop) is not Loop:
            raise TypeError("not an event loop of this sandbox")
        return None if loop is None else loop._loop

    def set_event_loop(loop: Any) -> None:
        """As `asyncio.set_event_loop`."""
        asyncio.set_event_loop(behind(loop))
        current[:] = [] if loop is None else [loop]

    def run(main: Any, *, debug: Any = None) -> Any:
        """As `asyncio.run`."""
        return asyncio.run(main, debug=debug)

    def run_coroutine_threadsafe(coro: Any, loop: Any) -> Any:
        """As `asyncio.run_coroutine_threadsafe`."""
        return asyncio.run_coroutine_threadsafe(coro, behind(loop))

    def current_task(loop: Any = None) -> Any:
        """As `asyncio.current_task`."""
        return asyncio.current_task(behind(loop))

    def all_tasks(loop: Any = None) -> Any:
        """As `asyncio.all_tasks`."""
        return asyncio.all_tasks(behind(loop))

    class Runner:
        """As `asyncio.Runner`."""

        def __init__(self, *, debug: Any = None, loop_factory: Any = None) -> None:
            made = new_event_loop() if loop_factory is None else loop_factory()
            if type(made) is not Loop:
                raise TypeError("not an event loop of this sandbox")
            made._loop.set_debug(bool(debug))
            self._view = made

        def run(self, coro: Any, *, context: Any = None) -> Any:
            return self._view.run_until_complete(coro)

        def get_loop(self) -> Loop:
            return self._view

        def close(self) -> None:
            self._view.close()

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *exc: Any) -> None:
            self.close()

    # What locks, queues and groups of tasks set on themselves, where a subclass sees it.
    stand_in = types.SimpleNamespace(_get_running_loop=_get_running_loop, get_running_loop=get_running_loop)
    for name in ("mixins", "taskgroups"):
        vars(sys.modules[f"asyncio.{name}"])["events"] = stand_in
    vars(asyncio.taskgroups)["tasks"] = types.SimpleNamespace(**{**vars(asyncio.tasks), "current_task": current_task})

    current: list[Loop] = []
    exports = {n: getattr(asyncio, n) for n in _SHOWN.split() if hasattr(asyncio, n)}
    return exports | {
        "get_running_loop": get_running_loop, "get_event_loop": get_event_loop, "new_event_loop": new_event_loop,
        "set_event_loop": set_event_loop, "run": run, "Runner": Runner, "AbstractEventLoop": Loop,
        "run_coroutine_threadsafe": run_coroutine_threadsafe, "current_task": current_task, "all_tasks": all_tasks,
    }  # fmt: skip


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {"asyncio": _asyncio}
