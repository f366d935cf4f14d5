"""One live sandbox in this process: an instance of the image, driven by frames."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from safeexec import threads, wire
from safeexec.backend import Guest, GuestDied, OnFrame
from safeexec.errors import BackendUnavailable, SnapshotError
from safeexec.frame_memory import frame_memory
from safeexec.policy import Limits, Policy
from safeexec.wire import Frame

from . import abi, snapshot
from .agreed import engine
from .checkpoint import Known, Past, Rest, Source, State, Unsettled, revive
from .errno import Errno
from .faults import faults
from .first import First
from .fs import FileSystem
from .fs_nodes import Directory, base_tree
from .fs_tree import Quota
from .functions import host_functions
from .host import Exited, Host, Killed, ProtocolViolation
from .image.cache import Loaded
from .limits import NATIVE_STACK, memory_limit, quota, with_enough_stack
from .reuse import Spares
from .room import room, why_none
from .signals import handlers

STEP: Final = "safeexec_step"
_RANDOM_WORDS: Final = 624
_REPORTED_FILES: Final = 2_000


class Runtime:
    """The loaded image: one per process, shared by all its instances."""

    def __init__(self, image: Loaded) -> None:
        room.learn()
        self.engine = abi.Engine(NATIVE_STACK)
        self.program = abi.Program(self.engine, self.engine.load(image.compiled), host_functions())
        self.base: Mapping[str, Directory] = base_tree(image.files)
        self.missing = tuple(image.facts["missing"])
        self.libraries: Mapping[str, Mapping[str, int]] = image.facts.get("libraries", {})
        self.random = int(image.facts["random"])
        self.drawn = slice(self.random, self.random + 4 + 4 * _RANDOM_WORDS)
        """What differs in the memory of every fresh instance."""
        self.memory = int(image.facts["memory"])
        self.spares = Spares(self.unused)
        self.identity = str(image.facts["identity"])
        self._rest: Rest | None = None
        self._unused: Host | None = None

    def rest(self, host: Host) -> Rest:
        """What an instance looks like at rest; `host` is a fresh one."""
        if self._rest is None:
            self._rest = Rest.of(host, self._pristine)
        return self._rest

    def _pristine(self) -> memoryview:
        return self.unused().memory.view

    def unused(self) -> Host:
        """An instance that never ran and never will. Raises EngineError."""
        if self._unused is None:
            unused = Host(self.base, Quota(), self.memory)
            abi.Instance(self.program, unused, self.memory)
            self._unused = unused
        return self._unused


H = TypeVar("H", bound=Host)


def fresh(runtime: Runtime, limits: Limits, kind: type[H]) -> H:
    """A new instance with its host state. Raises EngineError when there is no room."""
    limit = memory_limit(runtime.memory, limits)
    host = kind(runtime.base, quota(limits), limit, runtime.missing)
    host.libraries = runtime.libraries
    if not runtime.spares.take(host, limit):
        abi.Instance(runtime.program, host, limit)
    # random's generator was frozen with the image: without this every session would draw the same numbers.
    seen = faults.count()
    host.memory.write(runtime.random, _RANDOM_WORDS.to_bytes(4, "little") + os.urandom(4 * _RANDOM_WORDS))
    host.instance.written.faults += faults.count() - seen
    return host


def file_report(files: FileSystem, known: Known) -> tuple[list[list[Any]], Known]:
    """The files of the working directory that are new or changed since `known`, as [name, size]; and what is known now."""
    now: Known = {}
    for name, node in files.walk():
        if len(now) >= _REPORTED_FILES:
            break
        now[name.encode(errors="surrogateescape").decode(errors="replace")] = (node.size, node.mtime)
    return [[name, now[name][0]] for name in now if now[name] != known.get(name)], now


class Reason(NamedTuple):
    """Why an instance ended: GuestDied's kind and message."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException, host: Host | None) -> Reason:
        """Read it off what a step raised."""
        if isinstance(error, Killed) or (host is not None and host.killed):
            return cls("crash", "the guest was killed")
        if isinstance(error, ProtocolViolation):
            return cls("protocol", str(error))
        if isinstance(error, Exited):
            return cls("crash", f"the interpreter ended itself: {error}")
        if isinstance(error, abi.Trap):
            if error.code == abi.STACK_OVERFLOW:
                return cls("crash", "the guest overflowed its stack")
            return cls("crash", f"the guest crashed: {error}")
        if isinstance(error, abi.Fault | Errno):
            return cls("crash", f"the guest passed a bad pointer: {error}")
        if isinstance(error, SnapshotError):
            return cls("crash", str(error))
        if isinstance(error, Unsettled):
            return cls("crash", f"the session is not at rest: {error}")
        if isinstance(error, abi.EngineError):
            return cls("crash", f"there is no room for another instance: {why_none(error)}")
        return cls("crash", f"the host failed: {type(error).__name__}")


