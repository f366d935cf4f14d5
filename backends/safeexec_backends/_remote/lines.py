"""Bytes as numbered lines of text, for streams that deliver text, in pieces of any size, perhaps twice.

A line is ``number kind length base64``. Numbers count up from 1: a line that comes again is dropped, one that is missing is noticed. The length tells a
line that was cut from a whole one, so a sender may repeat everything it is not sure about. Kinds: ``d`` data, ``i`` interrupt, ``h`` hello,
``x`` the guest's end. Used by both ends; CPython 3.9 and later.
"""

import base64
import binascii
from typing import Iterator, Tuple, Union

CHUNK = 48 * 1024
"""Bytes in one line at most."""
MAX_LINE = 4 * CHUNK // 3 + 64
WINDOW = 4 * 2**20
"""Bytes that may wait at the relay for a guest that does not read."""


class LinesBroken(ValueError):
    """A line is too long, or one is missing."""


class Sender:
    """Numbers lines."""

    def __init__(self) -> None:
        self._number = 0

    def line(self, kind: str, body: Union[bytes, memoryview] = b"") -> bytes:
        """One line. It begins with a line break as well, which ends whatever half a line was sent before."""
        self._number += 1
        text = base64.b64encode(body)
        return b"\n%d %s %d %s\n" % (self._number, kind.encode(), len(text), text)


class Receiver:
    """Puts lines together from pieces and takes each once."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> Iterator[Tuple[str, bytes]]:
        """The lines that `data` completes, as (kind, body). Raises LinesBroken."""
        # Only the last piece can be incomplete; it is searched again, but it is bounded.
        pieces = data.split(b"\n")
        self._rest += pieces[0]
        for piece in pieces[1:]:
            line = bytes(self._rest)
            self._rest[:] = piece
            if line and len(line) <= MAX_LINE:
                item = self._take(line)
                if item is not None:
                    yield item
        # A sender that never ends its line must not fill the memory.
        if len(self._rest) > MAX_LINE:
            raise LinesBroken("a line without end")

    def _take(self, line: bytes) -> Union[Tuple[str, bytes], None]:
        parts = line.split(b" ")
        if len(parts) != 4 or not (
            parts[0].isdigit() and len(parts[0]) < 16 and parts[2].isdigit() and len(parts[2]) < 8
        ):
            return None
        number, kind, length, text = int(parts[0]), parts[1], int(parts[2]), parts[3]
        if len(text) != length or kind not in (b"d", b"i", b"h", b"x"):
            return None
        if number <= self._seen:
            return None
        if number != self._seen + 1:
            raise LinesBroken("line {} is missing".format(self._seen + 1))
        try:
            body = binascii.a2b_base64(text)
        except binascii.Error:
            return None
        if len(body) != 3 * length // 4 - text[-2:].count(b"="):  # the decoder passes over what is not base64
            return None
        self._seen = number
        return kind.decode(), body
