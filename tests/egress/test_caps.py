"""Caps on connections, requests, bytes and time; what ends with the step."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from typing import Any

import pytest

from safeexec.egress.addresses import Deadline
from safeexec.egress.stream import WINDOW, Stream
from safeexec.egress.upstream import Upstream
from safeexec.testing.base import PATIENCE, eventually
from tests.egress.site import Seen, Site, drip, flood, mute, send
from tests.egress.wire import MakeWire, get, opened


def trailers(connection: Any, seen: Seen) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    while True:
        connection.sendall(b"A: b\r\n" * 1000)


def test_a_body_without_end_costs_the_limit_and_not_a_byte_more(wire: MakeWire, site: Site) -> None:
    site.answers["/flood"] = flood
    guest = opened(wire, site, transfer=1_000_000)
    answer = guest.ask("site.test", site.port, get("/flood", f"site.test:{site.port}"))
    guest.idle()
    assert len(answer) <= 1_001_000 and not answer.endswith(b"0\r\n\r\n")
    (entry,) = guest.step.log
    assert entry.received == 1_000_000 and entry.refused and "Limits.transfer" in str(entry.error)
    assert guest.ask("site.test", site.port, get("/", f"site.test:{site.port}")).startswith(b"HTTP/1.1 403")
    assert len(site.seen) == 1 and eventually(lambda: site.open == 0)


def test_bytes_to_servers_are_limited(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site, transfer=10_000)
    host = f"site.test:{site.port}"
    post = f"POST /echo HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9000\r\n\r\n".encode() + b"s" * 9000
    assert guest.ask("site.test", site.port, post).endswith(b"s" * 9000)
    assert b"403" in guest.ask("site.test", site.port, post)[:20]
    assert sum(len(seen.body) for seen in site.seen) == 9000 and guest.step.log[1].refused


@pytest.mark.parametrize("answer", [drip, mute, trailers], ids=["drip", "mute", "trailers"])
def test_a_slow_server_is_given_up(answer: Any, wire: MakeWire, site: Site) -> None:
    site.answers["/slow"] = answer
    guest = opened(wire, site, tool_time=0.3)
    guest.ask("site.test", site.port, get("/slow", f"site.test:{site.port}"))
    guest.idle()
    error = str(guest.step.log[0].error)
    assert "took too long" in error or "endless trailers" in error
    assert eventually(lambda: site.open == 0) and guest.paused == 0


def test_connections_at_once_are_limited(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site, connections=3)
    lines = [guest.open("site.test", site.port) for _ in range(3)]
    assert [line.settled() for line in lines] == [None] * 3
    assert "Limits.connections" in str(guest.open("site.test", site.port).settled())
    lines[0].close()
    assert guest.open("site.test", site.port).settled() is None
    assert eventually(lambda: site.open == 3)


def test_requests_are_limited_refused_ones_included(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site, requests=5)
    for _ in range(3):
        assert guest.open("evil.test", 80).settled()
    host = f"site.test:{site.port}"
    answer = guest.ask("site.test", site.port, b"".join(get(f"/{n}", host) for n in range(9)))
    assert answer.count(b"200 OK") == 2 and len(site.seen) == 2 and b"Limits.requests" in answer
    assert "Limits.requests" in str(guest.open("site.test", site.port).settled())
    assert len(guest.step.log) <= 6


def test_a_million_refusals_leave_a_log_of_bounded_size(wire: MakeWire) -> None:
    guest = wire("site.test", requests=50)
    for _ in range(500):
        guest.step.record("G" * 1000, "http://site.test/" + "x" * 100_000, "site.test", 80)
    log = guest.step.log
    assert len(log) == 51 and sum(len(entry.url) + len(entry.method) for entry in log) < 51 * 2100


def test_addresses_in_the_log_are_bounded_together(wire: MakeWire, site: Site) -> None:
    guest = wire("site.test", requests=None)
    for _ in range(10_000):
        guest.step.record("GET", "http://site.test/" + "x" * 5000, "site.test", 80)
    assert sum(len(entry.url) for entry in guest.step.log) < 6 * 2**20


def test_a_guest_that_takes_nothing_holds_nothing_but_its_window(wire: MakeWire, site: Site) -> None:
    site.answers["/flood"] = flood
    guest = opened(wire, site)
    line = guest.open("site.test", site.port)
    assert line.settled() is None
    line.send(get("/flood", f"site.test:{site.port}"))
    guest.wait(lambda: len(line.received) == WINDOW)
    assert guest.paused == 0, "while the host waits for the guest, the guest's clock runs"
    line.ack(1000)
    guest.wait(lambda: len(line.received) == WINDOW + 1000)
    guest.step.stop(tell=False)
    assert eventually(lambda: site.open == 0)


def test_the_clock_stands_still_while_the_host_waits(wire: MakeWire, site: Site) -> None:
    site.answers["/slow"] = mute
    guest = opened(wire, site)
    line = guest.open("site.test", site.port)
    assert line.settled() is None and eventually(lambda: guest.paused == 0)
    line.send(get("/slow", f"site.test:{site.port}"))
    assert eventually(lambda: guest.paused == 1 and len(site.seen) == 1)
    line.close()
    assert eventually(lambda: guest.paused == 0)


def test_what_runs_when_the_step_ends_is_ended_and_marked(wire: MakeWire, site: Site) -> None:
    site.answers["/slow"] = mute
    guest = opened(wire, site)
    line = guest.open("site.test", site.port)
    line.send(get("/slow", f"site.test:{site.port}"))
    assert eventually(lambda: len(site.seen) == 1)
    guest.step.stop(tell=False)
    assert eventually(lambda: site.open == 0)
    assert guest.step.log[0].error == "abandoned" and guest.step.log[0].status is None
    before = len(guest.frames)
    late = guest.open("site.test", site.port)
    assert late.settled() == "closed" and len(guest.frames) == before + 1 and site.connections == 1


def test_an_interrupt_tells_the_guest(wire: MakeWire, site: Site) -> None:
    site.answers["/slow"] = mute
    guest = opened(wire, site)
    line = guest.open("site.test", site.port)
    line.send(get("/slow", f"site.test:{site.port}"))
    assert eventually(lambda: len(site.seen) == 1)
    guest.step.stop(tell=True)
    assert line.rest() == b"" and eventually(lambda: site.open == 0)


def test_a_connection_that_the_guest_drops_is_dropped(wire: MakeWire, site: Site) -> None:
    site.answers["/flood"] = flood
    guest = opened(wire, site)
    line = guest.open("site.test", site.port)
    line.send(get("/flood", f"site.test:{site.port}"))
    guest.wait(lambda: line.received)
    line.close()
    assert eventually(lambda: site.open == 0)
    guest.idle()


def test_a_server_hears_of_a_dropped_connection_as_a_reset(wire: MakeWire, site: Site) -> None:
    """An orderly end would not do: a server whose window was full at the shutdown would be held in its `send` for a minute."""
    dropped = threading.Event()
    heard: list[object] = []

    def wait(connection: Any, seen: Seen) -> bool:
        dropped.wait(20)
        try:
            heard.append(connection.send(b"."))
        except OSError as error:
            heard.append(type(error))
        return False

    site.answers["/wait"] = wait
    upstream = Upstream(opened(wire, site).step)
    target = upstream.permitted("site.test", site.port, ("http",))
    upstream.connect(target, Deadline(5))
    assert target.sock is not None
    target.sock.sendall(get("/wait", f"site.test:{site.port}"))
    assert eventually(lambda: len(site.seen) == 1)
    upstream.abort()
    assert target.sock.recv(1) == b""
    upstream.hang_up()
    dropped.set()
    assert eventually(lambda: heard == [BrokenPipeError])


def test_a_connection_that_is_dropped_when_its_socket_is_gone_harms_nobody(wire: MakeWire, site: Site) -> None:
    """As after a handshake that failed: what is left is a socket without a descriptor. The thread that reads frames drops it."""
    upstream = Upstream(opened(wire, site).step)
    target = upstream.permitted("site.test", site.port, ("http",))
    upstream.connect(target, Deadline(5))
    assert target.sock is not None
    target.sock.close()
    upstream.abort()
    upstream.hang_up()
    assert eventually(lambda: site.open == 0)


def test_ten_thousand_requests(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site, requests=None)
    site.answers["/n"] = lambda c, s: (send(c, b"."), True)[1]
    host = f"site.test:{site.port}"
    before = threading.active_count()
    done = 0
    for _ in range(50):
        line = guest.open("site.test", site.port)
        assert line.settled() is None
        for _ in range(4):
            line.send(get("/n", host) * 50)
            done += 50
        line.end()
        assert line.rest().count(b"200 OK") == 200
        guest.frames.clear()
    assert done == len(guest.step.log) == len(site.seen) == 10_000 and not guest.step._live
    assert {entry.status for entry in guest.step.log} == {200}
    assert eventually(lambda: site.open == 0) and eventually(lambda: threading.active_count() <= before + 3)


def test_a_hundred_connections_at_once(wire: MakeWire, site: Site) -> None:
    meet = threading.Barrier(100)

    def together(connection: Any, seen: Seen) -> bool:
        meet.wait(20)
        send(connection, b"met")
        return True

    site.answers["/meet"] = together
    guest = opened(wire, site, connections=100)
    lines = [guest.open("site.test", site.port) for _ in range(100)]
    for line in lines:
        line.send(get("/meet", f"site.test:{site.port}"))
    for line in lines:
        assert line.until(b"met").endswith(b"met")


def test_connections_given_up_while_they_begin_do_not_pile_up(
    wire: MakeWire, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name lookup cannot be stopped: to open and close again must not leave a thread behind each time."""
    from safeexec.egress import addresses

    release = threading.Event()
    monkeypatch.setattr(addresses, "resolve", lambda name, port: release.wait(20) and ["127.0.0.1"])
    guest = opened(wire, site, connections=5)
    before = threading.active_count()
    try:
        for _ in range(200):
            guest.open("site.test", site.port).close()
        assert threading.active_count() <= before + 2 * 5 + 8 + 1
        assert "Limits.connections" in str(guest.open("site.test", site.port).settled())
    finally:
        release.set()
    assert eventually(lambda: guest.open("site.test", site.port).settled() is None)


