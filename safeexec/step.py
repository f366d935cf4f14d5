"""One request to a guest: the frames that answer it, the clocks that bound it."""

from __future__ import annotations

import codecs
import io
import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from safeexec import threads, watchdog, wire
from safeexec.backend import Guest, GuestDied
from safeexec.broker import Broker
from safeexec.errors import ProtocolError
from safeexec.loan import Loan, Work
from safeexec.policy import Limits
from safeexec.result import Display

if TYPE_CHECKING:
    from safeexec.egress.network import Network, StepNetwork

GRACE = 0.1
"""Seconds between the soft interrupt of a step that ran out of time and its end."""
INTERRUPT_GRACE = 0.5
_EARLY = 0.03
"""Seconds after which a guest has taken its request, as a rule."""
MAX_DISPLAYS = 100
_MAX_ERROR = 400_000
_TEXT_MIMES = ("text/", "image/svg+xml", "application/json", "application/javascript")


class Output(str):
    """A piece of output as it arrives: text, and in `stream` "stdout" or "stderr"."""

    stream: str

    def __new__(cls, text: str, stream: str) -> Output:
        self = super().__new__(cls, text)
        self.stream = stream
        return self


OnOutput = Callable[[Output], object]


class _Capture:
    """One output stream of a step, cut at the limit whatever the guest sends."""

    _text: io.StringIO | None = None  # made by the first piece: most steps leave one stream alone
    truncated = False

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self._left = limit

    def add(self, data: wire.Blob) -> str:
        size = len(data)
        if self._text is None:
            self._text = io.StringIO()
            self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        if size > self._left:
            self.truncated = True
            data = data[: self._left]
            size = self._left
        self._left -= size
        text = self._decode(bytes(data)) if size else ""
        if text:
            self._text.write(text)
        return text

    def text(self) -> str:
        return "" if self._text is None else self._text.getvalue()


class Clock:
    """The three clocks of a step. The guest's stands still while a host tool runs."""

    _used = 0.0
    _pauses = 0  # tools and the network pause it independently

    def __init__(self, limits: Limits) -> None:
        self.started = monotonic()
        self._limits = limits
        self._since: float | None = self.started
        self._lock = threading.Lock()

    def pause(self) -> None:
        with self._lock:
            self._pauses += 1
            if self._since is not None:
                self._used += monotonic() - self._since
                self._since = None

    def resume(self) -> None:
        with self._lock:
            self._pauses -= 1
            if not self._pauses:
                self._since = monotonic()

    def expired(self, now: float) -> str | None:
        """Which limit has passed, as a sentence; None while none has."""
        limits = self._limits
        if limits.wall is not None and now - self.started >= limits.wall:
            return f"the step took longer than {limits.wall:g} s, tools included (Limits.wall)"
        if limits.time is not None:
            with self._lock:
                used = self._used + (0.0 if self._since is None else now - self._since)
            if used >= limits.time:
                return f"the step ran longer than {limits.time:g} s (Limits.time)"
        return None


