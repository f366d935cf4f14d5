"""Runs inside the sandbox while the image is made: fits CPython to a machine without processes, sockets and JavaScript.

Shipped as text. `_safeexec_device` is the frame device (image/helpers.wat).
"""

import _safeexec_device as device  # type: ignore[import-not-found]
import asyncio
import json
import selectors
import signal
import sys
import time

import safeexec_guest  # type: ignore[import-not-found]
import safeexec_wire as wire  # type: ignore[import-not-found]


class Channel:
    """What the guest program talks through."""

    def __init__(self):
        self.watchers = {}

    def send(self, header, blobs=()):
        device.send(*wire.pack(header, blobs))

    def recv(self):
        return split(device.receive())

    def buffered(self):
        return device.wait(0) == 1

    def watch(self, loop, callback):
        self.watchers[loop] = callback
        if self.buffered():
            loop.call_soon(callback)

    def unwatch(self, loop):
        self.watchers.pop(loop, None)


channel = Channel()
_scan = json.JSONDecoder().scan_once


def split(frame):
    """One frame of the host. It is the host that must doubt frames, not the guest."""
    end = 4 + int.from_bytes(frame[:4], "little")
    header = _scan(frame[4:end].decode(), 0)[0]
    lengths = header.pop("b", None)
    if not lengths:
        return header, ()
    view = memoryview(frame)
    blobs = []
    for length in lengths:
        blobs.append(view[end : end + length])
        end += length
    return header, blobs


class Selector(selectors._BaseSelectorImpl):
    """There is nothing to poll but the host's frames; waiting for them is also how an event loop sleeps."""

    loop = None

    def select(self, timeout=None):
        callback = channel.watchers.get(self.loop)
        milliseconds = -1 if timeout is None else max(0, min(round(timeout * 1000), 1 << 30))
        if callback is None and timeout is None:
            raise RuntimeError("the event loop would wait for ever: nothing is scheduled")
        if device.wait(milliseconds) and callback is not None:
            self.loop.call_soon(callback)
        return []


class EventLoop(asyncio.SelectorEventLoop):
    """asyncio without the socket pair that wakes the loop from other threads: there are none."""

    def __init__(self, selector=None):
        selector = Selector() if selector is None else selector
        super().__init__(selector)
        selector.loop = self

    def _make_self_pipe(self):
        self._ssock = self._csock = None
        self._internal_fds += 1

    def _close_self_pipe(self):
        self._internal_fds -= 1

    def _write_to_self(self):
        pass


def fit():
    """Put the pieces in place."""
    asyncio.SelectorEventLoop = asyncio.EventLoop = EventLoop
    asyncio.unix_events.SelectorEventLoop = asyncio.unix_events._UnixSelectorEventLoop = EventLoop
    for policy in (asyncio.unix_events._DefaultEventLoopPolicy, asyncio.unix_events._UnixDefaultEventLoopPolicy):
        policy._loop_factory = EventLoop
    signal.signal(signal.SIGINT, guest.on_interrupt)


class Guest(safeexec_guest.Guest):
    """The guest program, without what the host measures better: processor time, memory, changed files."""

    def _finish(self, answer, started):
        if self._stdout.truncated or self._stderr.truncated:
            answer["cut"] = True

    def _scan(self):
        return {}

    def _do_list(self, header, blobs, answer):
        encoder = wire.Encoder(self._limits["value"])
        answer["v"] = encoder.encode([[name, size] for name, (size, _) in super()._scan().items()])
        return encoder


class Clock:
    """Stands for the `time` module in the guest program, whose figures the host replaces."""

    process_time = float
    time_ns = staticmethod(time.time_ns)


safeexec_guest.time = Clock
guest = Guest(channel)


def handle(frame):
    """The host's way in."""
    guest.handle(*split(frame))
