"""What a sandbox that was taken over can send: the host ends the session, keeps its memory, and hangs nowhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from safeexec import Policy, wire
from safeexec.backend import GuestDied, Wall
from safeexec.testing.base import eventually
from safeexec_backends._remote.backend import RemoteBackend, common_walls
from safeexec_backends._remote.faults import Fault, Gone, Passing, Secret, retry
from safeexec_backends._remote.guest import UNSENT, RemoteGuest, Transport
from safeexec_backends._remote.keeper import Keeper
from safeexec_backends._remote.lines import CHUNK, MAX_RECORD, Receiver, Sender


class Scripted(Transport):
    """Sends what it is told."""

    name = "scripted"

    def __init__(self, pieces: Iterator[bytes], fault: Exception | None = None, at_once: bool = False) -> None:
        self._pieces = pieces
        self._fault = fault
        self._asked = threading.Event()
        if at_once:
            self._asked.set()
        self.destroyed = threading.Event()
        self.written = b""

    def read(self, take: Callable[[bytes], None]) -> None:
        self._asked.wait(5)
        for piece in self._pieces:
            take(piece)
        if self._fault is not None:
            raise self._fault

    def write(self, data: bytes) -> None:
        self.written += data
        self._asked.set()

    def destroy(self) -> None:
        self.destroyed.set()


def packed(header: wire.Header) -> bytes:
    return b"".join(bytes(b) for b in wire.pack(header))


def death(pieces: Iterator[bytes], fault: Exception | None = None) -> tuple[GuestDied, Scripted]:
    transport = Scripted(pieces, fault)
    guest = RemoteGuest(transport, 2**20, lambda _: None)
    started = time.monotonic()
    with pytest.raises(GuestDied) as caught:
        guest.exchange(({"t": "run", "id": 1}, ()), lambda frame: False)
    assert time.monotonic() - started < 5
    guest.close()
    assert transport.destroyed.is_set()
    return caught.value, transport


def test_end_of_the_stream() -> None:
    died, _ = death(iter(()))
    assert died.kind == "crash" and "connection to the sandbox ended" in died.message


@pytest.mark.parametrize(
    ("fault", "said"),
    [(Gone("expired"), "gone"), (Passing("reset"), "lost"), (Fault("odd"), "lost"), (KeyError("x"), "failed")],
)
def test_faults_of_the_stream(fault: Exception, said: str) -> None:
    died, _ = death(iter(()), fault)
    assert died.kind == "crash" and said in died.message


def test_gap_in_the_stream() -> None:
    sender = Sender()
    lost = sender.line("d", b"lost")
    died, _ = death(iter([sender.line("d", b"x") if lost else b""]))
    assert died.kind == "protocol" and "missing" in died.message


def test_record_without_end() -> None:
    died, _ = death(b"A" * 65536 for _ in range(10_000))
    assert died.kind == "protocol"


def test_noise_is_passed_over() -> None:
    died, _ = death(iter([b"~" * 100_000, b"~1 d 3 ???~" * 1000, bytes(range(256)) * 100, b"\n" * 10_000]))
    assert died.kind == "crash"


@pytest.mark.parametrize("report", [b"", b"[]", b"[" * 30_000, b'{"signal": "x"}', b'{"memory": true}', b"\xff"])
def test_reports_of_the_end_are_not_trusted(report: bytes) -> None:
    died, _ = death(iter([Sender().line("x", report)]))
    assert died.kind in ("crash", "protocol")


@pytest.mark.parametrize(
    ("report", "kind"),
    [(b'{"signal": 9, "memory": true}', "memory"), (b'{"signal": 9}', "crash"), (b'{"code": 7}', "crash")],
)
def test_reports_of_the_end(report: bytes, kind: str) -> None:
    assert death(iter([Sender().line("x", report)]))[0].kind == kind


def test_frame_that_is_too_large_is_refused_before_it_is_held() -> None:
    guest = RemoteGuest(Scripted(iter([Sender().line("d", b"\xff\xff\xff\x7f" + b"x" * 1000)])), 2**20, lambda _: None)
    with pytest.raises(wire.TooLarge):
        guest.exchange(({"t": "run", "id": 1}, ()), lambda frame: False)
    guest.close()


def test_flood_is_held_back() -> None:
    """The host takes what it can hand on: a stream nobody reads must not fill its memory."""
    sent = 0

    def flood() -> Iterator[bytes]:
        nonlocal sent
        sender = Sender()
        while True:
            sent += 1
            yield sender.line("d", b"x" * CHUNK)

    guest = RemoteGuest(Scripted(flood(), at_once=True), 2**30, lambda _: None)
    seen = -1
    while sent != seen:
        seen = sent
        threading.Event().wait(0.1)
    assert sent * MAX_RECORD < 16 * 2**20
    guest.close()


def test_answers_that_nobody_reads_are_held_back() -> None:
    """A guest calls a tool whose answers are large, a thousand times, and reads none: they must not all lie in the host's memory."""
    reads = threading.Event()
    hang = threading.Event()

    class Deaf(Scripted):
        def write(self, data: bytes) -> None:
            reads.wait(20)

    def nothing() -> Iterator[bytes]:
        hang.wait(20)
        yield b""

    transport = Deaf(nothing())
    guest = RemoteGuest(transport, 2**20, lambda _: None)
    sent: list[int] = []
    ends: list[str] = []

    def answer(number: int) -> None:
        try:
            guest.send(({"t": "result", "id": number}, [b"x" * 2**19]))
            sent.append(number)
        except GuestDied as died:
            ends.append(died.message)

    answers = [threading.Thread(target=answer, args=(number,), daemon=True) for number in range(40)]
    for thread in answers:
        thread.start()
    assert eventually(lambda: len(sent) >= 2)
    for thread in answers[:5]:
        thread.join(0.1)
    assert sum(len(body) for _, body in guest._outbox) <= UNSENT + 2**19 + 1000 and len(sent) <= 8
    reads.set()
    assert eventually(lambda: len(sent) == 40)  # one that reads late gets all of them
    assert eventually(lambda: not guest._outbox) and guest._unsent == 0
    reads.clear()
    threading.Thread(target=answer, args=(40,), daemon=True).start()
    more = [threading.Thread(target=answer, args=(number,), daemon=True) for number in range(41, 50)]
    for thread in more:
        thread.start()
    guest.kill()
    for thread in more:
        thread.join(5)
        assert not thread.is_alive()
    assert ends and "killed" in ends[0]
    reads.set()
    hang.set()
    guest.close()