class Step:
    """Sends one request and gathers what comes back.

    `answer` is the header of the closing ``done`` frame and `blobs` its blobs; `died` is set when the guest ended instead, `broken` when it broke the
    protocol, `expired` when a clock ran out.
    """

    # What most steps never change is the class's: a step that computes nothing takes as long as what is set up for it.
    _heard = _over = False
    _kill_at = _soften_at = float("inf")
    broker: Broker | None = None
    net: StepNetwork | None = None
    _loan: Loan | None = None
    truncated = False
    blobs: Sequence[wire.Blob] = ()
    expired: str | None = None
    interrupted = False
    died: GuestDied | None = None
    broken: str | None = None
    callback_error: BaseException | None = None

    def __init__(
        self,
        guest: Guest,
        limits: Limits,
        tools: Any = None,
        on_output: OnOutput | None = None,
        loop: Any = None,
        network: Network | None = None,
    ) -> None:
        self._guest = guest
        self._limits = limits
        self._on_output = on_output
        self._lock = threading.Lock()
        self.clock = Clock(limits)
        self._tools = tools
        self._loop = loop
        self._network = network
        self.streams = (_Capture("stdout", limits.output), _Capture("stderr", limits.output))
        self.displays: list[Display] = []
        self._display_left = limits.value
        self.answer: wire.Header = {}

    def perform(self, header: wire.Header, blobs: Sequence[wire.Blob] = ()) -> None:
        """Run the request to its end. Raises nothing the guest could cause."""
        self._number = header["id"]
        key = id(self)
        watchdog.watch(key, self._check)
        try:
            self._guest.exchange((header, blobs), self._on_frame)
        except GuestDied as death:
            self.died = death
        except (wire.WireError, ProtocolError) as error:
            self.broken = str(error)
        except BaseException:  # Ctrl-C in the thread that waits: the guest must not go on alone
            self._guest.kill()
            raise
        finally:
            watchdog.unwatch(key)
            with self._lock:
                self._over = True
            if self.broker is not None:
                self.broker.stop(tell=False)
            if self.net is not None:
                self.net.stop(tell=False)

    def interrupt(self) -> None:
        """End the step softly, and for good if it does not obey. From any thread."""
        self.interrupted = True
        early = self.clock.started + _EARLY
        if self._heard or monotonic() >= early:
            self._soften(monotonic() + INTERRUPT_GRACE)
        else:  # a guest that has not begun takes it for one of the step before, runs on, and would be ended for that
            self._soften_at = early

    def _ended(self) -> None:
        # A tool ended the step: whoever catches that and goes on is given a moment, for cleaning up, and no more.
        self._soften_at = monotonic() + GRACE

    def _soften(self, kill_at: float) -> None:
        with self._lock:
            if self._over:
                return
            self._kill_at = min(self._kill_at, kill_at)
            self._guest.interrupt()
        if self.broker is not None:
            self.broker.stop(tell=True)
        if self.net is not None:
            self.net.stop(tell=True)

    def _kill(self) -> None:
        with self._lock:
            # A step that ended just now may have been undone: what lives by now is the session that goes on.
            if not self._over:
                self._guest.kill()

    def _check(self, now: float) -> None:
        # Neither may block here: one guest that does not read, or one slow daemon, must not stop the clocks of all others.
        if now >= self._kill_at:
            self._kill_at = float("inf")
            # Sessions that take all threads a machine has would otherwise outlive their limits.
            threads.start_or_do(self._kill)
            return
        if now >= self._soften_at:
            self._soften_at = float("inf")
            self.interrupted = True
            self._kill_at = min(self._kill_at, now + INTERRUPT_GRACE)
            threads.start(partial(self._soften, now + INTERRUPT_GRACE))
        if self.broker is not None:
            self.broker.check(now)
        if self.expired is None:
            expired = self.clock.expired(now)
            if expired is not None:
                self.expired = expired
                self._kill_at = min(self._kill_at, now + GRACE)
                threads.start(partial(self._soften, now + GRACE))

    # -- frames: everything from here on reads hostile input ---------------------------------------------------------------

    def _on_frame(self, frame: wire.Frame) -> bool:
        self._heard = True
        header, blobs = frame
        kind = header.get("t")
        if kind == "out":
            self._output(header.get("s"), blobs)
        elif kind == "call":
            if self.broker is None:
                if self._tools is None:
                    raise ProtocolError("a tool call outside a step")
                clock = self.clock
                self.broker = Broker(
                    self._tools, self._limits, self._guest.send, clock.pause, clock.resume, self._loop, self._ended
                )
                if self.interrupted or self.expired is not None:
                    self.broker.stop(tell=False)
            work = self.broker.request(header, blobs)
            if work is not None and not self._lend(work):
                self.broker.start(work)
        elif kind == "net" and self._network is not None:
            self._on_net(header, blobs)
        elif kind == "display":
            self._display(header.get("m"), blobs)
        elif kind == "done":
            if header.get("id") != self._number or type(header.get("id")) is not int:
                raise ProtocolError("an answer to a request that was not made")
            self.answer, self.blobs = header, blobs
            return True
        else:
            raise ProtocolError("a frame of unknown kind")
        return False

    def _lend(self, work: Work) -> bool:
        """Have the thread that runs a tool read the calls that follow, where they are many and quick."""
        broker, before = self.broker, self._loan
        # One that came back at once, or that a slow call ended, saved nothing and would cost a thread woken.
        if broker is None or not broker.quick or (before is not None and (before.ended or not before.served)):
            return False
        try:
            self._loan = self._guest.lend(work, broker.request)
        except threads.NoThread:
            return False
        return self._loan is not None

    def _on_net(self, header: wire.Header, blobs: Sequence[wire.Blob]) -> None:
        net, network = self.net, self._network
        if net is None:
            assert network is not None
            net = self.net = network.step(self._guest.send, self.clock.pause, self.clock.resume)
            if self._tools is None or self.interrupted or self.expired is not None:
                net.stop(tell=False)  # code that goes on behind its step, or its interrupt, reaches nothing
        net.request(header, blobs)

    def _output(self, number: Any, blobs: Sequence[wire.Blob]) -> None:
        if type(number) is not int or number not in (1, 2) or len(blobs) != 1:
            raise ProtocolError("a malformed output frame")
        stream = self.streams[number - 1]
        text = stream.add(blobs[0])
        if text and self._on_output is not None and self.callback_error is None:
            try:
                self._on_output(Output(text, stream.name))
            except BaseException as error:  # the caller's own error: end the step, then raise it there
                self.callback_error = error
                self.interrupt()

    def _display(self, mimes: Any, blobs: Sequence[wire.Blob]) -> None:
        if type(mimes) is not list or len(mimes) != len(blobs) or len(mimes) > 20:
            raise ProtocolError("a malformed display")
        data: dict[str, str | bytes] = {}
        for mime, blob in zip(mimes, blobs, strict=True):
            if type(mime) is not str or len(mime) > 100 or not wire._MIME.match(mime):
                raise ProtocolError("a malformed display")
            self._display_left -= len(blob)
            if self._display_left < 0 or len(self.displays) >= MAX_DISPLAYS:
                self.truncated = True
                return
            data[mime] = str(blob, "utf-8", "replace") if mime.startswith(_TEXT_MIMES) else bytes(blob)
        if data:
            self.displays.append(Display(data))


def text_field(header: Any, name: str, limit: int = _MAX_ERROR) -> str:
    """A string field of a guest's header. Raises ProtocolError."""
    value = header.get(name, "")
    if type(value) is not str:
        raise ProtocolError(f"field {name!r} is not a string")
    return value[:limit]


def number_field(header: Any, name: str) -> float:
    """A non-negative number field of a guest's header. Raises ProtocolError."""
    value = header.get(name, 0)
    if type(value) not in (int, float) or not 0 <= value < 2**62:
        raise ProtocolError(f"field {name!r} is not a number")
    return float(value)