def test_a_number_that_is_used_anew_is_ended_with_the_step(
    wire: MakeWire, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the connection that had the number before ends later, and must not take the new one out of what the step ends."""
    from safeexec.egress import addresses

    release = threading.Event()
    first = threading.Event()

    def resolve(name: str, port: int) -> list[str]:
        if not first.is_set():
            first.set()
            release.wait(20)
        return ["127.0.0.1"]

    monkeypatch.setattr(addresses, "resolve", resolve)
    guest = opened(wire, site)
    old = guest.open("site.test", site.port)
    assert first.wait(20)
    old.close()
    header = {"t": "net", "op": "open", "id": old.number, "host": "site.test", "port": site.port}
    guest.step.request(header, ())
    assert old.settled() is None
    release.set()
    network = guest.step._network
    assert eventually(lambda: network._threads == 1), "the thread of the first connection has ended"
    guest.step.stop(tell=False)
    assert eventually(lambda: network._threads == 0 and site.open == 0), "the second one is ended with the step"


def test_a_connection_that_is_given_up_while_it_is_made_is_shut(wire: MakeWire) -> None:

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        guest = wire(f"127.0.0.1:{port}", connections=1)
        line = guest.open("127.0.0.1", port)
        assert eventually(lambda: guest.paused == 1)
        line.close()
        assert eventually(lambda: guest.paused == 0), "it does not wait for its time to run out"
        for filler in fillers:
            filler.close()


def test_many_small_pieces_take_no_more_than_the_window() -> None:
    """Two bytes to a frame, and nobody reads: what waits is the window, and not an object for each."""
    stream = Stream(1, lambda frame: None)
    view = memoryview(bytes(range(256)) * (WINDOW // 256))
    tracemalloc.start()
    try:
        for at in range(0, WINDOW, 2):
            stream.feed(view[at : at + 2])
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 2 * WINDOW, taken
    stream.end()
    assert b"".join(iter(stream.read, b"")) == view


def test_a_connection_that_is_given_up_amid_a_handshake_is_shut(wire: MakeWire) -> None:
    """The server takes the handshake and never answers: nobody waits for the time of the request to run out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        guest = wire(f"https://127.0.0.1:{port}", tool_time=None)
        for end in ("connection", "step"):
            line = guest.open("127.0.0.1", port)
            assert line.settled() is None
            line.send(b"\x16\x00safeexec-tls \n")
            server, _ = silent.accept()
            with server:
                assert server.recv(5)[:2] == b"\x16\x03"
                assert guest.paused == 1
                if end == "connection":
                    line.close()
                else:
                    guest.step.stop(tell=False)
                assert eventually(lambda: guest.paused == 0 and not guest.step._network._threads)
                server.settimeout(PATIENCE)
                try:
                    while server.recv(65536):
                        pass  # the rest of the handshake's first message, and then the end
                except ConnectionResetError:
                    pass