def test_output_before_the_end_is_kept() -> None:
    sender = Sender()
    out = packed({"t": "out", "s": 1})
    guest = RemoteGuest(
        Scripted(iter([sender.line("d", out), sender.line("x", b'{"code": 1}')])), 2**20, lambda _: None
    )
    frames: list[wire.Frame] = []
    with pytest.raises(GuestDied, match="exit code 1"):
        guest.exchange(({"t": "run", "id": 1}, ()), lambda frame: bool(frames.append(frame)))
    assert [header["t"] for header, _ in frames] == ["out"]
    guest.close()


def test_kill_ends_an_exchange_whose_network_hangs() -> None:
    hang = threading.Event()

    def silent() -> Iterator[bytes]:
        hang.wait(20)
        yield b""

    guest = RemoteGuest(Scripted(silent()), 2**20, lambda _: None)
    threading.Timer(0.1, guest.kill).start()
    started = time.monotonic()
    with pytest.raises(GuestDied, match="killed by the host"):
        guest.exchange(({"t": "run", "id": 1}, ()), lambda frame: False)
    assert time.monotonic() - started < 3
    with pytest.raises(GuestDied):
        guest.send(({"t": "result", "id": 1}, ()))
    guest.interrupt()
    guest.close()
    guest.close()
    hang.set()


def test_idle_session_has_no_thread_that_writes() -> None:
    done = threading.Event()

    def silent() -> Iterator[bytes]:
        done.wait(20)
        yield b""

    def writers() -> int:
        return sum(thread.name == "safeexec-remote-write" for thread in threading.enumerate())

    assert eventually(lambda: writers() == 0)  # of earlier tests
    transport = Scripted(silent())
    guest = RemoteGuest(transport, 2**20, lambda _: None)
    for number in range(2):
        guest.send(({"t": "run", "id": number}, ()))
        assert eventually(lambda: writers() == 0)
    bodies = b"".join(body for _, body in Receiver().feed(transport.written))
    assert b'"id":0' in bodies and b'"id":1' in bodies
    guest.close()
    done.set()


class Breaking(Scripted):
    """Each connection brings the next of some streams, then breaks."""

    def __init__(self, streams: list[list[bytes]]) -> None:
        super().__init__(iter(()))
        self._streams = streams
        self.opened = 1

    def read(self, take: Callable[[bytes], None]) -> None:
        self._asked.wait(5)
        for piece in self._streams.pop(0) if self._streams else []:
            take(piece)
        raise Passing("broken")

    def reopen(self) -> None:
        self.opened += 1


