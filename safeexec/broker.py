"""Runs the tool calls of one step: each in a thread of its own, or on an event loop, with a time limit."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from safeexec import threads, wire
from safeexec.calls import Call, Turns
from safeexec.errors import EndStep, ProtocolError
from safeexec.policy import Limits
from safeexec.result import ToolCall
from safeexec.tools import HostTool

if TYPE_CHECKING:
    import asyncio

MAX_PARALLEL = 32
"""Calls of one step that run at once; more wait for their turn."""

MAX_FLYING = 8 * MAX_PARALLEL
"""The same of asynchronous tools, which take no thread; their answers wait in the host's memory until the guest takes them."""

MAX_HELD = 4
"""Arguments of all calls under way, as a multiple of ``Limits.value``."""

_ROW = 2
_QUICK = 0.001
"""So many calls that took less than so many seconds are a row of quick ones."""

_loop: asyncio.AbstractEventLoop | None = None
_loop_lock = threading.Lock()


def shared_loop() -> asyncio.AbstractEventLoop:
    """The event loop on which asynchronous tools of synchronous sessions run, in a daemon thread of its own."""
    import asyncio  # 30 ms that only asynchronous tools need

    global _loop
    with _loop_lock:
        if _loop is None or _loop.is_closed():
            loop = asyncio.new_event_loop()
            try:
                threading.Thread(target=loop.run_forever, name="safeexec-tools", daemon=True).start()
            except RuntimeError:  # no more threads: nobody is to wait for a loop that does not turn
                loop.close()
                raise
            _loop = loop
        return _loop


