"""HTTP/1.1 messages: heads read strictly, and bodies by their framing. Source: RFC 9112.

Both directions use it. A request comes from code in a sandbox: whatever two readers could understand differently (a second length, a folded line, a
stray carriage return) is refused, because the next reader is somebody's server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from safeexec.egress.rules import FRAMING

MAX_HEAD = 64 * 1024
MAX_FIELDS = 200
_MAX_CHUNK_LINE = 1024
_MAX_CHUNK_DIGITS = 15
PIECE = 64 * 1024

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")

Field = tuple[bytes, bytes]
Read = Callable[[], bytes]
"""Gives the next bytes, b"" at the end of the stream."""


class BadMessage(Exception):
    """The bytes are not a message that can be passed on."""


class Reader:
    """Bytes of a stream, with a buffer for what was read too far."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._buffer = bytearray()
        self._ended = False

    @property
    def buffered(self) -> bool:
        """Whether bytes were read that nobody took yet."""
        return bool(self._buffer)

    def _fill(self) -> bool:
        if self._ended:
            return False
        data = self._read()
        if not data:
            self._ended = True
            return False
        self._buffer += data
        return True

    def peek(self, count: int) -> bytes:
        """The next `count` bytes without taking them; fewer at the end."""
        while len(self._buffer) < count and self._fill():
            pass
        return bytes(self._buffer[:count])

    def line(self, limit: int) -> bytes:
        """The next line without its end. Raises BadMessage for one that is too long, EOFError at the end."""
        start = 0
        while True:
            end = self._buffer.find(b"\n", start)
            if end >= 0:
                break
            if len(self._buffer) > limit:
                raise BadMessage("a line that is too long")
            start = len(self._buffer)
            if not self._fill():
                raise EOFError
        if end > limit:
            raise BadMessage("a line that is too long")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line[:-1] if line.endswith(b"\r") else line

    def head(self) -> list[bytes] | None:
        """The lines of a head; None when the stream ended before its first byte. Raises BadMessage, EOFError amid one."""
        if not self.peek(1):
            return None
        lines: list[bytes] = []
        left = MAX_HEAD
        while True:
            line = self.line(left)
            left -= len(line) + 2
            if left < 0 or len(lines) > MAX_FIELDS:
                raise BadMessage("a head that is too large")
            if not line:
                if lines:
                    return lines
                continue  # an empty line before a request line is skipped: RFC 9112, section 2.2
            lines.append(line)

    def take(self, most: int) -> bytes:
        """Up to `most` of the next bytes, at least one; b"" at the end."""
        if not self._buffer and not self._fill():
            return b""
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        return data


class Framing(NamedTuple):
    """Where a body ends: after `length` bytes, by chunks, or (both None and False) with the connection."""

    length: int | None
    chunked: bool


def fields(lines: Iterable[bytes]) -> list[Field]:
    """The fields of a head, its first line left out. Raises BadMessage."""
    found: list[Field] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        # No white space before the colon, no folded lines, no control characters: each has carried a request past somebody's reader.
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadMessage("a malformed header field")
        found.append((name, value))
    return found


def values(found: Iterable[Field], name: bytes) -> list[bytes]:
    """All values of one field."""
    return [value for key, value in found if key.lower() == name]


def _length(found: list[Field], lenient: bool) -> int | None:
    given = values(found, b"content-length")
    if not given:
        return None
    if lenient:  # servers do repeat it, and identical values are one
        given = list({part.strip() for value in given for part in value.split(b",")})
    if len(given) != 1 or not given[0].isdigit() or len(given[0]) > 18:
        raise BadMessage("a malformed Content-Length")
    return int(given[0])


def request_framing(found: list[Field]) -> Framing:
    """How a request's body is framed. Raises BadMessage for anything that could be read in two ways."""
    length = _length(found, lenient=False)
    encodings = values(found, b"transfer-encoding")
    if encodings:
        if length is not None or len(encodings) != 1 or encodings[0].lower() != b"chunked":
            raise BadMessage("a Transfer-Encoding that is not plain 'chunked', or beside a Content-Length")
        return Framing(None, True)
    return Framing(length or 0, False)


