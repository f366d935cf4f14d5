"""Bytes as numbered records of text, for streams that deliver text, in pieces of any size, with line breaks put in or taken out, perhaps twice.

A record is ``~number kind length base64~``; line breaks mean nothing. Numbers count up from 1: a record that comes again is dropped, one that is missing is
noticed. The length tells a record that was cut from a whole one, so a sender may repeat everything it is not sure about. Kinds: ``d`` data, ``i`` interrupt,
``r`` resume behind the record whose number is the body, ``h`` hello, ``x`` the guest's end. Used by both ends; CPython 3.9 and later.
"""

import base64
import binascii
from typing import Iterator, Tuple, Union

CHUNK = 48 * 1024
"""Bytes in one record at most."""
ROW = 16 * 1024
"""Characters between line breaks: vendors that read their streams by line have limits on lines."""
MAX_RECORD = 4 * CHUNK // 3 + 64
WINDOW = 4 * 2**20
"""Bytes that may wait at the relay for a guest that does not read."""


HISTORY = 4 * 2**20
"""Bytes that the relay keeps of what it sent, for a host whose connection broke."""


class LinesBroken(ValueError):
    """A record is too long, or one is missing."""


class Sender:
    """Numbers records."""

    def __init__(self) -> None:
        self.number = 0
        """Of the last record."""

    def line(self, kind: str, body: Union[bytes, memoryview] = b"") -> bytes:
        """One record. The mark it begins with ends whatever half a record was sent before."""
        self.number += 1
        text = base64.b64encode(body)
        head = b"~%d %s %d " % (self.number, kind.encode(), len(text))
        if len(text) <= ROW:
            return head + text + b"~\n"
        rows = [text[at : at + ROW] for at in range(0, len(text), ROW)]
        return head + b"\n".join(rows) + b"~\n"


class Receiver:
    """Puts records together from pieces and takes each once."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._resuming = False
        self.seen = 0
        """Number of the last record that was taken."""

    def resume(self) -> None:
        """The stream broke and goes on somewhere behind: pass over what comes until the next record is sent again."""
        self._rest.clear()
        self._resuming = True

    def feed(self, data: bytes) -> Iterator[Tuple[str, bytes]]:
        """The records that `data` completes, as (kind, body). Raises LinesBroken."""
        pieces = data.translate(None, b"\r\n").split(b"~")
        self._rest += pieces[0]
        for piece in pieces[1:]:
            record = bytes(self._rest)
            self._rest[:] = piece
            if record and len(record) <= MAX_RECORD:
                item = self._take(record)
                if item is not None:
                    yield item
        # A sender that never ends its record must not fill the memory.
        if len(self._rest) > MAX_RECORD:
            raise LinesBroken("a record without end")

    def _take(self, record: bytes) -> Union[Tuple[str, bytes], None]:
        parts = record.split(b" ")
        if len(parts) != 4 or not (
            parts[0].isdigit() and len(parts[0]) < 16 and parts[2].isdigit() and len(parts[2]) < 8
        ):
            return None
        number, kind, length, text = int(parts[0]), parts[1], int(parts[2]), parts[3]
        if len(text) != length or kind not in (b"d", b"i", b"r", b"h", b"x"):
            return None
        if number <= self.seen or (self._resuming and number != self.seen + 1):
            return None
        if number != self.seen + 1:
            raise LinesBroken("record {} is missing".format(self.seen + 1))
        try:
            body = binascii.a2b_base64(text)
        except binascii.Error:
            return None
        if len(body) != 3 * length // 4 - text[-2:].count(b"="):  # the decoder passes over what is not base64
            return None
        self.seen = number
        self._resuming = False
        return kind.decode(), body
