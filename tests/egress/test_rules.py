"""Patterns, and the one spelling of a host."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest

from safeexec import Limits, Policy, PolicyError
from safeexec.egress.addresses import checked_addresses, is_public
from safeexec.egress.rules import Refused, Rules, normalise
from tests.egress.conftest import Names
from tests.egress.wire import Wire


@pytest.mark.parametrize(
    ("spelling", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("0x7F.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("0x", "0.0.0.0"),  # as inet_aton takes it
        ("169.254.43518", "169.254.169.254"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("[::ffff:7f00:1]", "127.0.0.1"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("ⓔxample.com", "example.com"),
        ("exa_mple.com", "exa_mple.com"),
    ],
)
def test_every_spelling_of_a_host_becomes_one(spelling: str, host: str) -> None:
    assert normalise(spelling).name == host


@pytest.mark.parametrize(
    "spelling",
    [
        "", ".", "..", "a..b", ".a", "a.b..", "-a.com", "a-.com", "a b", "a\tb", "a\nb", "a/b", "a\\b", "a@b", "a%2eb", "a\0b",
        "[::1", "::1]", "[::1%eth0]", "fe80::1%1", "[127.0.0.1]", "1.2.3.4.5", "256.1.1.1", "1.2.3.256", "08.1.1.1", "a.0x1z.1",
        "99999999999999999999999", "a" * 64 + ".com", ".".join(["abc"] * 80), "exa mple.com", "*", "*.com", "a,b", "a;b", "a:b:c", "\u2025",
    ],
)  # fmt: skip
def test_what_is_no_host_is_refused(spelling: str) -> None:
    with pytest.raises(ValueError):
        normalise(spelling)


@pytest.mark.parametrize(
    ("pattern", "reached", "not_reached"),
    [
        ("api.test", ["http://api.test:80", "https://api.test:443", "http://api.test:8080"], ["http://x.api.test:80", "http://api.test.evil:80"]),
        ("API.test.", ["http://api.test:80"], ["http://xapi.test:80"]),
        ("api.test:443", ["https://api.test:443", "http://api.test:443"], ["http://api.test:80"]),
        ("https://api.test", ["https://api.test:443"], ["http://api.test:443", "https://api.test:8443"]),
        ("http://api.test:8080/", ["http://api.test:8080"], ["https://api.test:8080", "http://api.test:80"]),
        ("*.api.test", ["http://x.api.test:80", "http://a.b.api.test:80"], ["http://api.test:80", "http://xapi.test:80"]),
        ("*.api.test:443", ["https://x.api.test:443"], ["http://x.api.test:80"]),
        ("*", ["http://anything.test:1", "https://8.8.8.8:443"], []),
        ("127.0.0.1:8080", ["http://127.0.0.1:8080"], ["http://127.0.0.1:80", "http://127.0.0.2:8080", "http://localhost:8080"]),
        ("[::1]:80", ["http://[::1]:80"], ["http://[::2]:80"]),
        ("::1", ["http://[::1]:80"], []),
        ("2130706433", ["http://127.0.0.1:80"], []),
    ],
)  # fmt: skip
def test_patterns_cover_what_they_name(pattern: str, reached: list[str], not_reached: list[str]) -> None:
    rules = Rules((pattern,), {})

    def permits(url: str) -> bool:
        scheme, _, rest = url.partition("://")
        host, _, port = rest.rpartition(":")
        return rules.permits(scheme, normalise(host), int(port))

    assert [url for url in reached if not permits(url)] == []
    assert [url for url in not_reached if permits(url)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "", "a b", "user@api.test", "api.test/path", "ftp://api.test", "api.test:0", "api.test:70000", "api.test:x", "a*.test", "*.*.test", "**",
        "*.127.0.0.1", "http://", "://api.test", "api.test?x", "api.test#x", "api.test:80:90", "[::1", "api.test\r\nX: y", "*.",
    ],
)  # fmt: skip
def test_a_malformed_pattern_is_refused_when_the_policy_is_made(pattern: str) -> None:
    with pytest.raises(PolicyError, match="network"):
        Policy(network=(pattern,))


@pytest.mark.parametrize("pattern", ["https://api.test/v1", "api.test/v1", "http://api.test//"])
def test_a_path_is_called_a_path(pattern: str) -> None:
    with pytest.raises(PolicyError, match="hosts are named, not paths"):
        Policy(network=(pattern,))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "0.0.0.0", "255.255.255.255",
        "224.0.0.1", "192.0.0.192", "192.0.2.1", "198.18.0.1", "168.63.129.16", "240.0.0.1", "::1", "::", "fe80::1", "fd00:ec2::254", "fc00::1",
        "ff02::1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1",
        "2001::1", "64:ff9b:1::1", "fec0::1", "100::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("pattern", ["intern.test", "*.test", "*", "http://intern.test"])
def test_a_name_that_leads_to_a_private_address_is_refused_though_it_is_named(pattern: str, names: Names) -> None:
    names["intern.test"] = ["10.0.0.5", "::1", "169.254.169.254", "::ffff:192.168.0.1"]
    with pytest.raises(Refused, match="not public"):
        checked_addresses(Rules((pattern,), {}), "http", normalise("intern.test"), 80)


def test_of_mixed_answers_only_the_public_ones_are_tried(names: Names) -> None:
    names["mixed.test"] = ["10.0.0.5", "8.8.8.8", "fe80::1%eth0", "2606:4700::1111"]
    found = checked_addresses(Rules(("*",), {}), "http", normalise("mixed.test"), 80)
    assert [host.name for host in found] == ["8.8.8.8", "2606:4700::1111"]


def test_a_private_address_named_itself_serves_the_names_that_lead_to_it(names: Names) -> None:
    names["intern.test"] = ["10.0.0.5"]
    rules = Rules(("intern.test", "10.0.0.5:8080"), {})
    assert checked_addresses(rules, "http", normalise("intern.test"), 8080)[0].name == "10.0.0.5"
    with pytest.raises(Refused):
        checked_addresses(rules, "http", normalise("intern.test"), 80)


def test_localhost_is_never_asked_of_a_resolver(names: Names) -> None:
    names["localhost"] = ["8.8.8.8"]
    found = checked_addresses(Rules(("localhost:80",), {}), "http", normalise("localhost"), 80)
    assert {host.name for host in found} == {"127.0.0.1", "::1"}
    with pytest.raises(Refused):
        checked_addresses(Rules(("*",), {}), "http", normalise("localhost"), 80)


def test_what_is_not_permitted_is_not_even_looked_up(
    wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safeexec.egress import addresses

    asked: list[str] = []
    monkeypatch.setattr(addresses, "resolve", lambda name, port: asked.append(name) or ["8.8.8.8"])
    guest = wire("site.test")
    assert "not permitted" in str(guest.open("secret-in-a-name.evil.test", 80).settled())
    assert asked == []


@pytest.mark.parametrize(
    ("credentials", "what"),
    [
        ({"api.test": {"Authorization": "x"}}, "not permitted"),
        ({"*.site.test": {"Authorization": "x"}}, "one host"),
        ({"*": {"Authorization": "x"}}, "one host"),
        ({"site.test": {}}, "header names"),
        ({"site.test": {"Host": "x"}}, "cannot|can be added"),
        ({"site.test": {"Content-Length": "0"}}, "can be added"),
        ({"site.test": {"A b": "x"}}, "can be added"),
        ({"site.test": {"A": "secret\r\nB: c"}}, "not a header's value"),
        ({"site.test": {"A": "secret\0"}}, "not a header's value"),
        ({"site.test": {"A": " secret"}}, "not a header's value"),
        ({"site.test": {"A": "secrét☃"}}, "not a header's value"),
        ({"site.test": {"A": 1}}, "not a header's value"),
        ({"site.test": "secret"}, "must map"),
        ({1: {"A": "b"}}, "must map"),
        (["site.test"], "must map|credentials"),
    ],
)
def test_malformed_credentials_are_refused_without_being_shown(credentials: object, what: str) -> None:
    with pytest.raises(PolicyError, match=what) as caught:
        Policy(network=("site.test",), credentials=credentials)  # type: ignore[arg-type]
    assert "secr" not in str(caught.value)


def test_a_policy_does_not_show_its_credentials() -> None:
    policy = Policy(network=("api.test",), credentials={"api.test": {"Authorization": "Bearer sesame"}})
    assert "sesame" not in repr(policy) and "sesame" not in str(policy.replace(env={"A": "b"}))
    assert policy.replace(env={}).credentials == {"api.test": {"Authorization": "Bearer sesame"}}


def test_the_credentials_of_a_policy_are_its_own() -> None:
    mine = {"api.test": {"A": "b"}}
    policy = Policy(network=("api.test", "site.test"), credentials=mine)
    mine["api.test"]["A"] = "c"
    mine["site.test"] = {}
    assert policy.credentials == {"api.test": {"A": "b"}}


@pytest.mark.parametrize("name", ["requests", "connections", "transfer"])
def test_limits_of_the_network_are_checked(name: str) -> None:
    for bad in (0, -1, 1.5, "1", True):
        with pytest.raises(PolicyError, match=name):
            Limits(**{name: bad})  # type: ignore[arg-type]
    assert getattr(Limits(**{name: 7}), name) == 7
