"""What a session and each of its steps hold of the network: frames to connections, caps, the log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from time import monotonic

from safeexec import threads, wire
from safeexec.egress.rules import Refused, Rules
from safeexec.egress.service import Service
from safeexec.egress.stream import PIECE, WINDOW, Stream
from safeexec.errors import ProtocolError
from safeexec.policy import Limits, Policy
from safeexec.result import NetworkRequest

_ENDING = 8
"""Threads besides twice the connections: those of connections that were closed a moment ago."""
_MAX_URL = 2_000
_MAX_URLS = 4 * 2**20
"""Characters of all addresses in one step's log; past them, entries name host and port only."""


@cache
def guest_modules() -> tuple[bytes, ...]:
    """The texts of what the guest gets when a policy permits a network, in the order in which it expects them; of the last two it takes one."""
    names = ("inside", "inside_names", "inside_tls", "inside_threads", "inside_wasm")
    return tuple(Path(__file__).with_name(f"{name}.py").read_bytes() for name in names)


class Network:
    """What a session may reach."""

    def __init__(self, policy: Policy) -> None:
        """Raises PolicyError."""
        self.rules = Rules(policy.network, policy.credentials)
        self.limits = policy.limits
        self._lock = threading.Lock()
        self._threads = 0

    def enter(self) -> bool:
        """Take a place for a thread that serves a connection; False when all are taken.

        By threads, and over all steps: one that hangs in a name lookup is still there when its connection, or its step, is long given up, and a
        guest could make a thousand of them.
        """
        with self._lock:
            if self._threads >= 2 * self.limits.connections + _ENDING:
                return False
            self._threads += 1
            return True

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            self._threads -= 1

    def guest_setup(self) -> tuple[dict[str, object], tuple[bytes, ...]]:
        """For the guest's first request: a field of its header, and its blobs."""
        return {"window": WINDOW, "piece": PIECE}, guest_modules()

    def step(
        self, send: Callable[[wire.Frame], None], on_busy: Callable[[], None], on_idle: Callable[[], None]
    ) -> StepNetwork:
        """The network of one step."""
        return StepNetwork(self, send, on_busy, on_idle)


class Record:
    """One entry of the log while it is being made."""

    __slots__ = ("error", "host", "lasted", "method", "port", "received", "refused", "sent", "started", "status", "url")

    def __init__(self, method: str, url: str, host: str, port: int) -> None:
        self.method = method
        self.url = url
        self.host = host
        self.port = port
        self.status: int | None = None
        self.sent = 0
        self.received = 0
        self.refused = False
        self.error: str | None = None
        self.started = monotonic()
        self.lasted: float | None = None

    def finish(self, error: str | None = None, refused: bool = False) -> None:
        """It is over; the first call counts."""
        if self.lasted is None:
            self.lasted = monotonic() - self.started
            self.error = error
            self.refused = refused

    def entry(self) -> NetworkRequest:
        """As the result shows it."""
        over = self.lasted is not None
        return NetworkRequest(
            method=self.method,
            url=self.url,
            host=self.host,
            port=self.port,
            status=self.status,
            sent=self.sent,
            received=self.received,
            refused=self.refused,
            error=self.error if over else "abandoned",
            duration=self.lasted if self.lasted is not None else monotonic() - self.started,
        )


