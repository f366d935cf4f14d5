"""Forms with files (multipart/form-data), cut into their parts. Source: RFC 7578, and RFC 2046, section 5.1.

Not by the library's parser of mails: it takes thirty-five bytes of memory for a byte of text and looks into parts that are mails or forms themselves, again
and again, so that a form of some megabytes could keep the server for minutes. And for the head of one part, of semicolons, a fifth of a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from safeexec.serve.http import BadRequest

_MAX_PARTS = 1000
_MAX_HEAD = 8192
_MAX_BOUNDARY = 200  # RFC 2046 has 70
_DISPOSITION = re.compile(rb"(?:\A|\r\n)content-disposition:((?:[^\r\n]|\r\n[ \t])*+)", re.IGNORECASE)
_FOLD = re.compile(rb"\r\n[ \t]+")
_KIND = re.compile(rb"[ \t]*[^ \t;=\"]++[ \t]*")
# One after the other from the beginning: a quotation without an end is looked for once.
_PARAMETER = re.compile(
    rb";[ \t]*([^ \t;=\"]++)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*+)\"|([^ \t;\"]*+))[ \t]*", re.DOTALL
)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class Part(NamedTuple):
    """One field of a form."""

    filename: str | None
    data: bytes


def parts(body: bytes, kind: str) -> Iterator[Part]:
    """The parts of a form, one after the other; `kind` is its Content-Type. Raises BadRequest where it comes to what is none."""
    boundary = _parameters(kind.encode("latin-1", "replace")).get(b"boundary", b"").rstrip()
    if not boundary or not boundary.isascii() or len(boundary) > _MAX_BOUNDARY:
        raise BadRequest("a form without a boundary")
    # As RFC 2046 has it: at the beginning of a line that holds nothing else, or it is text of the part.
    line = b"--" + re.escape(boundary) + rb"(--)?[ \t]{0,100}(?:\r\n|\Z)"
    find = re.compile(rb"\r\n" + line).search
    found = re.match(line, body) or find(body)
    for _ in range(_MAX_PARTS):
        if found is None:
            raise BadRequest("a form without an end")
        if found[1]:
            return
        start = found.end()
        head_end = body.find(b"\r\n\r\n", start - 2, start + _MAX_HEAD)
        found = find(body, head_end + 4)
        if head_end < 0 or found is None:
            raise BadRequest("a malformed form")
        yield Part(_filename(body[start:head_end]), body[head_end + 4 : found.start()])
    raise BadRequest("a form of too many parts")


def _filename(head: bytes) -> str | None:
    """What the head of a part calls its file. Raises BadRequest."""
    field = _DISPOSITION.search(head)
    if field is None:
        return None
    parameters = _parameters(_FOLD.sub(b" ", field[1]))
    plain = parameters.get(b"filename")
    charset, _, extended = parameters.get(b"filename*", b"").partition(b"'")  # RFC 8187: charset'language'text
    if charset.lower() == b"utf-8":
        plain = unquote_to_bytes(extended.partition(b"'")[2])
    return None if plain is None else plain.decode("utf-8", "surrogateescape")


def _parameters(value: bytes) -> dict[bytes, bytes]:
    """Those of a field such as ``form-data; name="x"``; of two of a name the first. Raises BadRequest."""
    found: dict[bytes, bytes] = {}
    match = _KIND.match(value)
    place = 0 if match is None else match.end()
    while (match := _PARAMETER.match(value, place)) is not None:
        text = match[3] if match[2] is None else _ESCAPED.sub(rb"\1", match[2])
        found.setdefault(match[1].lower(), text)
        place = match.end()
    if value[place:].strip(b" \t;"):
        raise BadRequest("a malformed form")
    return found