def response_framing(found: list[Field], method: str, status: int) -> Framing:
    """How a response's body is framed. Raises BadMessage."""
    if method == "HEAD" or status in (204, 304) or status < 200:
        return Framing(0, False)
    encodings = values(found, b"transfer-encoding")
    if encodings:
        if encodings[-1].lower() != b"chunked" or len(encodings) != 1:
            raise BadMessage("a Transfer-Encoding other than chunked")
        return Framing(None, True)
    return Framing(_length(found, lenient=True), False)


class Request(NamedTuple):
    """The head of a request, as the guest sent it."""

    method: str
    target: str
    minor: int
    fields: list[Field]


def read_request(lines: list[bytes]) -> Request:
    """Parse a request's head. Raises BadMessage."""
    parts = lines[0].split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadMessage("a malformed request line")
    method, target, version = parts
    if not _TOKEN.fullmatch(method) or len(method) > 40 or not _TARGET.fullmatch(target):
        raise BadMessage("a malformed request line")
    return Request(method.decode("ascii"), target.decode("latin-1"), int(version[-1:]), fields(lines[1:]))


class Response(NamedTuple):
    """The head of a response, as a server sent it."""

    status: int
    reason: bytes
    minor: int
    fields: list[Field]


def read_response(lines: list[bytes]) -> Response:
    """Parse a response's head. Raises BadMessage."""
    match = _STATUS.fullmatch(lines[0])
    if match is None:
        raise BadMessage("a malformed status line")
    joined: list[bytes] = []
    for line in lines[1:]:
        # Servers still fold: RFC 9112, section 5.2, has a proxy join the lines.
        if line[:1] in (b" ", b"\t") and joined:
            joined[-1] += b" " + line.strip()
        else:
            joined.append(line)
    return Response(int(match[2]), match[3] or b"", int(match[1]), fields(joined))


def end_to_end(found: list[Field], drop: Iterable[str] = ()) -> list[Field]:
    """The fields that are passed on: not those of the connection, nor those that Connection names, nor `drop` (lower case)."""
    gone = {name.encode() for name in (*FRAMING, *drop)}
    for value in values(found, b"connection"):
        gone |= {token.strip().lower() for token in value.split(b",")}
    return [(name, value) for name, value in found if name.lower() not in gone]


def keeps_alive(found: list[Field], minor: int) -> bool:
    """Whether the sender means to keep the connection."""
    tokens = {token.strip().lower() for value in values(found, b"connection") for token in value.split(b",")}
    return b"close" not in tokens and (minor == 1 or b"keep-alive" in tokens)


def head(first: bytes, found: Iterable[Field]) -> bytes:
    """The bytes of a head."""
    return b"".join(
        (first, b"\r\n", *(part for name, value in found for part in (name, b": ", value, b"\r\n")), b"\r\n")
    )


def body(reader: Reader, framing: Framing) -> Iterator[bytes]:
    """The body's pieces, without its framing. Raises BadMessage, EOFError when it is cut short."""
    if framing.chunked:
        yield from _chunks(reader)
        return
    left = framing.length
    while left is None or left > 0:
        piece = reader.take(PIECE if left is None else min(PIECE, left))
        if not piece:
            if left is None:
                return
            raise EOFError
        if left is not None:
            left -= len(piece)
        yield piece


def _chunks(reader: Reader) -> Iterator[bytes]:
    while True:
        digits = reader.line(_MAX_CHUNK_LINE).partition(b";")[0].strip(b" \t")
        if not digits or len(digits) > _MAX_CHUNK_DIGITS or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadMessage("a malformed chunk")
        left = int(digits, 16)
        if not left:
            break
        while left:
            piece = reader.take(min(PIECE, left))
            if not piece:
                raise EOFError
            left -= len(piece)
            yield piece
        if reader.line(2):
            raise BadMessage("a malformed chunk")
    for _ in range(MAX_FIELDS):  # trailers are read and left out
        if not reader.line(MAX_HEAD):
            return
    raise BadMessage("endless trailers")


def chunk(data: bytes) -> bytes:
    """One piece of a chunked body; for b"" its end."""
    return b"%x\r\n%b\r\n" % (len(data), data)