def _after_fork() -> None:
    global _loop, _loop_lock
    _loop, _loop_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Broker:
    """The tool calls of one step.

    `send` carries answers to the guest, from any thread; `on_busy` and `on_idle` stop and restart the guest's clock, which stands still while a tool
    runs, not while a call waits for others whose answers the guest does not take. `on_end` is told that a tool ended the step.
    """

    def __init__(
        self,
        tools: Mapping[str, HostTool],
        limits: Limits,
        send: Callable[[wire.Frame], None],
        on_busy: Callable[[], None],
        on_idle: Callable[[], None],
        loop: asyncio.AbstractEventLoop | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._on_end = on_end
        self.ended = False
        """A tool ended the step."""
        self._tools = tools
        self._limits = limits
        self._send = send
        self._on_busy = on_busy
        self._on_idle = on_idle
        self._own_loop = loop
        self._lock = threading.Lock()
        self._running: dict[int, Call] = {}
        self._begun = 0
        self._threads = Turns(MAX_PARALLEL)
        self._flights = Turns(MAX_FLYING)
        """Of asynchronous tools, whose turn lasts until their answer was sent."""
        self._senders = threads.Few(MAX_PARALLEL)
        """As many as run tools: a guest that leaves a thousand answers unread is not to have as many threads of the host's."""
        self.seen = 0
        """The number of the last call; those of a session only grow."""
        self._closed = False
        self._held = 0
        self._log_left = limits.value
        self.abandoned: list[int] = []
        """Calls the step ended without; a guest that still waits for one is told with its next request."""
        self.log: list[ToolCall] = []

    # -- from the thread that reads frames -------------------------------------------------------------------------------

    def request(self, header: wire.Header, blobs: Any) -> partial[None] | None:
        """Take a ``call`` frame; what is to be run for it in a thread that may be left to itself, if anything.

        Raises ProtocolError for one that no honest guest sends.
        """
        number, name, args, kwargs = header.get("id"), header.get("tool"), header.get("a"), header.get("k")
        if type(number) is not int or type(name) is not str or type(args) is not list or type(kwargs) is not dict:
            raise ProtocolError("a malformed tool call")
        if number <= self.seen:
            raise ProtocolError("a tool call out of order")
        self.seen = number
        if self._closed:
            self._refuse(number, "KeyboardInterrupt", "")
            return None
        limit = self._limits.tool_calls
        if limit is not None and len(self.log) + len(self._running) >= limit:
            self._refuse(number, "RuntimeError", f"more than {limit} tool calls in one step (Limits.tool_calls)")
            return None
        if self._held + header["n"] > MAX_HELD * self._limits.value:
            # A thousand calls with the largest arguments must not all lie in the host's memory.
            self._refuse(
                number, "RuntimeError", "the arguments of the calls under way are too large together (Limits.value)"
            )
            return None
        tool = self._tools.get(name)
        if tool is None:
            self._refuse(number, "NameError", f"there is no tool {name!r:.100}")
            return None
        # Not before: a call that is refused anyway must not cost the host its largest arguments.
        if header["n"] > self._limits.value or not wire.are_values(args) or not wire.are_values(kwargs.values()):
            decoder = wire.Decoder(blobs, limit=self._limits.value)
            args = [decoder.decode(node) for node in args]
            kwargs = {key: decoder.decode(node) for key, node in kwargs.items()}
        try:
            positional, named, shown = tool.bind(args, kwargs)
        except Exception as error:  # a validator of the host's own may raise anything: the guest chose the value
            self._refuse(number, _kind(error), _message(error))
            return None
        size = header["n"]
        if size > self._log_left:  # the log outlives the calls
            shown = {key: wire.Opaque(type(value).__name__, "…") for key, value in shown.items()}
        self._log_left -= min(size, self._log_left)
        call = Call(number, tool, positional, named, shown, size)
        waits = False
        with self._lock:
            closed = self._closed
            if not closed:
                self._running[number] = call
                self._held += size
                waits = not self._turns(call).take(call)
        if closed:  # code that catches its interrupt must not go on calling the host
            self._refuse(number, "KeyboardInterrupt", "")
            return None
        if waits:
            return None
        if tool.is_async:
            if not self._fly(call):
                self._over(call)
            return None
        self._begin(call)
        return partial(self._in_thread, call)

    def start(self, work: partial[None]) -> None:
        """Have a thread do what :meth:`request` gave; where there is none to be had the guest is told."""
        call: Call = work.args[0]
        if not self._started(call, work):
            self._over(call)

    @property
    def quick(self) -> bool:
        """Whether the step calls one quick tool after another."""
        return len(self.log) >= _ROW and self.log[-1].duration < _QUICK and len(self._running) == 1

    def _refuse(self, number: int, kind: str, message: str) -> None:
        self._send(({"t": "failure", "id": number, "type": kind, "message": message[:20_000]}, ()))

    def _begin(self, call: Call) -> None:
        call.started = monotonic()
        limit = self._limit(call)
        if limit is not None:
            call.deadline = call.started + limit
        with self._lock:
            if call.settled:  # the step ended before its turn came
                return
            call.running = True
            self._begun += 1
            first = self._begun == 1
        if first:
            self._on_busy()

    def _ends(self, call: Call) -> None:
        """Its tool does not run any more."""
        with self._lock:
            if not call.running:
                return
            call.running = False
            self._begun -= 1
            last = not self._begun
        if last:
            self._on_idle()

    def _turns(self, call: Call) -> Turns:
        return self._flights if call.tool.is_async else self._threads

    def _over(self, call: Call) -> None:
        """It takes no thread any more, or no part of the event loop: it is the next one's turn."""
        turns, begin = self._turns(call), self._fly if call.tool.is_async else self._spawn
        while True:
            with self._lock:
                if self._closed:
                    turns.nobody()
                following = turns.over()
            if following is None or begin(following):
                return

    def _spawn(self, call: Call) -> bool:
        """Begin a call in a thread of its own. False where that failed, and was answered."""
        self._begin(call)
        return self._started(call, partial(self._in_thread, call))

    def _started(self, call: Call, work: Callable[[], None]) -> bool:
        try:
            threads.start(work)
            return True
        except RuntimeError as error:  # it is not to wait for an answer that nobody will give
            self._settle(call, None, RuntimeError(str(error)))
            return False

    def _in_thread(self, call: Call) -> None:
        if call.settled or self._closed:  # the step ended before this thread came to it
            self._over(call)
            return
        try:
            value = call.context.run(call.tool.call, *call.positional, **call.named)
            waits = inspect.iscoroutine(value)  # of a plain function or object; asks the value for its class
            if waits:
                self._on_loop(call, value)
        except BaseException as error:
            self._settle(call, None, error)
        else:
            if not waits:
                self._settle(call, value, None)
        self._over(call)

    def _fly(self, call: Call) -> bool:
        """Begin a call of an asynchronous tool. False where that failed, and was answered."""
        self._begin(call)
        try:
            self._on_loop(call, call.context.run(call.tool.call, *call.positional, **call.named))
            return True
        except Exception as error:
            self._settle(call, None, error)
            return False

    def _on_loop(self, call: Call, coroutine: Any) -> None:
        import asyncio

        loop = self._own_loop
        if loop is None or loop.is_closed():
            loop = shared_loop()
        future = asyncio.run_coroutine_threadsafe(_guarded(coroutine), loop)
        call.cancel = future.cancel
        if call.settled:  # given up between the two lines above, by a thread that saw nothing to cancel
            future.cancel()

        def finished(done: Any) -> None:
            # In a thread: a guest that does not read its answers would hold up the event loop, and everything else on it.
            error = TimeoutError("the call was cancelled") if done.cancelled() else done.exception()
            answer = partial(self._answer, call, None if error is not None else done.result(), error)
            try:
                self._hand_on(call, answer)
            except RuntimeError:  # there is none to be had
                answer()

        future.add_done_callback(finished)

    def _answer(self, call: Call, value: Any, error: BaseException | None) -> None:
        self._settle(call, value, error)
        if call.tool.is_async:
            self._over(call)

    def _hand_on(self, call: Call, work: Callable[[], None]) -> None:
        """Have a thread do what may have to wait for the guest. Raises RuntimeError where there is none."""
        if not self._senders.start(work):
            self._ends(call)  # it waits for a guest that takes no answers, and for no tool

    # -- from the thread that ran the tool, or the watchdog --------------------------------------------------------------

    def _limit(self, call: Call) -> float | None:
        own = call.tool.time_limit
        return self._limits.tool_time if own is None else own

    def _settle(self, call: Call, value: Any, error: BaseException | None) -> None:
        ends = issubclass(type(error), EndStep)  # not isinstance(), which asks the object as well
        with self._lock:
            if call.settled:  # abandoned: the late result is dropped
                return
            call.settled = True
            if ends:  # from here on every call is refused, so that what follows an `except` in the guest can ask for nothing more
                self.ended = self._closed = True
        header: wire.Header = {"t": "result", "id": call.number}
        blobs: Any = ()
        if error is None and wire.is_node(value):
            header["v"] = value
        elif error is None:
            encoder = wire.Encoder(self._limits.value, strict=True)
            try:
                header["v"] = encoder.encode(value)
                blobs = encoder.blobs
            # The value is asked for its class and its parts, and may answer with anything.
            except BaseException as trouble:
                text = _message(trouble)
                if isinstance(trouble, wire.NotPlain):
                    text = f"{call.tool.name}() returned {text}"
                error = TypeError(text.replace("cannot be passed", "which is not plain data"))
        failure = None
        if error is not None:
            # Type name and message only: a traceback or a chained exception would carry host paths and host values.
            kind, message = _kind(error), _message(error)
            failure = f"{kind}: {message}"
            header = {"t": "failure", "id": call.number, "type": kind, "message": message}
            if issubclass(type(error), (KeyboardInterrupt, SystemExit, GeneratorExit)):
                header["type"] = "RuntimeError"
            blobs = ()
        if ends:
            # As an interrupt arrives: `except Exception` does not stop it.
            failure, header = None, {"t": "failure", "id": call.number, "type": "KeyboardInterrupt", "message": ""}
        with self._lock:
            self.log.append(ToolCall(call.tool.name, call.arguments, failure, monotonic() - call.started))
            self._running.pop(call.number, None)
            self._held -= call.size
        self._ends(call)
        if ends and self._on_end is not None:
            self._on_end()
        try:
            self._send((header, blobs))
        except Exception:  # the guest is gone: the thread that reads its frames finds that out and says why
            return
        if ends:
            self.stop(tell=True)  # what other calls of this step still wait for does not come

    def check(self, now: float) -> None:
        """Abandon calls that ran past their time. Does not block: a guest that does not read must not stop the watchdog."""
        for call in list(self._running.values()):
            if now >= call.deadline:
                limit = self._limit(call)
                whose = "Limits.tool_time" if call.tool.time_limit is None else "the tool's own tool_time"
                error = TimeoutError(f"{call.tool.name}() took longer than {limit:g} s ({whose})")
                # Where there is no thread, again at the next tick.
                self._hand_on(call, partial(self._abandon, call, error))
                call.deadline = float("inf")

    def _abandon(self, call: Call, error: BaseException) -> None:
        cancel = call.cancel
        self._settle(call, None, error)
        if cancel is not None:
            cancel()

    def stop(self, tell: bool) -> None:
        """The step is over or interrupted: abandon what still runs. `tell` the guest, which may wait for it; that may block."""
        with self._lock:
            self._closed = True
            self._threads.nobody()
            self._flights.nobody()
            calls = list(self._running.values())
        for call in calls:
            with self._lock:
                if call.settled:
                    continue
                call.settled = True
                self._running.pop(call.number, None)
                self._held -= call.size
                lasted = monotonic() - call.started if call.started else 0.0
                self.log.append(ToolCall(call.tool.name, call.arguments, "abandoned", lasted))
            if call.cancel is not None:
                call.cancel()
            self._ends(call)
            if not tell:
                self.abandoned.append(call.number)
                continue
            try:
                self._send(({"t": "failure", "id": call.number, "type": "KeyboardInterrupt", "message": ""}, ()))
            except Exception:  # as in _settle
                continue


async def _guarded(coroutine: Any) -> Any:
    try:
        return await coroutine
    except (KeyboardInterrupt, SystemExit) as error:  # asyncio would end its loop over one of these
        raise RuntimeError(f"the tool raised {type(error).__name__}") from error


def _kind(error: BaseException) -> str:
    name: str = type.__dict__["__name__"].__get__(type(error))  # a metaclass may have a property of that name
    return name


def _message(error: BaseException) -> str:
    try:
        # str() of a KeyError is the repr of its key; the guest's own KeyError would put quotes around that once more.
        plain = type(error) is KeyError and len(error.args) == 1 and type(error.args[0]) is str
        text = error.args[0] if plain else str.__str__(str(error))
    except BaseException:  # from here it would leave a call unanswered, and its step without an end
        text = "(its message cannot be shown)"
    return text if len(text) <= 20_000 else text[:19_999] + "…"
