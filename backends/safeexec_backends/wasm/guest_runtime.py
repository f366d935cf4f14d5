# mypy: ignore-errors
# It is written against the CPython inside the image, whose private names a checker on the host does not know.
"""Runs inside the sandbox while the image is made: fits CPython to a machine without processes, sockets and JavaScript.

Shipped as text. `_safeexec_device` is the frame device (image/helpers.wat).
"""

import _ctypes
import asyncio
import builtins
import contextlib
import gc
import json
import linecache
import os
import selectors
import signal
import sys
import time
import types
import zoneinfo
from concurrent.futures import ThreadPoolExecutor

import _safeexec_device as device  # type: ignore[import-not-found]
import safeexec_alarms  # type: ignore[import-not-found]
import safeexec_guest  # type: ignore[import-not-found]
import safeexec_hashing  # type: ignore[import-not-found]
import safeexec_import_rule  # type: ignore[import-not-found]
import safeexec_missing  # type: ignore[import-not-found]
import safeexec_system  # type: ignore[import-not-found]
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

    def wait(self, seconds):
        """Wait for a frame, for ever if `seconds` is negative; whether one is there. An interrupt is raised here."""
        return device.wait(-1 if seconds < 0 else min(int(seconds * 1000 + 0.999), 1 << 30)) == 1

    def watch(self, loop, callback):
        def if_there():  # another callback of the same turn may have taken the frame, and to wait would block the loop
            if self.buffered():
                callback()

        self.watchers[loop] = if_there

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

    def run_in_executor(self, executor, func, *args):
        """What would run in another thread runs in a turn of the loop: `asyncio.to_thread` gives its result, and others wait meanwhile."""
        self._check_closed()
        if executor is not None and (type(executor) is not ThreadPoolExecutor or executor._shutdown):
            return super().run_in_executor(executor, func, *args)
        future = self.create_future()

        def run():
            if future.cancelled():
                return
            try:
                result = func(*args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_soon(run)
        return future

    async def create_server(self, *args, **options):
        return await safeexec_missing.create_server(super().create_server, args, options)

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
    asyncio.events._BaseDefaultEventLoopPolicy.get_event_loop = get_event_loop
    zoneinfo._common.load_tzdata = zone_data(zoneinfo._common.load_tzdata)
    signal.signal(signal.SIGINT, guest.on_interrupt)
    safeexec_alarms.complete(guest)
    safeexec_hashing.complete()
    safeexec_system.complete()
    safeexec_missing.complete()


def collect(*_):
    """The host says that the memory grew (host.py, grown). What is left is not looked at again before the next time."""
    if gc.isenabled():
        gc.unfreeze()
        gc.collect()
        gc.freeze()


def zone_data(original):
    """Pyodide's error for an unknown zone tells to load a package by means of JavaScript."""

    def load_tzdata(key):
        try:
            return original(key)
        except zoneinfo.ZoneInfoNotFoundError:
            raise zoneinfo.ZoneInfoNotFoundError(f"No time zone found with key {key}") from None

    return load_tzdata


def get_event_loop(self):
    """The current event loop; made where there is none, as up to Python 3.13.

    Ordinary code begins with ``loop = asyncio.get_event_loop()``, which 3.14 answers with a RuntimeError.
    """
    if self._local._loop is None:
        self.set_event_loop(self.new_event_loop())
    return self._local._loop


# Of packages whose module is called otherwise; what is written here is asked of a registry.
DISTRIBUTIONS = {
    "PIL": "pillow", "bs4": "beautifulsoup4", "cv2": "opencv-python", "Crypto": "pycryptodome", "dateutil": "python-dateutil",
    "docx": "python-docx", "dotenv": "python-dotenv", "fitz": "pymupdf", "jwt": "pyjwt", "magic": "python-magic", "pptx": "python-pptx",
    "skimage": "scikit-image", "sklearn": "scikit-learn", "slugify": "python-slugify", "yaml": "pyyaml",
}  # fmt: skip


DATABASES = ("dbm.dumb", "dbm.gnu", "dbm.ndbm")  # dbm.sqlite3 is what there is


reserve = [b"", b""]  # until the image is finished


def listen():
    """Collect garbage when the host says so."""
    signal.signal(signal.SIGSTKFLT, collect)


def set_aside():
    """Some arenas of the interpreter's allocator for a step that finds the memory full, and for telling its end.

    Never written to: no session pays for them. Not among what is immortal, or they could not be given back.
    """
    reserve[:] = filter(None, reserve)
    while len(reserve) < 2:
        reserve.append(bytearray(1 << 19))


class Language(safeexec_guest.Python):
    """The whole language. A step that is to make room in a full memory can be compiled."""

    def compile(self, source, filename, original=safeexec_guest.Python.compile):
        try:
            return original(self, source, filename)
        except (MemoryError, SystemError):  # the latter where the compiler forgets to say so
            if len(reserve) < 2:
                raise
            reserve.pop()
            return original(self, source, filename)


class Guest(safeexec_guest.Guest):
    """The guest program, without what the host measures better: processor time, memory, changed files."""

    def handle(self, header, blobs=()):
        if len(reserve) < 2:  # a step used it up
            with contextlib.suppress(MemoryError):
                set_aside()
        more = header.pop("init", None)
        if more is not None:
            self._do_init(more, (), {})
        super().handle(header, blobs)

    def _do_init(self, header, blobs, answer):
        """What a session has beyond that for which `begin` has set everything up."""
        self._limits.update(header.get("limits", {}))
        os.environ.update(header.get("env", {}))
        if "TZ" in header.get("env", {}):
            time.tzset()
        self._add_tools(header.get("tools", ()))
        if "network" in header:
            self._network = self._start_network(header["network"], blobs)
        patterns = header.get("imports")
        if patterns is not None:
            builtins.__import__ = safeexec_import_rule.ImportRule(safeexec_guest, patterns, builtins.__import__)

    def send(self, header, blobs=()):
        try:
            super().send(header, blobs)
        except MemoryError:  # the step filled the memory and keeps it filled: its end must be told all the same
            self._relieve()
            super().send(header, blobs)

    def _finish(self, answer, started):
        if self._stdout.truncated or self._stderr.truncated:
            answer["cut"] = True

    def _scan(self):
        return {}

    def _describe(self, error, filename):
        answer = super()._describe(error, filename)
        name = error.name if type(error) is ModuleNotFoundError else None
        if type(name) is str and (name.isidentifier() or name in DATABASES):
            if name in sys.stdlib_module_names or name in DATABASES:
                answer["message"] += ": this sandbox's Python is without it"
            else:
                package = DISTRIBUTIONS.get(name, name)
                answer["message"] += (
                    f"; where packages may be installed, Policy(packages=({package!r},)) or --package does it"
                )
        return answer

    def _relieve(self):
        reserve.clear()


class Clock:
    """Stands for the `time` module in the guest program, whose figures the host replaces."""

    process_time = float
    time_ns = staticmethod(time.time_ns)


safeexec_guest.time = Clock
guest = Guest(channel, Language())
guest._hidden += (os.path.dirname(safeexec_guest.__file__) + "/",)


def handle(frame):
    """The host's way in."""
    guest.handle(*split(frame))


def begin():
    """Start a session without tools and variables; every other is that one with something added."""
    safeexec_guest.Guest._do_init(guest, {"limits": {}, "env": {}, "tools": [], "files": True}, (), {})


class Drain(Channel):
    """A channel to nowhere, for warming up."""

    def send(self, header, blobs=()):
        wire.pack(header, blobs)


WARM = (
    "1 + 1",
    "x = [1, 2.5, 'a', None, {'k': (1, 2)}]\nfor i in range(3):\n    print(i, x)\nx",
    "def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\nf(5)",
    "import math, json\njson.dumps({'pi': math.pi})",
    "class A:\n    def __init__(self, x):\n        self.x = x\nA(1).x",
    "1 / 0",
)


def warm():
    """Run what every session runs, often enough that the interpreter has specialised it.

    Otherwise each session would specialise the same code again, and every page it does that in would become its own.
    """
    stdout, stderr, main = sys.stdout, sys.stderr, sys.modules["__main__"]
    for _ in range(60):
        probe = Guest(Drain(), Language())
        safeexec_guest.Guest._do_init(probe, {"limits": {}, "env": {}, "tools": [], "files": True}, (), {})
        for code in WARM:
            probe.handle(*split(bytes(wire.pack({"t": "run", "id": 2, "code": code})[0][4:])))
        encoder = wire.Encoder()
        nodes = {"v": encoder.encode([1, "a", b"x", {"k": 1.5}])}
        buffers = wire.pack({"t": "set", "id": 3, "v": nodes}, encoder.blobs)
        probe.handle(*split(b"".join(buffers)[4:]))
        for kind in ("get", "del"):
            probe.handle(*split(bytes(wire.pack({"t": kind, "id": 4, "name": "v"})[0][4:])))
    sys.stdout, sys.stderr, sys.modules["__main__"] = stdout, stderr, main
    linecache.clearcache()


def immortalise():
    """Give every object of the image the reference count that is never written again.

    They live as long as the image does; counting references to them would only make private copies of the pages they are in.
    """

    class Word(_ctypes._SimpleCData):
        _type_ = "I"

    count = Word.from_address
    seen = {}  # keeps what it names alive: some of it is made by being asked for, and would be gone when it is written to
    pending = [sys.modules, *gc.get_objects()]
    while pending:
        item = pending.pop()
        number = id(item)
        if number in seen or item is seen or item is pending:
            continue
        seen[number] = item
        if isinstance(item, types.CodeType):
            pending += (item.co_consts, item.co_names, item.co_varnames, item.co_cellvars, item.co_freevars)
            pending += (item.co_filename, item.co_name, item.co_qualname, item.co_linetable, item.co_exceptiontable)
        pending += gc.get_referents(item)
    for number in seen:
        count(number).value = IMMORTAL
    seen.clear()


IMMORTAL = 5 << 28  # _Py_IMMORTAL_INITIAL_REFCNT of a 32-bit CPython 3.14 (Include/refcount.h)