def test_broken_connections_that_bring_something_do_no_harm() -> None:
    sender = Sender()
    hello = sender.line("h")
    lines = [sender.line("d", packed({"t": "out", "s": n})) for n in range(20)]
    # What was sent last comes again cut in half, then whole; what lies behind it comes too early.
    streams = [[hello, lines[0][: len(lines[0]) // 2]]]
    for n in range(20):
        streams.append([*lines[n + 1 : n + 2], *lines[max(0, n - 1) : n + 1], b"".join(lines[n + 1 : n + 2])[:20]])
    guest = RemoteGuest(Breaking(streams), 2**20, lambda _: None)
    frames: list[wire.Header] = []

    def on_frame(frame: wire.Frame) -> bool:
        frames.append(frame[0])
        return len(frames) == 20

    guest.exchange(({"t": "run", "id": 1}, ()), on_frame)
    assert [header["s"] for header in frames] == list(range(20))
    guest.close()


def test_broken_connections_that_bring_nothing_end_the_session() -> None:
    transport = Breaking([[Sender().line("h")]])
    guest = RemoteGuest(transport, 2**20, lambda _: None)
    with pytest.raises(GuestDied, match="lost"):
        guest.exchange(({"t": "run", "id": 1}, ()), lambda frame: False)
    guest.close()
    assert transport.opened < 10 and transport.destroyed.is_set()


def test_retry_is_for_passing_faults_only_and_ends() -> None:
    calls: list[int] = []

    def call(fault: Exception, times: int) -> str:
        calls.append(1)
        if len(calls) <= times:
            raise fault
        return "done"

    assert retry(lambda: call(Passing("x"), 2)) == "done" and len(calls) == 3
    calls.clear()
    with pytest.raises(Gone):
        retry(lambda: call(Gone("x"), 1))
    assert len(calls) == 1
    calls.clear()
    with pytest.raises(Passing):
        retry(lambda: call(Passing("x"), 99), attempts=3)
    assert len(calls) == 3
    stop = threading.Event()
    stop.set()
    calls.clear()
    with pytest.raises(Passing):
        retry(lambda: call(Passing("x"), 99), stop)
    assert len(calls) == 1


def test_secret_does_not_show() -> None:
    import copy
    import pickle

    secret = Secret("hunter2")
    assert "hunter2" not in repr(secret) + str(secret) + f"{secret!r} {secret}" + repr([secret])
    assert secret.reveal() == "hunter2" and secret.hide("the key hunter2 is wrong") == "the key *** is wrong"
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            way(secret)


def test_a_sandbox_for_which_there_is_no_thread_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs money until it expires, and nobody would know of it."""
    transport = Scripted(iter(()))

    class Vendor(RemoteBackend):
        name = vendor = "vendor"

        @property
        def isolation(self) -> Mapping[str, Wall]:
            return common_walls("a machine")

        def open(self, policy: Policy) -> Transport:
            return transport

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    backend = Vendor(Policy(), 1.0)
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError):
        backend.start(Policy())
    assert transport.destroyed.is_set()


def test_a_writer_that_could_not_be_started_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = Scripted(iter(()))
    guest = RemoteGuest(transport, 2**20, lambda _: None)
    start = threading.Thread.start

    def no_writer(thread: threading.Thread) -> None:
        if thread.name == "safeexec-remote-write":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_writer)
        with pytest.raises(RuntimeError):
            guest.send(({"t": "x"}, ()))
    guest.send(({"t": "y"}, ()))
    assert eventually(lambda: len(records(transport.written)) == 2)
    guest.close()


def records(data: bytes) -> list[tuple[str, bytes]]:
    return list(Receiver().feed(data))


class Sandbox:
    """What a keeper renews."""

    def __init__(self, answer: Callable[[], None] = lambda: None) -> None:
        self._answer = answer
        self.kept = 0
        self.failed = ""

    def keep(self) -> None:
        self.kept += 1
        self._answer()

    def fail(self, reason: str) -> None:
        self.failed = reason


def test_sandboxes_of_which_a_vendor_says_nothing_let_no_other_expire() -> None:
    silence = threading.Event()

    def gone() -> None:
        raise Gone("expired")

    silent, others = [Sandbox(lambda: silence.wait(30) and None) for _ in range(5)], [Sandbox() for _ in range(40)]
    lost = Sandbox(gone)
    keeper = Keeper(0.05, [*silent, *others, lost])
    keeper.wake()
    try:
        assert (
            eventually(lambda: all(other.kept >= 3 for other in others))
            and lost.failed == "the sandbox is gone: expired"
        )
        assert [one.kept for one in silent] == [1] * 5
    finally:
        keeper.stop()
        silence.set()


def test_no_trouble_with_a_sandbox_ends_the_keeper() -> None:
    def trouble() -> None:
        raise OSError("what no vendor's library should raise")

    other = Sandbox()
    keeper = Keeper(0.02, [Sandbox(trouble), other])
    keeper.wake()
    try:
        assert eventually(lambda: other.kept >= 3)
    finally:
        keeper.stop()
