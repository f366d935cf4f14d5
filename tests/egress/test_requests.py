"""What a hostile guest may write on a connection, and what then reaches a server: judged by the server's own record."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest

from safeexec import ProtocolError
from safeexec.egress.stream import PIECE, WINDOW, Stream
from tests.egress.conftest import Names
from tests.egress.site import PAGE, Seen, Site, send
from tests.egress.wire import SMUGGLING, MakeWire, Wire, get, opened


def test_a_request_arrives_and_its_answer_comes_back(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    answer = guest.ask(
        "site.test", site.port, get("/a?b=c", f"site.test:{site.port}", "X-Mine: 1\r\nConnection: close\r\n")
    )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(PAGE)
    assert site.seen[0].line == "GET /a?b=c HTTP/1.1"
    assert site.seen[0].get("host") == [f"site.test:{site.port}"] and site.seen[0].get("x-mine") == ["1"]
    (entry,) = guest.step.log
    assert (entry.method, entry.url, entry.host, entry.port, entry.status, entry.refused, entry.error) == (
        "GET", f"http://site.test:{site.port}/a?b=c", "site.test", site.port, 200, False, None,
    )  # fmt: skip
    assert (
        entry.received
        == len(PAGE) + len("HTTP/1.1 200 OK\r\nContent-Length: 76\r\nContent-Type: text/html; charset=utf-8\r\n\r\n")
        and entry.sent == len(site.seen[0].head) + 4
    )


def test_several_requests_share_a_connection_in_order(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    host = f"site.test:{site.port}"
    answer = guest.ask("site.test", site.port, b"".join(get(f"/{n}", host) for n in range(5)))
    assert answer.count(b"HTTP/1.1 200") == 5 and site.connections == 1
    assert [seen.line.split()[1] for seen in site.seen] == ["/0", "/1", "/2", "/3", "/4"]
    assert [entry.status for entry in guest.step.log] == [200] * 5


def test_bodies_pass_both_ways(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    host = f"site.test:{site.port}"
    whole = bytes(range(256)) * 2000
    line = guest.open("site.test", site.port)
    assert line.settled() is None
    line.send(f"POST /echo HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(whole)}\r\n\r\n".encode())
    line.send_slowly(whole)
    line.end()
    assert line.rest().endswith(whole)


def test_a_chunked_body_is_framed_anew(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    request = f"POST /head HTTP/1.1\r\nHost: site.test:{site.port}\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    assert guest.ask("site.test", site.port, request.encode()).startswith(b"HTTP/1.1 200")
    assert site.seen[0].get("transfer-encoding") == ["chunked"] and b"ext" not in site.seen[0].body
    assert b"abc" in site.seen[0].body and b"Trailer" not in site.seen[0].body


def test_an_answer_in_chunks_and_one_that_ends_with_the_connection(wire: MakeWire, site: Site) -> None:
    def chunks(connection: object, seen: Seen) -> bool:
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        )  # type: ignore[attr-defined]
        return True

    def ends(connection: object, seen: Seen) -> bool:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nto the end")  # type: ignore[attr-defined]
        return False

    site.answers = {"/chunks": chunks, "/ends": ends}
    guest = opened(wire, site)
    host = f"site.test:{site.port}"
    answer = guest.ask("site.test", site.port, get("/chunks", host) + get("/ends", host) + get("/", host))
    assert answer.count(b"HTTP/1.1 200") == 3 and answer.endswith(PAGE)
    assert b"hello" in answer and b"to the end" in answer and site.connections == 2
    old = guest.ask("site.test", site.port, f"GET /chunks HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    assert old.endswith(b"\r\n\r\nhello world") and b"ransfer-" not in old


def test_compressed_bodies_pass_as_they_are(wire: MakeWire, site: Site) -> None:
    """The host unpacks nothing: a bomb is the guest's to open, within its own memory."""
    bomb = gzip.compress(bytes(50_000_000))
    site.answers["/bomb"] = lambda c, s: (send(c, bomb, extra="Content-Encoding: gzip\r\n"), True)[1]
    guest = opened(wire, site)
    answer = guest.ask("site.test", site.port, get("/bomb", f"site.test:{site.port}"))
    assert answer.endswith(bomb) and guest.step.log[0].received < 2 * len(bomb)


