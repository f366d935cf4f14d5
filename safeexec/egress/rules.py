"""Which hosts may be reached: patterns, and the one spelling of a host that they are compared with."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from safeexec.errors import PolicyError

SCHEMES = {"http": 80, "https": 443}
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

FRAMING = frozenset(
    "host content-length transfer-encoding connection keep-alive te trailer upgrade expect proxy-connection "
    "proxy-authorization proxy-authenticate".split()
)
"""Header fields that are the host's own business: they say where a message goes and where it ends."""


class Refused(Exception):
    """The policy does not permit a request; the message says why, to the guest and to the log."""


class Host(NamedTuple):
    """A host in the one spelling there is: a lower-case name, or an address."""

    name: str
    """The name, or the address as ``ipaddress`` writes it."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None

    @property
    def in_url(self) -> str:
        """As it stands in a URL or a Host field."""
        return f"[{self.name}]" if self.address is not None and self.address.version == 6 else self.name


def normalise(text: str) -> Host:
    """The one spelling of a host: case, trailing dot, Unicode, brackets, and the many ways to write an IPv4 address. Raises ValueError.

    Patterns are compared with its outcome and connections are made to it, so no spelling can pass for another host.
    """
    if not text or len(text) > 1000:
        raise ValueError("an empty or endless host name")
    if text[0] == "[" or ":" in text:
        if (text[0] == "[") != (text[-1] == "]"):
            raise ValueError(f"{text!r:.100} is not a host")
        inner = text[1:-1] if text[0] == "[" else text
        if "%" in inner:
            raise ValueError("an address with a zone")
        return _of_address(ipaddress.IPv6Address(inner))
    if not text.isascii():
        try:
            text = text.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{text!r:.100} is not a host name") from None
    name = text.lower()
    if name[-1] == ".":
        name = name[:-1]
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # What ends in a number is an address to every C library, however it is written: 2130706433, 0177.1, 0x7f.0.0.1.
        return _of_address(_loose_ipv4(labels))
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r:.100} is not a host name")
    return Host(name)


def _of_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Host:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Host(str(address), address)


def _loose_ipv4(labels: list[str]) -> ipaddress.IPv4Address:
    """As inet_aton() reads it: one to four numbers, decimal, octal or hexadecimal, the last filling what is left."""
    if len(labels) > 4 or not all(_NUMBER.fullmatch(label) for label in labels):
        raise ValueError("a host name that ends in a number")
    numbers = []
    for label in labels:
        if len(label) > 20:
            raise ValueError("not an IPv4 address")
        if label.startswith("0x"):
            numbers.append(int(label[2:] or "0", 16))
        else:
            numbers.append(int(label, 8 if len(label) > 1 and label[0] == "0" else 10))
    *front, last = numbers
    if any(number > 255 for number in front) or last >= 256 ** (4 - len(front)):
        raise ValueError("not an IPv4 address")
    total = last
    for place, number in enumerate(front):
        total += number << (24 - 8 * place)
    return ipaddress.IPv4Address(total)


def port_number(text: str) -> int:
    """A port. Raises ValueError."""
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 0 < int(text) < 65536:
        raise ValueError(f"{text!r:.20} is not a port")
    return int(text)


def split_authority(text: str) -> tuple[str, int | None]:
    """``host[:port]`` in its two parts. Raises ValueError, also for user names: ``allowed@elsewhere`` looks like the one and is the other."""
    if "@" in text or any(c in text for c in "/\\?#") or any(ord(c) <= 32 for c in text):
        raise ValueError("a user name or a stray character in the host")
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r:.100} is not host and port")
        return host + "]", port_number(rest[1:]) if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, port = text.partition(":")
    return host, port_number(port) if colon else None


class Pattern(NamedTuple):
    """One entry of ``Policy.network``."""

    host: Host | None
    """None: any public host."""
    below: bool
    """Hosts below the name, not the name itself."""
    port: int | None
    scheme: str | None

    def covers(self, scheme: str, host: Host, port: int) -> bool:
        """Whether it permits this."""
        if (self.port is not None and port != self.port) or (self.scheme is not None and scheme != self.scheme):
            return False
        if self.host is None:
            return True
        if self.below:
            return host.address is None and host.name.endswith("." + self.host.name)
        return host == self.host


def parse_pattern(text: str) -> Pattern:
    """Read ``[scheme://]host[:port]``, where host may be ``*`` or ``*.name``. Raises PolicyError."""
    rest, scheme = text, None
    if "://" in text:
        scheme, _, rest = text.partition("://")
        scheme = scheme.lower()
        if scheme not in SCHEMES:
            raise PolicyError(f"Policy.network: {text!r}: the scheme must be http or https")
        rest = rest.removesuffix("/")
    try:
        if "/" in rest:
            raise ValueError("hosts are named, not paths")
        name, port = split_authority(rest)
        if scheme is not None and port is None:
            port = SCHEMES[scheme]
        if name == "*":
            return Pattern(None, False, port, scheme)
        below = name.startswith("*.")
        host = normalise(name[2:] if below else name)
        if below and host.address is not None:
            raise ValueError("an address has nothing below it")
    except ValueError as error:
        raise PolicyError(
            f"Policy.network: {text!r} is not a host pattern ({error}); write 'api.example.com', '*.example.com:443', "
            "'https://example.com' or '127.0.0.1:8080'"
        ) from None
    return Pattern(host, below, port, scheme)


class Rules:
    """What a policy permits and which credentials the host adds."""

    def __init__(self, patterns: Iterable[str], credentials: Mapping[str, Mapping[str, str]]) -> None:
        """Raises PolicyError."""
        self.patterns = tuple(parse_pattern(text) for text in patterns)
        self._credentials: dict[tuple[str, Host, int], dict[str, str]] = {}
        for key, headers in credentials.items():
            self._add(key, headers)

    def _add(self, key: str, headers: Mapping[str, str]) -> None:
        # A message here must never show a value.
        pattern = parse_pattern(key)
        if pattern.host is None or pattern.below:
            raise PolicyError(f"Policy.credentials: {key!r}: credentials go to one host, not to a pattern")
        # Not to http unless it is spelt out: the guest chooses the scheme, and would otherwise choose the one that everybody on the way can read.
        scheme = pattern.scheme or "https"
        port = pattern.port or SCHEMES[scheme]
        if not self.permits(scheme, pattern.host, port):
            raise PolicyError(
                f"Policy.credentials: {scheme}://{pattern.host.in_url}:{port} is not permitted by Policy.network; add it there, or correct the key"
            )
        if not isinstance(headers, Mapping) or not headers:
            raise PolicyError(f"Policy.credentials[{key!r}] must map header names to values")
        kept: dict[str, str] = {}
        for name, value in headers.items():
            if not isinstance(name, str) or not _TOKEN.fullmatch(name) or name.lower() in FRAMING:
                raise PolicyError(f"Policy.credentials[{key!r}]: {name!r:.60} is not a header that can be added")
            if not isinstance(value, str) or not _VALUE.fullmatch(value) or value != value.strip():
                raise PolicyError(f"Policy.credentials[{key!r}]: the value of {name} is not a header's value")
            kept[name] = value
        self._credentials[scheme, pattern.host, port] = kept

    def permits(self, scheme: str, host: Host, port: int) -> bool:
        """Whether a pattern covers this. An address that is not public must be named as itself."""
        return any(pattern.covers(scheme, host, port) for pattern in self.patterns)

    def names_address(self, scheme: str, host: Host, port: int) -> bool:
        """Whether a pattern names this very address: the one way to one that is not public."""
        return any(pattern.host == host and pattern.covers(scheme, host, port) for pattern in self.patterns)

    def check(self, schemes: Iterable[str], host: Host, port: int) -> None:
        """Raise Refused unless one of `schemes` is permitted there."""
        if not any(self.permits(scheme, host, port) for scheme in schemes):
            raise Refused(f"{host.in_url}:{port} is not permitted by the network policy of this sandbox")

    def credentials(self, scheme: str, host: Host, port: int) -> Mapping[str, str]:
        """The header fields to add to a request, exactly there and nowhere else."""
        return self._credentials.get((scheme, host, port), {})


def frozen_credentials(value: Any) -> dict[str, dict[str, str]]:
    """A copy of ``Policy.credentials`` that nobody else holds. Raises PolicyError."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise PolicyError("Policy.credentials must map hosts to headers")
    for key, headers in value.items():
        if not isinstance(headers, Mapping):
            raise PolicyError(f"Policy.credentials[{key!r}] must map header names to values")
    return {key: dict(headers) for key, headers in value.items()}
