"""The key reaches its host and nothing else: attacked in every way a guest can write a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from safeexec.testing.base import eventually
from tests.egress.site import Site
from tests.egress.wire import SMUGGLING, MakeWire, Wire, get

KEY = "Bearer open-sesame"


def with_key(wire: MakeWire, api: Site, *more: Site) -> Wire:
    network = ["127.0.0.1", "api.test", "site.test", "other.test", "evil.test"]
    return wire(*network, credentials={f"http://api.test:{api.port}": {"Authorization": KEY, "X-Second": "two"}})


def keys(site: Site) -> list[str]:
    return [value for seen in site.seen for name, value in seen.fields if "sesame" in value or name == "x-second"]


def test_the_key_is_added_outside(wire: MakeWire, site: Site) -> None:
    guest = with_key(wire, site)
    answer = guest.ask("api.test", site.port, get("/", f"api.test:{site.port}"))
    assert keys(site) == [KEY, "two"] and b"sesame" not in answer
    assert not any("sesame" in str(frame) or "sesame" in str(guest.step.log) for frame in guest.frames)


def test_the_guests_own_field_of_that_name_is_replaced(wire: MakeWire, site: Site) -> None:
    guest = with_key(wire, site)
    guest.ask(
        "api.test", site.port, get("/", f"api.test:{site.port}", "authorization: mine\r\nAUTHORIZATION: mine too\r\n")
    )
    assert site.seen[0].get("authorization") == [KEY]


def test_connection_cannot_strip_it_into_view(wire: MakeWire, site: Site) -> None:
    guest = with_key(wire, site)
    guest.ask("api.test", site.port, get("/", f"api.test:{site.port}", "Connection: Authorization, close\r\n"))
    assert site.seen[0].get("authorization") == [KEY]


@pytest.mark.parametrize("how", ["direct", "absolute", "connect", "proxy"])
def test_the_same_server_under_another_name_gets_no_key(how: str, wire: MakeWire, site: Site) -> None:
    guest = with_key(wire, site)
    for name in ("site.test", "evil.test", "127.0.0.1", "xapi.test", "api.test.evil.test", "127.1"):
        where = f"{name}:{site.port}"
        if how in ("direct", "absolute"):
            target = f"http://{where}/" if how == "absolute" else "/"
            guest.ask(name, site.port, get(target, where))
            continue
        line = guest.open(proxy=True)
        if how == "connect":
            line.send(f"CONNECT {where} HTTP/1.1\r\n\r\n".encode() + get("/", where))
        else:
            line.send(get(f"http://{where}/", where))
        line.end()
        line.rest()
    assert len(site.seen) == 4 and keys(site) == []


@pytest.mark.parametrize(
    "request_",
    [
        "GET / HTTP/1.1\r\nHost: api.test:%a\r\n\r\n",
        "GET http://api.test:%a/ HTTP/1.1\r\nHost: api.test:%a\r\n\r\n",
        "GET http://api.test:%a/ HTTP/1.1\r\nHost: evil.test:%e\r\n\r\n",
        "GET http://api.test:%a@evil.test:%e/ HTTP/1.1\r\nHost: evil.test:%e\r\n\r\n",
        "GET http://evil.test:%e/ HTTP/1.1\r\nHost: api.test:%a\r\n\r\n",
        "GET /http://api.test:%a/ HTTP/1.1\r\nHost: evil.test:%e\r\n\r\n",
        "GET //api.test:%a/ HTTP/1.1\r\nHost: evil.test:%e\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.test:%e\r\nHost: api.test:%a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.test:%a\r\nHost: evil.test:%e\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.test:%e\r\nX-Forwarded-Host: api.test:%a\r\nForwarded: host=api.test:%a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.test:%e\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: api.test:%a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.test:%e\r\nContent-Length: 44\r\n\r\nGET / HTTP/1.1\r\nHost: api.test:%a\r\n\r\n",
    ],
)
def test_no_request_to_another_server_carries_it(request_: str, wire: MakeWire, make_site: Callable[..., Site]) -> None:
    api, evil = make_site(), make_site()
    guest = with_key(wire, api)
    text = request_.replace("%a", str(api.port)).replace("%e", str(evil.port)).encode()
    guest.ask("evil.test", evil.port, text)
    for connect in (f"CONNECT evil.test:{evil.port} HTTP/1.1\r\n\r\n".encode(), b""):
        line = guest.open(proxy=True)
        line.send(connect + text)
        line.end()
        line.rest()
    guest.idle()
    assert keys(evil) == []


def test_a_redirect_to_another_server_does_not_take_it_along(wire: MakeWire, make_site: Callable[..., Site]) -> None:
    api, evil = make_site(), make_site()
    guest = with_key(wire, api)
    answer = guest.ask("api.test", api.port, get(f"/to?http://evil.test:{evil.port}/", f"api.test:{api.port}"))
    assert b"302" in answer and b"sesame" not in answer and keys(api) == [KEY, "two"]
    guest.ask("evil.test", evil.port, get("/", f"evil.test:{evil.port}"))
    assert len(evil.seen) == 1 and keys(evil) == []


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "trace", "CONNECT"])
def test_methods_that_send_a_request_back_are_not_served(method: str, wire: MakeWire, site: Site) -> None:
    guest = with_key(wire, site)
    guest.ask("api.test", site.port, f"{method} / HTTP/1.1\r\nHost: api.test:{site.port}\r\n\r\n".encode())
    assert site.seen == []


@pytest.mark.parametrize("path", ["/a%0d%0aX-Second:%20no", "/?\u00e9", "/..%2f", "/a#b"])
def test_paths_do_not_reach_into_the_fields(path: str, wire: MakeWire, site: Site) -> None:
    guest = with_key(wire, site)
    guest.ask("api.test", site.port, get(path, f"api.test:{site.port}"))
    assert keys(site) == [KEY, "two"] and len(site.seen) == 1


@pytest.mark.parametrize("number", range(len(SMUGGLING)))
def test_a_second_request_hidden_in_the_first_gets_no_key(number: int, wire: MakeWire, site: Site) -> None:
    guest = with_key(wire, site)
    hidden = b"GET /hidden HTTP/1.1\r\nHost: api.test:%d\r\n\r\n" % site.port
    guest.ask("api.test", site.port, SMUGGLING[number].replace(b"%h", b"api.test:%d" % site.port) + hidden)
    guest.idle()
    assert not any("hidden" in seen.line for seen in site.seen)


def test_in_plain_only_where_the_key_says_so(wire: MakeWire, site: Site) -> None:
    """The guest chooses the scheme: it must not be able to send the key where everybody on the way can read it."""
    guest = wire("127.0.0.1", "api.test", credentials={f"api.test:{site.port}": {"Authorization": KEY}})
    guest.ask("api.test", site.port, get("/", f"api.test:{site.port}"))
    assert len(site.seen) == 1 and keys(site) == []


def test_over_tls_to_a_server_that_proves_who_it_is(
    wire: MakeWire, make_site: Callable[..., Site], trust: None
) -> None:
    api, fake = make_site(secure="site"), make_site(secure="other")
    for server in (api, fake):
        guest = wire("127.0.0.1", "api.test", credentials={f"api.test:{server.port}": {"Authorization": KEY}})
        line = guest.open("api.test", server.port)
        assert line.settled() is None
        line.send(b"\x16\x00safeexec-tls api.test\n" + get("/", f"api.test:{server.port}"))
        line.end()
        answer = line.rest()
        assert (b"200 OK" in answer) is (server is api)
    assert keys(api) == [KEY] and fake.seen == []


def test_not_into_a_tunnel(wire: MakeWire, make_site: Callable[..., Site], trust: None) -> None:
    """What the guest encrypts itself, the host does not touch; nor does it need to: the guest has no key to put there."""
    import ssl

    api = make_site(secure="site")
    guest = wire("127.0.0.1", "api.test", credentials={f"api.test:{api.port}": {"Authorization": KEY}})
    line = guest.open("api.test", api.port)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing, server_hostname="api.test")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    line.send(outgoing.read())
    taken = 0
    while True:
        guest.wait(lambda: len(line.received) > taken or line.closed)  # noqa: B023
        incoming.write(line.received[taken:])
        taken = len(line.received)
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            line.send(outgoing.read())
    tls.write(get("/", f"api.test:{api.port}"))
    line.send(outgoing.read())
    assert eventually(lambda: len(api.seen) == 1) and keys(api) == []
    line.close()
    guest.idle()
    assert guest.step.log[0].method == "CONNECT" and guest.step.log[0].sent > 0


def test_a_server_may_show_what_it_was_sent(wire: MakeWire, site: Site) -> None:
    """Stated in SECURITY.md: a host that repeats a request to its sender shows the key, and is no host to have one for."""
    guest = with_key(wire, site)
    assert b"sesame" in guest.ask("api.test", site.port, get("/head", f"api.test:{site.port}"))
