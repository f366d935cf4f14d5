"""A session: one guest, one namespace, one step at a time."""

from __future__ import annotations

import keyword
import os
import threading
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from safeexec import answers, dropped, inherited, travel, wire
from safeexec.backend import Guest, GuestDied
from safeexec.errors import (
    BackendUnavailable,
    ExecutionError,
    LimitExceeded,
    PolicyError,
    ProtocolError,
    SessionBusy,
    SessionClosed,
    StepTimeout,
)
from safeexec.files import Files
from safeexec.outcome import result_of
from safeexec.policy import Limits, Policy
from safeexec.result import GuestError, Result
from safeexec.step import OnOutput, Step
from safeexec.text import neutralise
from safeexec.tools import HostTool, Tools, collect
from safeexec.variables import Variables

if TYPE_CHECKING:
    from safeexec.egress.network import Network
    from safeexec.snapshot import Snapshot

T = TypeVar("T")
_START_TIME = 30.0
_MAX_CODE = wire.MAX_HEADER // 6
"""Bytes of one step's code, which travels in a header: escaped, a byte may become six."""
_PURE = ("get", "names", "list", "read")
"""Requests that leave the guest as it was."""


class Session:
    """Made by :meth:`Executor.session`. State lives from step to step; `close`, `interrupt` and `kill` work from any thread."""

    def __init__(
        self,
        guest: Guest,
        policy: Policy,
        tools: Mapping[str, HostTool],
        variables: Mapping[str, Any],
        loop: Any = None,
        once: bool = False,
    ) -> None:
        self._set_up(guest, policy, tools, loop)
        try:
            mode = travel.rollback_mode(guest, policy)
            self._start(variables)
        except SessionClosed as error:
            self._end("it could not be started")
            raise BackendUnavailable(f"the sandbox did not start: {self._closed}") from error
        except BaseException:
            self._end("it could not be started")
            raise
        # A session for one step has no use for its past.
        self._remember("never" if once else mode)

    def _set_up(self, guest: Guest, policy: Policy, tools: Mapping[str, HostTool], loop: Any) -> None:
        self._guest = guest
        self.policy = policy
        self._tools = dict(tools)
        self._loop = loop
        self._network: Network | None = None
        if policy.network:
            from safeexec.egress.network import Network  # only who permits a network waits for it

            self._network = Network(policy)
        self._lock = threading.Lock()
        self._holder = 0
        self._step: Step | None = None
        self._closed: str | None = None
        self._peak = 0
        self._abandoned: list[int] = []
        self._undone_calls = 0
        """The number of the last tool call that the guest made and, having gone back, does not know of."""
        self._rollback = "never"
        self._sandbox = ""
        self._adopt: Callable[[Session], object] | None = None
        self.variables: MutableMapping[str, Any] = Variables(self)
        """The guest's global variables, by copy: reading one decodes it, writing one encodes it."""
        self.files = Files(self)
        """The working directory."""
        # A session that is dropped without close() must not leave its guest behind.
        self._finalizer = weakref.finalize(self, dropped.end, guest)
        self._finalizer.atexit = False

    def _register(self, session: Session) -> None:
        """Let the executor know of a session that came of this one."""
        session._sandbox, session._adopt = self._sandbox, self._adopt
        if self._adopt is not None:
            self._adopt(session)

    def _remember(self, mode: str) -> None:
        self._rollback = mode
        if mode != "never":
            self._guest.checkpoint()  # type: ignore[attr-defined]

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<safeexec.Session {'open' if self._closed is None else 'closed'}>"

    @property
    def closed(self) -> bool:
        """Whether the session has ended."""
        return self._closed is not None

    def _start(self, variables: Mapping[str, Any]) -> None:
        limits = self.policy.limits
        header: wire.Header = {
            "t": "init",
            "limits": {"output": limits.output, "value": limits.value},
            "env": dict(self.policy.env),
            "tools": [tool.spec() for tool in self._tools.values()],
        }
        blobs: tuple[wire.Blob, ...] = ()
        if self._network is not None:
            # A sandbox has no network, and the guest program nothing that could use one: it gets that now.
            header["network"], blobs = self._network.guest_setup()
        # Starting is the sandbox's work, not a step: a short time limit, or a busy machine, must not make sessions impossible.
        self._request(header, blobs, limits=_patient(limits))
        for name in self.policy.files:
            self.files.put(name, self.policy.file_bytes(name), quiet=True)
        if self.policy.files:
            self._request({"t": "rescan"})
        if variables:
            self._set(variables)

    # -- running ---------------------------------------------------------------------------------------------------------

    def run(self, code: str, *, on_output: OnOutput | None = None) -> Result:
        """Run one step and return what came of it.

        `on_output` is called with each piece of output as it arrives, in this thread; what it raises ends the step and is raised here.
        Raises SessionBusy while another step runs, SessionClosed after the end; the guest's own failures are in ``result.error``.
        """
        return self._run(code, on_output)

    def _run(self, code: str, on_output: OnOutput | None, begins: Callable[[Step], object] | None = None) -> Result:
        # `begins` hears of the step before anything is sent; what it raises is raised here, and the session is as it was.
        if not isinstance(code, str):
            raise TypeError(f"code must be a string, not {type(code).__name__}")
        try:
            size = len(code) if code.isascii() else len(code.encode())
        except UnicodeEncodeError:
            return Result(
                error=GuestError("exception", "SyntaxError", "the code has characters that are not valid Unicode")
            )
        if size > _MAX_CODE:
            raise LimitExceeded(f"the code has {size} bytes; {_MAX_CODE} can be run in one step")
        self._acquire()
        try:
            self._guest.prepare()
            step = Step(self._guest, self.policy.limits, self._tools, on_output, self._loop, self._network)
            if begins is not None:
                begins(step)
            header: wire.Header = {"t": "run", "code": code}
            before = self._abandoned
            if before:
                header["dead"], self._abandoned = before, []
            if self._undone_calls:
                header["calls"] = self._undone_calls
            self._perform(step, header)
            if step.broker is not None:
                self._abandoned = step.broker.abandoned
            result = result_of(step, self.policy.limits, self._peak, self._closed)
            self._peak = result.usage.peak_memory
            if travel.to_undo(self._rollback, step, result) and travel.roll_back(self):
                self._abandoned = before  # the guest waits for those calls again
                if step.broker is not None:
                    self._undone_calls = max(self._undone_calls, step.broker.seen)
                result = replace(result, rolled_back=True)
            elif result.error is not None and (result.error.kind in travel.DISCARD or step.died is not None):
                self._end(f"its last step ended in {result.error.kind!r}: {result.error.message}")
            elif self._rollback != "never":
                self._guest.checkpoint()  # type: ignore[attr-defined]
                self._undone_calls = 0  # it knows now
            if step.callback_error is not None:
                raise step.callback_error
            return result
        finally:
            self._release()

    def _acquire(self) -> None:
        if self._closed is not None:
            raise SessionClosed(f"the session is closed: {self._closed}")
        if not self._lock.acquire(blocking=False):
            raise SessionBusy("the session is running a step; it runs one at a time")
        if self._closed is not None:
            self._lock.release()
            raise SessionClosed(f"the session is closed: {self._closed}")
        self._holder = threading.get_ident()

    def _release(self) -> None:
        self._holder = 0
        self._lock.release()

    def _perform(self, step: Step, header: wire.Header, blobs: Any = ()) -> None:
        # Not a counter: code of one step must not know what the next request will be called, or it could answer in advance.
        header["id"] = int.from_bytes(os.urandom(6), "little")
        self._step = step
        try:
            step.perform(header, blobs)
        except BaseException:
            if not travel.roll_back(self):
                self._end("the host interrupted it")
            raise
        finally:
            self._step = None

    # -- other requests --------------------------------------------------------------------------------------------------

    def _request(self, header: wire.Header, blobs: Any = (), limits: Limits | None = None) -> tuple[wire.Header, Any]:
        """A request that runs no step. Raises the host's exceptions for the guest's refusals."""
        self._acquire()
        try:
            self._guest.prepare()
            step = Step(self._guest, limits or self.policy.limits, network=self._network)
            self._perform(step, header, blobs)
            if step.died is not None or step.broken is not None:
                reason = neutralise(str(step.died) if step.died is not None else str(step.broken))
                if step.expired is not None:
                    reason = step.expired
                undone = travel.roll_back(self)
                if undone:
                    reason += "; the session is as it was before"
                else:
                    self._end(reason)
                if step.expired is not None:
                    raise StepTimeout(reason)
                if step.broken is not None or undone:
                    raise ProtocolError(reason)
                raise SessionClosed(f"the session is lost: {reason}")
            if self._rollback != "never" and header["t"] not in _PURE:
                self._guest.checkpoint()  # type: ignore[attr-defined]
            fail = step.answer.get("fail")
            if fail is not None:
                answers.raise_failure(fail)
            return step.answer, step.blobs
        finally:
            self._release()

    def _decoded(self, header: wire.Header) -> Any:
        answer, blobs = self._request(header)
        try:
            return wire.Decoder(blobs, limit=self.policy.limits.value).decode(answer.get("v"))
        except wire.WireError as error:
            self._end(str(error))
            raise ProtocolError(str(error)) from None

    def _set(self, variables: Mapping[str, Any]) -> None:
        if not isinstance(variables, Mapping):
            raise TypeError(f"variables must be a mapping of names to values, not {type(variables).__name__}")
        encoder = wire.Encoder(self.policy.limits.value, strict=True)
        nodes = {}
        for name, value in variables.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise PolicyError(f"{name!r} is not a variable name")
            try:
                nodes[name] = encoder.encode(value)
            except wire.NotPlain as error:
                raise TypeError(f"variable {name!r}: {error}; pass plain data, or a function through tools=") from None
            except wire.TooLarge as error:
                raise LimitExceeded(f"variable {name!r}: {error} (Limits.value)") from None
        self._request({"t": "set", "v": nodes}, encoder.blobs)

    def add_tools(self, tools: Tools) -> None:
        """Make more host tools callable from the next step on. A name that is in use is replaced."""
        found = collect(tools)
        self._request({"t": "tools", "tools": [tool.spec() for tool in found.values()]})
        self._tools.update(found)

    def add_module(self, name: str, source: str) -> None:
        """Run `source` as a module called `name`, which code of the session can import whatever its policy says of imports.

        Raises PolicyError for a name that is none, ExecutionError when the source fails, LimitExceeded, SessionClosed.
        """
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name[:1] == "_":
            raise PolicyError(f"{name!r} is not a name that a module of the session could have")
        size = len(source.encode("utf-8", "replace"))
        if size > _MAX_CODE:
            raise LimitExceeded(f"the module {name!r} has {size} bytes; {_MAX_CODE} can be sent at once")
        answer, _ = self._request({"t": "module", "name": name, "code": source})
        error = answers.guest_error(answer.get("error"))
        if error is not None:
            raise ExecutionError(error)

    # -- ending ----------------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Stop the running step, if any: KeyboardInterrupt in the guest, and the guest's end if that does not help. From any thread."""
        step = self._step
        if step is not None:
            step.interrupt()

    def kill(self) -> None:
        """End the session at once, whatever runs in it. From any thread."""
        if self._closed is None:
            self._closed = "it was killed"
        self._guest.abandon()
        self._end("it was killed")

    def close(self) -> None:
        """End the session and free what it holds. From any thread; a running step ends first. Idempotent."""
        if self._closed is None:
            self._closed = "it was closed"
        self._end("it was closed")

    def _end(self, reason: str) -> None:
        if self._closed is None:
            self._closed = reason
        self._guest.abandon()
        self._finalizer.detach()
        if self._step is None and self._holder == threading.get_ident():
            self._guest.close()
            return
        if self._lock.acquire(blocking=False):
            try:
                self._guest.close()
            finally:
                self._lock.release()
            return
        # A step still reads from the guest, here (a callback closed the session) or in another thread: what it reads from must not go.
        try:
            threading.Thread(target=self._close_later, name="safeexec-close", daemon=True).start()
        except RuntimeError:
            # The interpreter ends, and starts no more threads (Python 3.12): the step, which was killed, is waited for.
            if self._holder != threading.get_ident():
                self._close_later()

    def _disown(self) -> None:
        """In a forked child: be closed, and leave the guest to the parent."""
        self._closed = inherited.WHY
        self._finalizer.detach()
        self._guest, self._step, self._lock, self._holder = inherited.Inherited(self._guest), None, threading.Lock(), 0

    def _close_later(self) -> None:
        with self._lock:
            self._guest.close()

    # -- the past, and other futures -------------------------------------------------------------------------------------

    def fork(self, tools: Tools | None = None, reseed: bool = False) -> Session:
        """An independent session with the same live state: variables, modules, open iterators and files.

        `tools` replace those it has. Both draw the same random numbers unless `reseed`. Raises NotSupported where the sandbox cannot,
        SessionBusy, SessionClosed, BackendUnavailable when there is no room for another.
        """
        return travel.fork(self, tools, reseed)

    def snapshot(self, key: bytes | None = None) -> Snapshot:
        """The session's state, to be saved and restored in any process; host tools are not part of it.

        `key` (16 bytes or more) signs it: what was signed is restored with the same key only, and refused if it was changed. Raises
        NotSupported where the sandbox cannot, SessionBusy, SessionClosed.
        """
        return travel.take_snapshot(self, key)

    def _or_end(self, work: Callable[[], T]) -> T:
        """Something that is asked of the guest itself; when it turns out to be gone, so is the session."""
        try:
            return work()
        except GuestDied as death:
            self._end(death.message)
            raise SessionClosed(f"the session is lost: {death.message}") from None


@lru_cache(64)
def _patient(limits: Limits) -> Limits:
    return limits if limits.time is None else replace(limits, time=max(limits.time, _START_TIME))
