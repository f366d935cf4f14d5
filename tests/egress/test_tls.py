"""TLS by the host for the guest, and TLS of the guest's own passed through."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest

from safeexec.egress import tls
from safeexec.egress.http1 import BadMessage, Reader
from safeexec.testing.base import eventually
from tests.egress.site import PAGE, Site
from tests.egress.wire import MakeWire, Wire, get


def ask(guest: Wire, name: str, site: Site, asked: str | None = None) -> bytes:
    line = guest.open(name, site.port)
    assert line.settled() is None
    line.send(
        f"\x16\0safeexec-tls {name if asked is None else asked}\n".encode("latin-1") + get("/", f"{name}:{site.port}")
    )
    line.end()
    return line.rest()


def test_the_host_does_tls(wire: MakeWire, make_site: Callable[..., Site], trust: None) -> None:
    site = make_site(secure="site")
    guest = wire("site.test", "127.0.0.1")
    answer = ask(guest, "site.test", site)
    assert answer.startswith(b"\x16\0ok\nHTTP/1.1 200 OK") and answer.endswith(PAGE)
    assert guest.step.log[0].url == f"https://site.test:{site.port}/"


def test_a_certificate_of_another_name_is_not_accepted(
    wire: MakeWire, make_site: Callable[..., Site], trust: None
) -> None:
    site = make_site(secure="other")
    guest = wire("site.test", "127.0.0.1")
    assert ask(guest, "site.test", site).startswith(b"\x16\0certificate ")
    assert site.seen == [] and "certificate" in str(guest.step.log[0].error)


def test_nor_is_one_of_an_unknown_authority(wire: MakeWire, make_site: Callable[..., Site]) -> None:
    site = make_site(secure="site")
    assert ask(wire("site.test", "127.0.0.1"), "site.test", site).startswith(b"\x16\0certificate ")
    assert site.seen == []


def test_nor_is_a_server_that_speaks_plain(wire: MakeWire, site: Site) -> None:
    assert ask(wire("site.test", "127.0.0.1", tool_time=0.3), "site.test", site).startswith(b"\x16\0tls ")


@pytest.mark.parametrize("asked", ["other.test", "127.0.0.1", "\xff", "site.test.evil.test", "a b", "*"])
def test_the_name_that_is_verified_is_the_one_connected_to(
    asked: str, wire: MakeWire, make_site: Callable[..., Site], trust: None
) -> None:
    site = make_site(secure="other")
    assert ask(wire("site.test", "other.test", "127.0.0.1"), "site.test", site, asked).startswith(b"\x16\0policy ")
    assert site.seen == []


def test_schemes_are_kept_apart(wire: MakeWire, make_site: Callable[..., Site], trust: None) -> None:
    secure, plain = make_site(secure="site"), make_site()
    guest = wire(
        f"http://site.test:{secure.port}",
        f"https://site.test:{plain.port}",
        f"http://127.0.0.1:{secure.port}",
        f"https://127.0.0.1:{plain.port}",
    )
    assert ask(guest, "site.test", secure).startswith(b"\x16\0policy ")
    assert guest.ask("site.test", plain.port, get("/", f"site.test:{plain.port}")).startswith(b"HTTP/1.1 403")
    assert secure.seen == plain.seen == [] and all(entry.refused for entry in guest.step.log)


def hello(name: str | None) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def reader(data: bytes) -> Reader:
    pieces = iter([data[n : n + 7] for n in range(0, len(data), 7)])
    return Reader(lambda: next(pieces, b""))


def test_the_name_in_a_handshake_is_read() -> None:
    data = hello("site.test")
    source = reader(data)
    assert tls.server_name(source) == "site.test"
    assert source.peek(len(data)) == data, "and nothing of it is taken"
    assert tls.server_name(reader(hello(None))) is None


def test_a_handshake_in_many_records_is_read_whole() -> None:
    data = hello("site.test")
    body = data[5:]
    parts = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (body[n : n + 20] for n in range(0, len(body), 20))
    )
    assert tls.server_name(reader(parts)) == "site.test"


def test_handshakes_cut_or_changed_anywhere_raise_nothing_else() -> None:
    data = hello("site.test")
    for end in range(len(data)):
        with pytest.raises(BadMessage):
            tls.server_name(reader(data[:end]))
    for at in range(len(data)):
        for byte in (0, 1, 0x7F, 0xFF):
            try:
                tls.server_name(reader(data[:at] + bytes([byte]) + data[at + 1 :]))
            except BadMessage:
                continue


@pytest.mark.parametrize("name", ["evil.test", None])
def test_a_handshake_for_another_name_reaches_no_server(
    name: str | None, wire: MakeWire, make_site: Callable[..., Site]
) -> None:
    site = make_site(secure="site")
    guest = wire("site.test", "127.0.0.1")
    line = guest.open("site.test", site.port)
    line.send(hello(name))
    assert line.rest() == b"" and guest.step.log[0].refused
    assert guest.step.log[0].sent == 0 and eventually(lambda: site.open == 0)


def test_a_tunnel_keeps_to_the_limits(wire: MakeWire, make_site: Callable[..., Site]) -> None:
    site = make_site(secure="site")
    guest = wire("site.test", "127.0.0.1", transfer=600)
    line = guest.open("site.test", site.port)
    line.send(hello("site.test"))
    line.rest()
    guest.idle()
    (entry,) = guest.step.log
    assert entry.refused and "Limits.transfer" in str(entry.error) and entry.received <= 600
    assert guest.paused == 0 and eventually(lambda: site.open == 0)
