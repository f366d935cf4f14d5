"""One live sandbox in this process: an instance of the image, driven by frames."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Final

from safeexec import wire
from safeexec.backend import Guest, GuestDied, OnFrame
from safeexec.policy import Policy
from safeexec.wire import Frame

from . import abi
from .functions import host_functions
from .errno import Errno
from .fs import Directory, base_tree
from .host import Exited, Host, Killed, ProtocolViolation
from .image.cache import Loaded
from .limits import NATIVE_STACK, memory_limit, quota, with_enough_stack

STEP: Final = "safeexec_step"
_RANDOM_WORDS: Final = 624
_REPORTED_FILES: Final = 2_000


class Runtime:
    """The loaded image: one per process, shared by all its instances."""

    def __init__(self, image: Loaded) -> None:
        self.engine = abi.Engine(NATIVE_STACK)
        self.program = abi.Program(self.engine, self.engine.load(image.compiled), host_functions())
        self.base: Mapping[str, Directory] = base_tree(image.files)
        self.missing = tuple(image.facts["missing"])
        self.random = int(image.facts["random"])
        self.memory = int(image.facts["memory"])


class WasmGuest(Guest):
    """A guest whose code runs in the thread that calls :meth:`exchange`."""

    def __init__(self, runtime: Runtime, policy: Policy) -> None:
        limit = memory_limit(runtime.memory, policy.limits)
        self._runtime = runtime
        self._host = host = Host(runtime.base, quota(policy.limits), limit, runtime.missing)
        host.on_frame = self._frame
        host.on_output = self._raw_output
        self._instance = abi.Instance(runtime.program, host, limit)
        # random's generator was frozen with the image: without this every session would draw the same numbers.
        host.memory.write(
            runtime.random, _RANDOM_WORDS.to_bytes(4, "little") + os.urandom(4 * _RANDOM_WORDS)
        )
        self._running = threading.Lock()
        self._dead: GuestDied | None = None
        self._closed = False
        self._on_frame: OnFrame = _nobody
        self._done = False
        self._started = 0.0
        imports = policy.imports
        self._imports = None if imports is None or "*" in imports else list(imports)
        self._files: dict[str, tuple[int, int]] = {}
        self._changes = 0

    # The exchange

    def exchange(self, frame: Frame, on_frame: OnFrame) -> None:
        with self._running:
            if self._dead is not None:
                raise self._dead
            header, blobs = frame
            if self._imports is not None and header.get("t") == "init":
                header = {**header, "imports": self._imports}
            first, *rest = wire.pack(header, blobs)
            self._host.post([memoryview(first)[4:], *rest])
            self._on_frame = on_frame
            self._done = False
            try:
                with_enough_stack(self._step)
            except GuestDied as death:
                self._dead = death
                raise
            except BaseException as error:
                # The instance was left in the middle of something: whatever the reason, it is not used again.
                self._dead = self._death(error)
                if self._dead is None:
                    self._dead = GuestDied("crash", "the host's frame handler failed")
                    raise
                raise self._dead from error
            finally:
                self._on_frame = _nobody

    def _step(self) -> None:
        self._started = time.thread_time()
        status = self._instance.call(STEP)
        if not self._done:
            reason = "the guest program ended without an answer"
            raise GuestDied("crash" if status else "protocol", reason)

    def _frame(self, data: bytes) -> None:
        if self._done:
            # Code that forges the closing frame and runs on gains nothing by it.
            raise ProtocolViolation("a frame after the closing one")
        if int.from_bytes(data[:4], "little") != len(data) - 4:
            raise wire.WireError("a frame whose length is not its length")
        header, blobs = wire.unpack(memoryview(data)[4:])
        if header.get("t") == "done":
            # What the host knows better than the guest.
            header["cpu"] = time.thread_time() - self._started
            header["rss"] = max(self._host.memory.size - self._runtime.memory, 0)
            if self._host.files.changes != self._changes:
                self._report_files(header)
        self._done = self._on_frame((header, blobs))

    def _raw_output(self, stream: int, data: bytes) -> None:
        """Output that went past the guest program: os.write(1, …), or C code."""
        for start in range(0, len(data), 1 << 16):
            self._frame_of({"t": "out", "s": stream}, data[start : start + (1 << 16)])

    def _frame_of(self, header: wire.Header, blob: bytes) -> None:
        if self._done:
            raise ProtocolViolation("output after the closing frame")
        self._done = self._on_frame((header, (blob,)))

    def _report_files(self, header: wire.Header) -> None:
        files = self._host.files
        self._changes = files.changes
        now: dict[str, tuple[int, int]] = {}
        for name, node in files.walk():
            if len(now) >= _REPORTED_FILES:
                break
            now[name] = (node.size, node.mtime)
        if header.get("id") is not None:
            header["files"] = [[name, now[name][0]] for name in now if now[name] != self._files.get(name)]
        self._files = now

    def _death(self, error: BaseException) -> GuestDied | None:
        if isinstance(error, Killed) or self._host.killed:
            return GuestDied("crash", "the guest was killed")
        if isinstance(error, ProtocolViolation):
            return GuestDied("protocol", str(error))
        if isinstance(error, Exited):
            return GuestDied("crash", f"the interpreter ended itself: {error}")
        if isinstance(error, abi.Trap):
            if error.code == abi.STACK_OVERFLOW:
                return GuestDied("crash", "the guest overflowed its stack")
            return GuestDied("crash", f"the guest crashed: {error}")
        if isinstance(error, abi.Fault | Errno):
            return GuestDied("crash", f"the guest passed a bad pointer: {error}")
        return None

    # From any thread

    def send(self, frame: Frame) -> None:
        if self._host.killed:
            raise GuestDied("crash", "the guest was killed")
        first, *rest = wire.pack(*frame)
        self._host.post([memoryview(first)[4:], *rest])

    def interrupt(self) -> None:
        self._host.interrupt()

    def kill(self) -> None:
        self._host.kill()

    def close(self) -> None:
        self._host.kill()
        with self._running:  # a running step ends first: it is being killed
            if not self._closed:
                self._closed = True
                self._dead = self._dead or GuestDied("crash", "the guest was closed")
                self._host.close()


def _nobody(_frame: Frame) -> bool:
    raise ProtocolViolation("a frame outside a request")
