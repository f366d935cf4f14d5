"""The host's side of one instance: what the system calls act on, and how frames pass."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from . import abi
from .alarms import Alarm
from .fs import FileSystem
from .fs_nodes import Directory
from .fs_tree import Quota
from .pages import Frozen

SIGNAL_WORD: Final = 64  # see image/helpers.wat
SIGINT: Final = 2
SIGALRM: Final = 14
COLLECT: Final = 16
"""Not a signal that anybody sends (SIGSTKFLT): the guest program takes it as the word to collect garbage."""
_COLLECT_STEP: Final = 1 << 20
ENVIRONMENT: Final = {"HOME": "/sandbox", "LANG": "C.UTF-8", "TZ": "UTC"}
MAX_FRAME: Final = 64 << 20
_UNREAD: Final = 32 << 20
"""Bytes that may wait for the guest, if there is more than one frame."""
_PART: Final = 64
"""What a part of a frame is counted as beside its bytes: a guest that sends single ones is not to fill the host's memory with what holds them."""
Buffer = bytes | bytearray | memoryview


CLOCKS: Final[Mapping[int, Callable[[], int]]] = {
    0: time.time_ns, 1: time.monotonic_ns, 2: time.thread_time_ns, 3: time.thread_time_ns
}  # fmt: skip
"""WASI's clocks, in nanoseconds: real time, monotonic, processor time of the process and of the thread."""


class Killed(Exception):
    """The host ended this instance."""


class ProtocolViolation(Exception):
    """The guest used the frame device in a way the guest program never does."""


class Exited(Exception):
    """The guest called the C library's exit or abort."""