class StepNetwork:
    """The connections of one step. `request` is called by the thread that reads frames and never waits for a network."""

    def __init__(
        self,
        network: Network,
        send: Callable[[wire.Frame], None],
        on_busy: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._network = network
        self.rules = network.rules
        self.limits: Limits = network.limits
        self._send = send
        self._on_busy = on_busy
        self._on_idle = on_idle
        self._lock = threading.Lock()
        self._live: dict[int, Service] = {}
        self._records: list[Record] = []
        self._urls_left = _MAX_URLS
        self._full = False
        self._busy = 0
        self._closed = False
        self._left = {"sent": self.limits.transfer, "received": self.limits.transfer}

    # -- from the thread that reads frames -------------------------------------------------------------------------------

    def request(self, header: wire.Header, blobs: Sequence[wire.Blob]) -> None:
        """Take a ``net`` frame. Raises ProtocolError for one that no honest guest sends."""
        number, op = header.get("id"), header.get("op")
        if type(number) is not int or type(op) is not str or not 0 < number < 2**53:
            raise ProtocolError("a malformed frame about a connection")
        if op == "open":
            self._open(number, header)
            return
        service = self._live.get(number)
        if service is None:  # closed meanwhile, or of an earlier step
            return
        if op == "data":
            if len(blobs) != 1:
                raise ProtocolError("a malformed frame about a connection")
            service.stream.feed(blobs[0])
        elif op == "ack":
            size = header.get("size")
            if type(size) is not int or not 0 < size < 2**31:
                raise ProtocolError("a malformed frame about a connection")
            service.stream.acknowledged(size)
        elif op == "end":
            service.stream.end()
        elif op == "close":
            self.forget(service)
            service.abort()
        else:
            raise ProtocolError("a malformed frame about a connection")

    def _open(self, number: int, header: wire.Header) -> None:
        host, port, proxy = header.get("host", ""), header.get("port", 0), header.get("proxy", False)
        if type(host) is not str or type(port) is not int or type(proxy) is not bool or len(host) > 1000:
            raise ProtocolError("a malformed frame about a connection")
        stream = Stream(number, self._send)
        service = Service(stream, self, None if proxy else (host, port))
        with self._lock:
            if number in self._live:
                raise ProtocolError("a connection opened twice")
            closed = self._closed
            full = len(self._live) >= self.limits.connections or (not closed and not self._network.enter())
            if not closed and not full:
                self._live[number] = service
        if closed:
            self._send(({"t": "net", "op": "close", "id": number}, ()))
        elif full:
            reason = f"more than {self.limits.connections} connections at once (Limits.connections)"
            self.record("CONNECT", "", host[:253], port).finish(reason, refused=True)
            self._send(({"t": "net", "op": "refused", "id": number, "kind": "policy", "message": reason}, ()))
        else:
            threads.start(partial(self._serve, service))

    def _serve(self, service: Service) -> None:
        try:
            service.run()
        finally:
            self._network.leave()

    # -- from the threads that serve connections -------------------------------------------------------------------------

    def record(self, method: str, path: str, host: str, port: int) -> Record:
        """Begin an entry of the log. Its `url` is as long as the log has room for."""
        url = path[:_MAX_URL] if path else f"{host}:{port}"
        with self._lock:
            if len(url) > self._urls_left:
                url = f"{host}:{port}"
            self._urls_left -= min(len(url), self._urls_left)
            record = Record(method[:40], url, host, port)
            limit = self.limits.requests
            if limit is None or len(self._records) <= limit:  # one more than are permitted: the refusal shows
                self._records.append(record)
            else:
                self._full = True
        return record

    def rename(self, record: Record, method: str, url: str) -> None:
        """A connection's entry becomes that of the request on it."""
        url = url[:_MAX_URL]
        with self._lock:
            record.method = method[:40]
            if len(url) <= self._urls_left:
                self._urls_left -= len(url)
                record.url = url

    def admit(self) -> None:
        """One more request. Raises Refused past the limit; the request's own record is in the log by then."""
        limit = self.limits.requests
        if self._full or (limit is not None and len(self._records) > limit):
            raise Refused(f"more than {limit} requests in one step (Limits.requests)")

    def charge(self, record: Record, way: str, size: int) -> None:
        """Bytes that went to (`way` "sent") or came from a server. Raises Refused past the limit."""
        with self._lock:
            setattr(record, way, getattr(record, way) + size)
            left = self._left[way]
            if left is None:
                return
            self._left[way] = left = left - size
        if left < 0:
            raise Refused(f"more than {self.limits.transfer} bytes {way} in one step (Limits.transfer)")

    def room(self, way: str) -> int:
        """How many bytes are left of this direction. Raises Refused when none are."""
        left = self._left[way]
        if left is None:
            return 2**31
        if left <= 0:
            raise Refused(f"more than {self.limits.transfer} bytes {way} in one step (Limits.transfer)")
        return left

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While the host waits for a server, the guest's clock stands still, as it does while a tool runs."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """See `busy`."""
        with self._lock:
            self._busy += 1
            if self._busy == 1:
                self._on_busy()

    def leave(self) -> None:
        """See `busy`."""
        with self._lock:
            self._busy -= 1
            if self._busy == 0:
                self._on_idle()

    def forget(self, service: Service) -> None:
        """A connection is over."""
        number = service.stream.number
        with self._lock:
            # By itself, not by its number: a guest that opens a number anew while the old thread ends would have the new one taken out, which nothing
            # would end any more, neither the step nor the session: a thread and a socket of the host's for each.
            if self._live.get(number) is service:
                del self._live[number]

    # -- from the step ---------------------------------------------------------------------------------------------------

    def stop(self, tell: bool) -> None:
        """The step is over or interrupted: close every connection. `tell` the guest, which may wait for one; that may block."""
        with self._lock:
            self._closed = True
            services = list(self._live.values())
            self._live.clear()
        for service in services:
            if tell:
                service.stream.close()
            service.abort()

    @property
    def log(self) -> tuple[NetworkRequest, ...]:
        """Every request so far, in the order in which they began."""
        with self._lock:
            records = list(self._records)
        return tuple(record.entry() for record in records)
