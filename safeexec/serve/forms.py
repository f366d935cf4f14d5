"""Forms with files (multipart/form-data), cut into their parts. Source: RFC 7578, and RFC 2046, section 5.1.

Not by the library's parser of mails: it takes thirty-five bytes of memory for a byte of text and looks into parts that are mails or forms themselves, again
and again, so that a form of some megabytes could keep the server for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from typing import NamedTuple

from safeexec.serve.http import BadRequest

_MAX_PARTS = 1000
_MAX_HEAD = 8192
_MAX_BOUNDARY = 200  # RFC 2046 has 70


class Part(NamedTuple):
    """One field of a form."""

    filename: str | None
    data: bytes


def parts(body: bytes, kind: str) -> Iterator[Part]:
    """The parts of a form, one after the other; `kind` is its Content-Type. Raises BadRequest where it comes to what is none."""
    head = EmailMessage(policy=HTTP)
    head["Content-Type"] = kind
    boundary = head.get_boundary()
    if not boundary or not boundary.isascii() or len(boundary) > _MAX_BOUNDARY:
        raise BadRequest("a form without a boundary")
    # As RFC 2046 has it: at the beginning of a line that holds nothing else, or it is text of the part.
    line = b"--" + re.escape(boundary.encode()) + rb"(--)?[ \t]{0,100}(?:\r\n|\Z)"
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
        fields = BytesParser(policy=HTTP).parsebytes(body[start : head_end + 4], headersonly=True)
        yield Part(fields.get_filename(), body[head_end + 4 : found.start()])
    raise BadRequest("a form of too many parts")
