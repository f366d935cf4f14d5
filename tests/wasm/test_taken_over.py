"""What a worker that was taken over may send instead of a state, or not read: the host waits a bounded time, and holds bounded memory."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from safeexec import Executor, Limits, Policy, wire
from safeexec.backend import GuestDied
from safeexec_backends.wasm import WasmBackend, process, worker_channel
from safeexec_backends.wasm.agreed import PIECE
from safeexec_backends.wasm.process import Line, WorkerProcess
from safeexec_backends.wasm.worker_guest import WorkerGuest

from .deaths import guest_of


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_NEWS", 0.05)  # it lives, and nobody has to wait for news of its end


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    with Executor(WasmBackend(Policy(), workers=1)) as executor, executor.session() as session:
        yield guest_of(session).worker


def piece(size: int, more: object = True) -> bytes:
    return b"".join(wire.pack({"t": "state", "more": more}, [bytes(size)]))


def dripping(channel: socket.socket) -> None:
    for byte in piece(1000):
        channel.sendall(bytes((byte,)))
        threading.Event().wait(0.02)


def repeated(data: bytes) -> Callable[[socket.socket], None]:
    def send(channel: socket.socket) -> None:
        while True:
            channel.sendall(data)

    return send


SENT: dict[str, Callable[[socket.socket], None]] = {
    "nothing, over and over": repeated(piece(0)),
    "a byte at a time": repeated(piece(1)),
    "more than a piece": repeated(piece(PIECE + 1)),
    "no end": repeated(piece(PIECE)),
    "a byte now and then": dripping,
    "nothing": lambda channel: None,
}


class Peer:
    """The worker's end of a session's line."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self.ours, self._theirs = socket.socketpair()
        self._behave = behave
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            self._behave(self._theirs)
        except OSError:
            pass

    def ended(self) -> bool:
        self._thread.join(20)
        self._theirs.close()
        return not self._thread.is_alive()


@pytest.mark.parametrize("how", SENT)
def test_a_state_that_does_not_end_is_not_waited_for(
    how: str, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_channel, "_PATIENCE", 0.2)
    monkeypatch.setattr(worker_channel, "_MOST_ABOUT", -10 * Policy().limits.memory)
    peer = Peer(SENT[how])
    guest = WorkerGuest(Line(10**9, peer.ours), Policy(), worker, lambda _: None)
    with pytest.raises(GuestDied):
        guest._read_state()
    guest.close()
    assert peer.ended()


def test_a_state_that_is_not_read_is_not_waited_for(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_channel, "_PATIENCE", 0.2)
    monkeypatch.setattr(worker_channel, "_SLOWEST", 1 << 30)
    done = threading.Event()

    def deaf(_: socket.socket) -> None:
        done.wait(20)

    peer = Peer(deaf)
    guest = WorkerGuest(Line(10**9, peer.ours), Policy(), worker, lambda _: None)
    with pytest.raises(GuestDied):
        guest.begin(bytes(8 << 20))
    guest.close()
    done.set()
    assert peer.ended()


def test_a_state_is_no_larger_than_its_session_could_be(worker: WorkerProcess) -> None:
    """Guest code that forged its answer could send it, too: of a small session, it is not to take the host a gigabyte."""
    sent = 0

    def endless(channel: socket.socket) -> None:
        nonlocal sent
        while True:
            channel.sendall(piece(PIECE))
            sent += PIECE

    peer = Peer(endless)
    guest = WorkerGuest(Line(10**9, peer.ours), Policy(limits=Limits(memory=PIECE, disk=PIECE)), worker, lambda _: None)
    with pytest.raises(GuestDied, match="larger than the limits allow"):
        guest._read_state()
    guest.close()
    assert peer.ended()
    assert sent < 2 * worker.image


@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_an_honest_state_is_read(size: int, worker: WorkerProcess) -> None:
    def honest(channel: socket.socket) -> None:
        for start in range(0, size, PIECE):
            channel.sendall(piece(min(PIECE, size - start), start + PIECE < size))

    peer = Peer(honest)
    guest = WorkerGuest(Line(10**9, peer.ours), Policy(), worker, lambda _: None)
    assert guest._read_state() == bytes(size)
    guest.close()
    assert peer.ended()
