"""The server name in a TLS ClientHello. Source: RFC 8446, section 4.1.2, and RFC 6066, section 3."""

from __future__ import annotations

from safeexec.egress.http1 import BadMessage, Reader

_MAX_HELLO = 32 * 1024


def server_name(reader: Reader) -> str | None:
    """The name that the handshake asks for, without taking its bytes; None when it names none. Raises BadMessage."""
    hello = bytearray()
    wanted, start = 4, 0
    while len(hello) < wanted:
        head = reader.peek(start + 5)[start:]
        if len(head) < 5 or head[0] != 22 or head[1] != 3:
            raise BadMessage("not a TLS handshake")
        size = int.from_bytes(head[3:5], "big")
        if not size or start + size > _MAX_HELLO:
            raise BadMessage("not a TLS handshake")
        record = reader.peek(start + 5 + size)[start + 5 :]
        if len(record) < size:
            raise BadMessage("a TLS handshake that is cut short")
        hello += record
        start += 5 + size
        if len(hello) >= 4:
            if hello[0] != 1:
                raise BadMessage("not a TLS handshake")
            wanted = 4 + int.from_bytes(hello[1:4], "big")
    try:
        return _name(_Cursor(bytes(hello[4:wanted])))
    except IndexError:
        raise BadMessage("a malformed TLS handshake") from None


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise IndexError
        self._at += count
        return self._data[self._at - count : self._at]

    def vector(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width), "big"))

    @property
    def more(self) -> bool:
        return self._at < len(self._data)


def _name(hello: _Cursor) -> str | None:
    hello.take(2 + 32)
    hello.vector(1)
    hello.vector(2)
    hello.vector(1)
    extensions = _Cursor(hello.vector(2)) if hello.more else _Cursor(b"")
    found: list[str] = []
    while extensions.more:
        kind = int.from_bytes(extensions.take(2), "big")
        body = _Cursor(extensions.vector(2))
        if kind == 0:
            names = _Cursor(body.vector(2))
            while names.more:
                if names.take(1) != b"\0":
                    raise BadMessage("a malformed TLS handshake")
                found.append(names.vector(2).decode("ascii", "replace"))
    if len(found) > 1:
        raise BadMessage("a TLS handshake with two names")
    return found[0] if found else None