@pytest.mark.parametrize("number", range(len(SMUGGLING)))
def test_what_two_readers_could_read_differently_reaches_no_server(number: int, wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    host = f"site.test:{site.port}".encode()
    follow = b"GET /smuggled HTTP/1.1\r\nHost: %b\r\n\r\n" % host
    answer = guest.ask("site.test", site.port, SMUGGLING[number].replace(b"%h", host) + follow)
    guest.idle()
    assert not any("/smuggled" in seen.line for seen in site.seen)
    # A broken chunk may be found after the head went out; nothing whole was made of it.
    assert all(b"transfer-encoding: chunked" in seen.head.lower() for seen in site.seen)
    assert b"200 OK" not in answer and guest.step.log[0].refused


@pytest.mark.parametrize(
    "request_",
    [
        "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: site.test:1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: site.test:%p\r\nHost: evil.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: site.test:%p\r\nHost: site.test:%p\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: site.test@evil.test:%p\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.test:80@site.test:%p\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: site.test:%p, evil.test\r\n\r\n",
        "GET http://evil.test/ HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "GET http://site.test:%p@evil.test/ HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "GET http://evil.test:%p/ HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "GET https://site.test:%p/ HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "GET ftp://site.test:%p/ HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "GET site.test:%p HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "GET ?x HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "TRACK / HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "trace / HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "CONNECT evil.test:443 HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
    ],
)
def test_a_request_for_another_site_reaches_no_server(request_: str, wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    answer = guest.ask("site.test", site.port, request_.replace("%p", str(site.port)).encode())
    guest.idle()
    assert site.seen == [] and answer.startswith(b"HTTP/1.1 403")
    assert guest.step.log[0].refused and guest.step.log[0].error


@pytest.mark.parametrize(
    "target",
    [
        "//evil.test/x",
        "/@evil.test/",
        "/..//..\\evil",
        "/%0d%0aX:%20y",
        "/a;b?c=http://evil.test/#frag",
        "/é".encode().decode("latin-1"),
    ],
)
def test_paths_are_paths_of_the_one_host(target: str, wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    guest.ask("site.test", site.port, get(target, f"site.test:{site.port}"))
    assert [seen.line for seen in site.seen] == [f"GET {target} HTTP/1.1"]
    assert site.seen[0].get("host") == [f"site.test:{site.port}"]


def test_fields_of_the_connection_are_the_hosts_own(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    extra = (
        "Connection: keep-alive, X-Hidden\r\nX-Hidden: 1\r\nKeep-Alive: 5\r\nUpgrade: websocket\r\nTE: trailers\r\nProxy-Authorization: x\r\n"
        "Proxy-Connection: keep-alive\r\nExpect: 100-continue\r\nX-Kept: 1\r\n"
    )
    answer = guest.ask("site.test", site.port, get("/", f"site.test:{site.port}", extra))
    assert {name for name, _ in site.seen[0].fields} == {"host", "x-kept"}
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]", "127.0.0.2", "127.1.1.1", "[::1]", "localhost", "0.0.0.0", "evil.test",
     "site.test.evil.test", "xsite.test", "site.test@evil.test", "evil.test#site.test", "site.test/evil.test", "site.test\0.evil.test", "", "site%2etest"],
)  # fmt: skip
def test_connections_elsewhere_are_refused(host: str, wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    assert guest.open(host, site.port).settled()
    assert site.connections == 0 and guest.step.log[0].refused


@pytest.mark.parametrize("port", [0, -1, 65536, 2**70])
def test_ports_that_are_none_are_refused(port: int, wire: MakeWire) -> None:
    assert "not a host" in str(wire("*").open("8.8.8.8", port).settled())


@pytest.mark.parametrize("spelling", ["SITE.test", "site.test.", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"])
def test_spellings_of_a_permitted_host_reach_it(spelling: str, wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    assert guest.ask(spelling, site.port, get("/", f"{spelling}:{site.port}")).endswith(PAGE)
    assert site.seen[0].get("host")[0] in (f"site.test:{site.port}", f"127.0.0.1:{site.port}")


def test_a_name_that_changes_its_address_gains_nothing(
    wire: MakeWire, make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer is private. It is looked up once, and what was checked is what is connected to."""
    from safeexec.egress import addresses

    inner = make_site()
    answers = iter([["203.0.113.9"], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[str] = []
    monkeypatch.setattr(addresses, "resolve", lambda name, port: asked.append(name) or next(answers))
    tried: list[str] = []
    real = addresses.connect

    def connect(found: list[addresses.Host], *rest: object) -> object:
        tried.extend(host.name for host in found)
        raise ConnectionRefusedError(111, "nobody there")

    monkeypatch.setattr(addresses, "is_public", lambda address: str(address) == "203.0.113.9")
    monkeypatch.setattr(addresses, "connect", connect)
    guest = wire("rebind.test")
    assert guest.open("rebind.test", inner.port).settled() == "nobody there"
    assert asked == ["rebind.test"] and tried == ["203.0.113.9"]
    monkeypatch.setattr(addresses, "connect", real)
    assert "not public" in str(guest.open("rebind.test", inner.port).settled())
    assert inner.connections == 0


def test_a_connection_taken_up_again_goes_to_the_address_that_was_checked(
    wire: MakeWire, site: Site, names: Names
) -> None:
    def once(connection: object, seen: Seen) -> bool:
        send(connection, b"bye")
        return False

    site.answers["/once"] = once
    guest = opened(wire, site)
    host = f"site.test:{site.port}"
    line = guest.open("site.test", site.port)
    line.send(get("/once", host))
    assert b"bye" in line.until(b"bye")
    guest.wait(lambda: site.open == 0)
    names["site.test"] = ["127.0.0.2"]
    line.send(get("/", host))
    line.end()
    assert line.rest().endswith(PAGE) and site.connections == 2


def test_a_redirect_is_the_guests_to_follow_and_is_checked_like_any_request(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    answer = guest.ask("site.test", site.port, get("/to?http://169.254.169.254/latest/", f"site.test:{site.port}"))
    assert answer.startswith(b"HTTP/1.1 302") and len(guest.step.log) == 1
    assert "not permitted" in str(guest.open("169.254.169.254", 80).settled())


def test_answers_that_are_no_http_end_the_request(wire: MakeWire, site: Site) -> None:
    raw = {
        "/garbage": b"SSH-2.0-OpenSSH\r\n\r\n",
        "/long": b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000 + b"\r\n\r\n",
        "/many": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        "/length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "/minus": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
        "/upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\nraw",
        "/interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        "/nothing": b"",
        "/half": b"HTTP/1.1 200 OK\r\nConte",
        "/te": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "/control": b"HTTP/1.1 200 OK\r\nX: a\x1b[31m\r\n\r\n",
    }
    for path, data in raw.items():
        site.answers[path] = lambda c, s, data=data: (c.sendall(data), False)[1]  # type: ignore[misc]
    guest = opened(wire, site)
    for number, path in enumerate(raw):
        answer = guest.ask("site.test", site.port, get(path, f"site.test:{site.port}"))
        assert answer.startswith(b"HTTP/1.1 502"), (path, answer[:100])
        assert guest.step.log[number].error and not guest.step.log[number].refused


def test_an_answer_cut_short_is_cut_short_for_the_guest_too(wire: MakeWire, site: Site) -> None:
    site.answers["/cut"] = lambda c, s: (c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), False)[1]
    site.answers["/cut2"] = lambda c, s: (
        c.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        False,
    )[1]
    guest = opened(wire, site)
    for path in ("/cut", "/cut2"):
        answer = guest.ask("site.test", site.port, get(path, f"site.test:{site.port}"))
        assert b"half" in answer and not answer.endswith(b"0\r\n\r\n") and b"HTTP/1.1 502" not in answer
    assert all(entry.error for entry in guest.step.log)


def test_bytes_behind_an_answer_do_not_become_the_next(wire: MakeWire, site: Site) -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    site.answers["/first"] = lambda c, s: (c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + poison), True)[
        1
    ]
    guest = opened(wire, site)
    host = f"site.test:{site.port}"
    answer = guest.ask("site.test", site.port, get("/first", host) + get("/", host))
    assert b"poison" not in answer and answer.endswith(PAGE)


# -- as an HTTP proxy ------------------------------------------------------------------------------------------------------


def proxied(guest: Wire, request: bytes) -> bytes:
    line = guest.open(proxy=True)
    line.send(request)
    line.end()
    return line.rest()


def test_a_proxys_client_is_served_in_both_ways(wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    where = f"site.test:{site.port}"
    answer = proxied(
        guest, f"GET http://{where}/one HTTP/1.1\r\nHost: {where}\r\nProxy-Connection: x\r\n\r\n".encode() * 2
    )
    assert answer.count(PAGE) == 2 and site.connections == 1 and site.seen[0].line == "GET /one HTTP/1.1"
    answer = proxied(guest, f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode() + get("/two", where))
    assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK") and answer.endswith(PAGE)
    assert [entry.status for entry in guest.step.log] == [200, 200, 200]


@pytest.mark.parametrize(
    "request_",
    [
        "GET http://evil.test:%p/ HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "GET http://site.test:%p/ HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        "GET http://site.test:%p@evil.test:%p/ HTTP/1.1\r\n\r\n",
        "GET http://evil.test:%p@site.test:%p/ HTTP/1.1\r\n\r\n",
        "GET http://169.254.169.254/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: site.test:%p\r\n\r\n",
        "GET file:///etc/passwd HTTP/1.1\r\n\r\n",
        "CONNECT evil.test:%p HTTP/1.1\r\n\r\n",
        "CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n",
        "CONNECT user@site.test:%p HTTP/1.1\r\n\r\n",
        "CONNECT http://site.test:%p/ HTTP/1.1\r\n\r\n",
        "CONNECT 10.0.0.1:22 HTTP/1.1\r\n\r\n",
        "CONNECT :%p HTTP/1.1\r\n\r\n",
    ],
)
def test_a_proxys_client_reaches_nothing_else(request_: str, wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    answer = proxied(guest, request_.replace("%p", str(site.port)).encode())
    guest.idle()
    assert site.seen == [] and answer.startswith(b"HTTP/1.1 403") and guest.step.log[0].refused


# -- frames that no honest guest sends -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        {}, {"op": "open"}, {"op": "open", "id": "1"}, {"op": "open", "id": True}, {"op": "open", "id": 0}, {"op": "open", "id": -1},
        {"op": "open", "id": 2**60}, {"op": "open", "id": 9, "host": 1}, {"op": "open", "id": 9, "host": "a", "port": "80"},
        {"op": "open", "id": 9, "host": "a", "port": True}, {"op": "open", "id": 9, "host": "a" * 5000, "port": 80},
        {"op": "open", "id": 9, "host": "a", "port": 80, "proxy": 1}, {"op": 1, "id": 1}, {"op": "open", "id": 1, "host": "site.test", "port": 80},
        {"op": "ack", "id": 1, "size": 1}, {"op": "ack", "id": 1, "size": 0}, {"op": "ack", "id": 1, "size": -5}, {"op": "ack", "id": 1, "size": "1"},
        {"op": "data", "id": 1}, {"op": "nonsense", "id": 1},
    ],
)  # fmt: skip
def test_malformed_frames_end_the_session(header: dict[str, object], wire: MakeWire, site: Site) -> None:
    guest = opened(wire, site)
    assert guest.open("site.test", site.port).settled() is None
    with pytest.raises(ProtocolError):
        guest.step.request({"t": "net", **header}, ())


def test_more_than_the_window_ends_the_session() -> None:
    stream = Stream(1, lambda frame: None)
    for _ in range(WINDOW // PIECE):
        stream.feed(b"x" * PIECE)
    with pytest.raises(ProtocolError):
        stream.feed(b"x")
    with pytest.raises(ProtocolError):
        Stream(1, lambda frame: None).feed(b"x" * (PIECE + 1))


def test_frames_about_connections_that_are_not_are_passed_over(wire: MakeWire) -> None:
    guest = wire("site.test")
    for op in ("data", "ack", "end", "close"):
        guest.step.request({"t": "net", "op": op, "id": 77, "size": 5}, (b"x",))
    assert guest.frames == []
