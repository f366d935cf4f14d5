"""Names to addresses, addresses to connections: each address is checked, and the one that was checked is connected to."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from time import monotonic

from safeexec.egress.rules import Host, Refused, Rules, normalise

_ATTEMPTS = 4
"""Addresses of one name that are tried."""

# What ipaddress calls global and a sandbox has no business with.
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's host: DNS, and the machine's own configuration
        "192.0.0.0/24",  # IETF protocol assignments; Oracle's metadata among them
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarking
        "2001::/23",  # IETF protocol assignments, Teredo
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given out for the internet (IANA's address space registry)."""
_6TO4 = ipaddress.ip_network("2002::/16")


def resolve(name: str, port: int) -> list[str]:
    """The addresses of a name, as the host's resolver has them. Raises OSError."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address belongs to the public internet: not private, loopback, link-local, shared, reserved, multicast, metadata."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:  # a gateway would turn these two kinds into the IPv4 address inside
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address in _6TO4:
            return is_public(ipaddress.IPv4Address((int(address) >> 80) & 0xFFFFFFFF))
        if address not in _UNICAST:
            return False
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    return not any(address.version == network.version and address in network for network in _SPECIAL)


def checked_addresses(rules: Rules, scheme: str, host: Host, port: int) -> list[Host]:
    """The addresses to try for a permitted host. Raises Refused when none may be connected to, OSError when there is none.

    Resolved once. An answer that changes later (DNS rebinding) changes nothing: what is connected to is what was checked here.
    """
    if host.address is not None:
        found = [host]
    elif host.name == "localhost":  # RFC 6761: never another address, whatever a resolver says
        found = [normalise("127.0.0.1"), normalise("::1")]
    else:
        found = []
        for text in resolve(host.name, port):
            try:
                found.append(normalise(text.partition("%")[0]))
            except ValueError:
                continue
    allowed = [one for one in found if may_connect(rules, scheme, host, one, port)]
    if found and not allowed:
        what = "is" if host.address is not None else "resolves to"
        raise Refused(
            f"{host.in_url} {what} an address that is not public (private, loopback, link-local or metadata); only one that the "
            "policy names as an address can be reached"
        )
    if not allowed:
        raise socket.gaierror(socket.EAI_NONAME, f"{host.name}: no address")
    return allowed[:_ATTEMPTS]


def may_connect(rules: Rules, scheme: str, host: Host, address: Host, port: int) -> bool:
    """Whether an address of a permitted host may be connected to: a public one, or one that the policy names itself."""
    if address.address is None:
        return False
    if host.name == "localhost" and address.address.is_loopback and rules.names_address(scheme, host, port):
        return True
    return is_public(address.address) or rules.names_address(scheme, address, port)


def connect(
    addresses: list[Host],
    port: int,
    remaining: Callable[[], float | None],
    begun: Callable[[socket.socket], object] = lambda sock: None,
) -> socket.socket:
    """A connection to the first address that answers. `remaining` gives the seconds left, None for no bound. Raises OSError.

    `begun` gets each socket before it is connected, so that another thread can shut it; what it raises passes through.
    """
    trouble: OSError = OSError(errno.EHOSTUNREACH, "no address")
    for number, host in enumerate(addresses):
        assert host.address is not None
        left = remaining()
        if left is not None and left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the connection took too long")
        family = socket.AF_INET if host.address.version == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            trouble = error
            continue
        try:
            # One that does not answer must leave time for the others.
            begun(sock)
            sock.settimeout(None if left is None else max(0.05, left / (len(addresses) - number)))
            # Numbers, never a name: nothing is resolved again here.
            sock.connect((host.name, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            trouble = error
        except BaseException:
            sock.close()
            raise
    raise trouble


class Deadline:
    """Seconds left of a time allowance."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else monotonic() + seconds

    def remaining(self) -> float | None:
        """Seconds left, not below zero; None for no bound."""
        return None if self._end is None else max(0.0, self._end - monotonic())

    def timeout(self) -> float | None:
        """What to give to ``settimeout``, never zero. Raises TimeoutError when nothing is left."""
        left = self.remaining()
        if left is not None and left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the request took too long")
        return left