class Host(abi.Host):
    """State behind the host functions. Frames come in by `post` (any thread) and leave through `on_frame`."""

    libraries: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    """The shared libraries that are linked into the module: path, then entry point, to its index in the function table."""
    draws = 0
    """How often the guest asked for randomness."""
    clocks: Mapping[int, Callable[[], int]] = CLOCKS
    random: Callable[[int], bytes] = staticmethod(os.urandom)

    def __init__(
        self,
        base: Mapping[str, Directory],
        quota: Quota,
        max_memory: int,
        missing: tuple[str, ...] = (),
        on_frame: Callable[[Sequence[bytes]], None] | None = None,
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self.files = FileSystem(base, quota)
        self.environment = ENVIRONMENT
        self.max_pages = min(max_memory // abi.PAGE, abi.MAX_PAGES)
        self.missing = missing
        self.on_frame = on_frame
        self.on_output = on_output
        self.killed = False
        self.base: Frozen | None = None
        self.failure = None
        self.parts: list[bytes] = []
        self.parts_size = 0
        self.inbox: deque[tuple[Sequence[Buffer], int]] = deque()
        """Frames for the guest, each with its size."""
        # Taken by itself, and the conditions only told where somebody waits: a condition is Python, and costs ten times what its lock does.
        self._lock = threading.Lock()
        self._alarm: Alarm | None = None
        self._at_first = self._collect_at = 0
        """Bytes of memory before it grew for the first time, and with which garbage is collected next."""
        self._wake, self._room = threading.Condition(self._lock), threading.Condition(self._lock)
        self._asleep = False
        """Whether the guest's thread waits for `_wake`."""
        self._held_up = 0
        """How many threads wait for `_room`."""
        self._unread = 0
        """Bytes in the inbox."""
        self._emptied = 0
        """How often it was emptied by the host."""

    # From any thread

    def post(self, frame: Sequence[Buffer]) -> None:
        """Queue a request for the guest, given as its buffers in order, and drop what it did not read before."""
        with self._lock:
            self._empty()
            self._put(frame, sum(map(len, frame)))

    def _put(self, frame: Sequence[Buffer], size: int) -> None:
        self.inbox.append((frame, size))
        self._unread += size
        self._notify()

    def answer(self, frame: Sequence[Buffer]) -> None:
        """The same from a thread that can wait: a guest that reads none of a thousand answers is not to fill the host's memory with them."""
        size = sum(map(len, frame))
        with self._lock:
            emptied = self._emptied
            while self._unread and self._unread + size > _UNREAD and not self.killed and emptied == self._emptied:
                self._held_up += 1
                try:
                    self._room.wait()
                finally:
                    self._held_up -= 1
            if not self.killed and emptied == self._emptied:
                self._put(frame, size)

    def empty(self) -> None:
        """Drop what the guest did not read, and what waits to be put there."""
        with self._lock:
            self._empty()

    def _empty(self) -> None:
        self.inbox.clear()
        self._unread = 0
        self._emptied += 1
        self._make_room()

    def _make_room(self) -> None:
        """Let those look again who wait for room; the lock is held."""
        if self._held_up:
            self._room.notify_all()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the guest, also when it sleeps."""
        with self._lock:
            if self.memory.size:
                self.memory.set_u32(SIGNAL_WORD, SIGINT)
            self._notify()

    def _notify(self) -> None:
        """Wake the guest's thread if it waits; the lock is held."""
        if self._asleep:
            self._wake.notify()

    def _sleep(self, seconds: float | None = None) -> None:
        """Let go of the lock until `_notify` or for so long. In the guest's thread."""
        self._asleep = True
        try:
            self._wake.wait(seconds)
        finally:
            self._asleep = False

    def interrupted(self) -> bool:
        """Whether an interrupt waits to be seen by the guest."""
        return self.memory.u32(SIGNAL_WORD) != 0

    def _ring(self, now: float) -> None:
        """From the watchdog's thread: raise SIGALRM in the guest if it is time, unless an interrupt waits, which must not be lost."""
        with self._lock:
            if self._alarm is not None and self._alarm.is_due(now) and self.memory.size and not self.interrupted():
                self._alarm.went_off(now)
                self.memory.set_u32(SIGNAL_WORD, SIGALRM)
                self._notify()

    def rest(self) -> None:
        """No step runs any more: nothing goes off until the next one says so."""
        if self._alarm is not None:
            with self._lock:
                self._alarm.stop()
                self._alarm = None
                if self.memory.size and self.memory.u32(SIGNAL_WORD) == SIGALRM:
                    self.memory.set_u32(SIGNAL_WORD, 0)

    def kill(self) -> None:
        """Stop the guest at once; the instance is of no more use."""
        with self._lock:
            self.killed = True
            self._notify()
            self._make_room()
            if self.memory.size:
                self.instance.stop()

    def close(self) -> None:
        """Free the instance, once it does not run any more."""
        with self._lock:
            self.killed = True
            self._make_room()
            self.base = None
            self.instance.close()

    def retire(self, keep: Callable[[abi.Instance], bool]) -> None:
        """Let go of the instance, which does not run any more: to `keep`, or, if that does not want it, for good."""
        with self._lock:
            if self.killed and not self.memory.size:
                return
            self.killed = True
            self._make_room()
            self.memory.release()  # an interrupt that comes late must not reach the next session
            if not keep(self.instance):
                self.instance.close()

    # From the guest's thread

    def alarm(self, seconds: float, interval: float) -> float:
        """Have SIGALRM raised in the guest (see Alarm.set), or, if `seconds` is below 0, only look: the seconds that were left of the one before."""
        with self._lock:
            if self._alarm is None:
                if not seconds > 0:
                    return 0.0
                self._alarm = Alarm(self._ring)
            left = self._alarm.left()
            if not seconds < 0:
                self._alarm.set(seconds, interval)
            return left

    def sleep(self, seconds: float) -> float:
        """Wait; an interrupt ends it early. Returns the seconds that were left. Raises Killed."""
        with self._lock:
            deadline = time.monotonic() + seconds
            while not self.killed:
                # An hour at a time: the condition refuses waits beyond what a C time_t holds.
                left = min(deadline - time.monotonic(), 3600.0)
                if not left > 0:
                    return 0.0
                if self.interrupted():  # also one that came just before
                    return left
                self._sleep(left)
            raise Killed

    def wait(self, seconds: float) -> int:
        """Wait until a frame is there, an interrupt comes or the time is over (never, if negative); 1 for a frame. Raises Killed."""
        with self._lock:
            deadline = float("inf") if seconds < 0 else time.monotonic() + seconds
            while not self.killed and not self.inbox and not self.interrupted():
                left = min(deadline - time.monotonic(), 3600.0)
                if not left > 0:
                    return 0
                self._sleep(left)
            if self.killed:
                raise Killed
            return int(bool(self.inbox))

    def receive(self) -> int:
        """Wait for the next frame; its size. Raises Killed."""
        with self._lock:
            while not self.inbox:
                if self.killed:
                    raise Killed
                self._sleep()
            return self.inbox[0][1]

    def take(self, size: int) -> Sequence[Buffer]:
        """The frame whose size was asked for. Raises ProtocolViolation for another size."""
        with self._lock:
            if not self.inbox or self.inbox[0][1] != size:
                raise ProtocolViolation("a frame was fetched that did not wait")
            self._unread -= size
            self._make_room()
            return self.inbox.popleft()[0]

    def grown(self, before: int) -> None:
        """The memory is larger than the `before` bytes that it had: have the guest collect garbage, each time that it grew by half.

        CPython 3.14 itself goes through a part of the heap after every 2,000 objects, and such a part may be all that hangs on one large dictionary:
        to fill it took forty times as long. What a collection here leaves, those parts do not hold any more (guest_runtime.py, collect).
        """
        self._at_first = self._at_first or before
        size, most = self.memory.size, self.max_pages * abi.PAGE
        if size >= self._collect_at:
            with self._lock:  # an interrupt that comes between the look and the word must not be lost
                if not self.interrupted():
                    self.memory.set_u32(SIGNAL_WORD, COLLECT)
            self._collect_at = size + max(_COLLECT_STEP, min(size - self._at_first, most - size) // 2)

    def part(self, data: bytes, more: int) -> None:
        """Take one part of a frame; when none is to follow, hand the frame to the host, in its parts: ten megabytes are not copied to be one."""
        parts: Sequence[bytes] = (data,)
        if more or self.parts:
            self.parts_size += len(data) + _PART
            self.parts.append(data)
            if more:
                return
            parts, self.parts, self.parts_size = self.parts, [], 0
        if self.on_frame is not None:
            self.on_frame(parts)

    def output(self, stream: int, data: bytes) -> None:
        """What the guest wrote to descriptor 1 or 2 past the guest program."""
        if self.on_output is not None:
            self.on_output(stream, data)
