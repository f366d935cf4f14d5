"""A hostile guest in the tests' own process: it speaks frames with the host's half and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safeexec import Limits, Policy
from safeexec.egress.network import Network, StepNetwork
from safeexec.egress.stream import PIECE, WINDOW
from safeexec.testing.base import PATIENCE, eventually
from tests.egress.site import Site


class Wire:
    """One step's network."""

    def __init__(
        self, network: Sequence[str], credentials: Mapping[str, Mapping[str, str]] | None = None, **limits: Any
    ) -> None:
        policy = Policy(network=tuple(network), credentials=credentials or {}, limits=Limits(**limits))
        self._changed = threading.Condition()
        self.frames: list[tuple[dict[str, Any], bytes]] = []
        self.paused = 0
        self.pauses = 0
        self.step: StepNetwork = Network(policy).step(self._take, self._busy, self._idle)
        self._next = 0

    def _take(self, frame: Any) -> None:
        header, blobs = frame
        with self._changed:
            self.frames.append((header, bytes(blobs[0]) if blobs else b""))
            self._changed.notify_all()

    def _busy(self) -> None:
        self.paused += 1
        self.pauses += 1

    def _idle(self) -> None:
        self.paused -= 1

    def wait(self, condition: Any) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), self.frames

    def open(self, host: str = "", port: int = 0, proxy: bool = False) -> Line:
        """Open a connection; `settled` waits for the host's word on it."""
        self._next += 1
        header: dict[str, Any] = {"t": "net", "op": "open", "id": self._next, "host": host, "port": port}
        if proxy:
            header["proxy"] = True
        self.step.request(header, ())
        return Line(self, self._next)

    def ask(self, host: str, port: int, request: bytes) -> bytes:
        """What comes back for these bytes, to the end of the connection."""
        line = self.open(host, port)
        if line.settled() is not None:
            return b""
        line.send(request)
        line.end()
        return line.rest()

    def idle(self) -> None:
        """Wait until no connection lives."""
        assert eventually(
            lambda: not self.step._live
        )  # it ends behind its last frame, which is all that `wait` hears of


class Line:
    """One connection."""

    def __init__(self, wire: Wire, number: int) -> None:
        self._wire = wire
        self.number = number

    def _of(self, *ops: str) -> list[tuple[dict[str, Any], bytes]]:
        return [f for f in self._wire.frames if f[0]["id"] == self.number and (not ops or f[0]["op"] in ops)]

    def settled(self) -> str | None:
        """Why it was refused; None when it is open."""
        self._wire.wait(lambda: self._of("opened", "refused", "close"))
        header = self._of("opened", "refused", "close")[0][0]
        return None if header["op"] == "opened" else str(header.get("message", "closed"))

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            header = {"t": "net", "op": "data", "id": self.number}
            self._wire.step.request(header, (data[start : start + PIECE],))

    def send_slowly(self, data: bytes) -> None:
        """Within the window, as an honest guest would."""
        for start in range(0, len(data), PIECE):
            room = start + 2 * PIECE - WINDOW
            self._wire.wait(lambda room=room: sum(f[0]["size"] for f in self._of("ack")) >= room)
            self.send(data[start : start + PIECE])

    def end(self) -> None:
        self._wire.step.request({"t": "net", "op": "end", "id": self.number}, ())

    def close(self) -> None:
        self._wire.step.request({"t": "net", "op": "close", "id": self.number}, ())

    def ack(self, size: int) -> None:
        self._wire.step.request({"t": "net", "op": "ack", "id": self.number, "size": size}, ())

    @property
    def received(self) -> bytes:
        return b"".join(blob for _, blob in self._of("data"))

    @property
    def closed(self) -> bool:
        return bool(self._of("close", "refused"))

    def until(self, text: bytes) -> bytes:
        self._wire.wait(lambda: text in self.received or self.closed)
        return self.received

    def rest(self) -> bytes:
        """Everything to the end, taken as it comes."""
        taken = 0
        while True:
            self._wire.wait(lambda: len(self.received) > taken or self.closed)  # noqa: B023
            size = len(self.received) - taken
            if size and not self.closed:
                self.ack(size)
            taken += size
            if self.closed and taken == len(self.received):
                return self.received


MakeWire = Callable[..., Wire]


def opened(wire: MakeWire, site: Site, **options: object) -> Wire:
    return wire(f"site.test:{site.port}", f"127.0.0.1:{site.port}", **options)


def get(path: str = "/", host: str = "site.test", extra: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode("latin-1")


SMUGGLING = [
    b"GET / HTTP/1.1\r\nHost: %h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"GET / HTTP/1.1\r\nHost: %h\r\nContent-Length: 5, 5\r\n\r\nhello",
    b"GET / HTTP/1.1\r\nHost: %h\r\nContent-Length: +5\r\n\r\nhello",
    b"GET / HTTP/1.1\r\nHost: %h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\n Folded: yes\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nX: a\rContent-Length: 5\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nX: a\0b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\n: no name\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET /\tHTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET /\r HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: %h\r\n\r\n",
    b"GET /\r\nHost: %h\r\n\r\n",
    b"G\xc3\x89T / HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: %h\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
    b"\x80" * 200_000,
]