_GUESTS_OWN: Final = (Killed, ProtocolViolation, Exited, abi.Trap, abi.Fault, Errno)


class WasmGuest(Guest):
    """A guest whose code runs in the thread that calls :meth:`exchange`."""

    def __init__(
        self,
        runtime: Runtime,
        policy: Policy,
        branch: tuple[State, Source | None] | None = None,
        written: bytes | None = None,
    ) -> None:
        """A fresh guest, or one in the state of another, or in one that was written down.

        Raises EngineError when there is no room, SnapshotError.
        """
        self._runtime = runtime
        self._policy = policy
        self.on_fork: Callable[[WasmGuest], WasmGuest] = _as_it_is
        """Hears of branches."""
        self._running = threading.Lock()
        self._dead: GuestDied | None = None
        self._closed = False
        self._close_wanted = False
        self._thread = 0  # that runs an exchange
        self._on_frame: OnFrame = _nobody
        self._done = False
        self._started = 0.0
        self._first = First(policy)
        self._first_kept = self._first.held
        self._files: Known = {}
        self._changes = 0
        if written is not None:
            host = snapshot.load(written, self._fresh, runtime)
            self._changes, self._files = host.files.changes, file_report(host.files, {})[1]
        elif branch is None:
            host = self._fresh()
        else:
            state, source = branch
            host = revive(self._fresh, state, source)
            self._files, self._changes = state.known, state.changes
        self._use(host)
        self._past = Past(runtime.rest(host), unused=branch is None and written is None)

    def _fresh(self) -> Host:
        return fresh(self._runtime, self._policy.limits, Host)

    def _use(self, host: Host) -> None:
        host.on_frame = self._frame
        host.on_output = self._raw_output
        self._host = host

    # The exchange

    def exchange(self, frame: Frame, on_frame: OnFrame) -> None:
        with self._running:
            if self._dead is not None:
                raise self._dead
            header, blobs = frame
            answer = self._first.answers(header)
            if answer is not None:
                on_frame((answer, ()))
                return
            if self._past.wanted:
                self._first_kept = self._first.held
            self._past.moves(self._host, self._files, self._changes)
            first, *rest = wire.pack(self._first.completes(header), blobs)
            self._host.post([memoryview(first)[4:], *rest])  # and no answers that came when their step was over
            self._on_frame = on_frame
            self._done = False
            self._thread = threading.get_ident()
            handlers.look()
            try:
                with_enough_stack(self._step)
            except GuestDied as death:
                self._dead = death
                raise
            except BaseException as error:
                # The instance was left in the middle of something: whatever the reason, it is not used again.
                self._dead = GuestDied(*Reason.of(error, self._host))
                if isinstance(error, _GUESTS_OWN):
                    raise self._dead from error
                raise
            finally:
                self._host.rest()
                self._on_frame = _nobody
                self._thread = 0
                self._host.empty()
                if self._close_wanted:
                    self._free()

    def _step(self) -> None:
        self._started = time.thread_time()
        status = self._host.instance.call(STEP, self._host.receive())
        if not self._done:
            reason = "the guest program ended without an answer"
            raise GuestDied("crash" if status else "protocol", reason)

    def _frame(self, parts: Sequence[bytes]) -> None:
        if self._done:
            # Code that forges the closing frame and runs on gains nothing by it.
            raise ProtocolViolation("a frame after the closing one")
        data = memoryview(parts[0]) if len(parts) == 1 else _joined(parts)
        if int.from_bytes(data[:4], "little") != len(data) - 4:
            raise wire.WireError("a frame whose length is not its length")
        header, blobs = wire.unpack(data[4:])
        if header.get("t") == "done":
            # What the host knows better than the guest.
            header["cpu"] = time.thread_time() - self._started
            header["rss"] = max(self._host.memory.size - self._runtime.memory, 0)
            if self._host.files.changes != self._changes:
                self._changes = self._host.files.changes
                header["files"], self._files = file_report(self._host.files, self._files)
        self._done = self._on_frame((header, blobs))
        if not self._done:  # a callback of the host's has run
            handlers.hold()

    def _raw_output(self, stream: int, data: bytes) -> None:
        """Output that went past the guest program: os.write(1, …), or C code."""
        for start in range(0, len(data), 1 << 16):
            self._frame_of({"t": "out", "s": stream}, data[start : start + (1 << 16)])

    def _frame_of(self, header: wire.Header, blob: bytes) -> None:
        if self._done:
            raise ProtocolViolation("output after the closing frame")
        self._done = self._on_frame((header, (blob,)))
        handlers.hold()

    # The past

    def checkpoint(self) -> None:
        with self._running:  # the one before may be in the making still
            self._past.want()
        if self._past.large():
            threads.start(self._keep)

    def _keep(self) -> None:
        with self._running:
            if self._past.wanted and self._dead is None and not self._closed:
                self._take()

    def _take(self) -> None:
        self._first_kept = self._first.held
        self._past.keep(self._host, self._files, self._changes)

    def rollback(self) -> None:
        with self._running:
            if self._closed:
                raise GuestDied("crash", "the guest was closed")
            if self._past.wanted:  # the request that failed never reached the instance
                self._take()
            try:
                host, state = self._past.back(self._fresh)
            except abi.EngineError as error:
                self._dead = self._dead or GuestDied("crash", str(error))
                raise GuestDied("crash", str(error)) from None
            old = self._host
            self._use(host)
            self._files, self._changes = state.known, state.changes
            self._first.held = self._first_kept
            self._dead = None
            old.close()

    def fork(self) -> WasmGuest:
        with self._running:
            if self._dead is not None:
                raise self._dead
            try:
                branch = self._past.branch(self._host, self._files, self._changes)
                twin = WasmGuest(self._runtime, self._policy, branch)
                twin._first.held = self._first.held
                return self.on_fork(twin)
            except Unsettled as error:
                raise BackendUnavailable(f"the session cannot be forked: {error}") from None
            except (abi.EngineError, OSError) as error:
                raise BackendUnavailable(f"no room for a branch: {error}") from error

    def snapshot(self) -> tuple[str, bytes]:
        if self._first.held is not None:  # the guest has to know it to have it written down: any request takes it along
            self.exchange(({"t": "names", "id": 0}, ()), _closing)
        with self._running:
            if self._dead is not None:
                raise self._dead
            try:
                return engine(self._runtime.identity), snapshot.dump(self._host, self._past.rest, self._runtime)
            except Unsettled as error:
                raise BackendUnavailable(f"no snapshot can be taken: {error}") from None

    # From any thread

    def runs_elsewhere(self) -> bool:
        """Whether another thread is at work in it."""
        return self._running.locked() and self._thread != threading.get_ident()

    def send(self, frame: Frame) -> None:
        if self._host.killed:
            raise GuestDied("crash", "the guest was killed")
        first, *rest = wire.pack(*frame)
        handlers.hold()  # a tool has run, perhaps
        # What is refused is answered by the thread that runs the guest, which cannot wait for it.
        send = self._host.post if self._thread == threading.get_ident() else self._host.answer
        send([memoryview(first)[4:], *rest])

    def interrupt(self) -> None:
        self._host.interrupt()

    def kill(self) -> None:
        self._host.kill()

    def close(self) -> None:
        self._host.kill()
        if self._thread == threading.get_ident():
            self._close_wanted = True
            return  # a callback of the running step: exchange() frees the instance when it is out of it
        with self._running:  # a running step ends first: it is being killed
            self._free()

    def _free(self) -> None:
        if not self._closed:
            self._closed = True
            in_order = self._dead is None
            self._dead = self._dead or GuestDied("crash", "the guest was closed")
            self._past.close()
            if in_order:
                self._runtime.spares.give(self._host)
            else:
                self._host.close()


def _joined(parts: Sequence[bytes]) -> memoryview:
    """The parts of a frame as one, in memory that is used again."""
    whole = frame_memory.take(sum(map(len, parts)))
    place = 0
    for part in parts:
        following = place + len(part)
        whole[place:following] = part
        place = following
    return whole


def _closing(frame: Frame) -> bool:
    return frame[0].get("t") == "done"


def _nobody(_frame: Frame) -> bool:
    raise ProtocolViolation("a frame outside a request")


def _as_it_is(guest: WasmGuest) -> WasmGuest:
    return guest
