"""The Connect protocol, JSON codec, as much of it as E2B's clients use.

Unary calls are plain JSON. Streams are envelopes: one byte of flags, a big-endian u32 length, a JSON message; flag 2 marks the last, which carries the
stream's error, if any (connectrpc.com/docs/protocol).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from safeexec.serve.http import BadRequest, Request, Response, json_response, parsed

_STATUS = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "resource_exhausted": 429,
    "internal": 500,
    "unimplemented": 501,
    "unavailable": 503,
}
_ENVELOPE = struct.Struct(">BI")
_LAST = 2


class RpcError(Exception):
    """A call failed with one of Connect's codes, such as ``not_found``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def response(self) -> Response:
        """As the answer to a unary call."""
        return json_response({"code": self.code, "message": str(self)}, _STATUS.get(self.code, 500))


def envelope(message: Any, flags: int = 0) -> bytes:
    """One message of a stream."""
    text = json.dumps(message).encode()
    return _ENVELOPE.pack(flags, len(text)) + text


def messages(body: bytes) -> Iterator[dict[str, Any]]:
    """The messages of a request's stream. Raises BadRequest."""
    at = 0
    while at < len(body):
        if len(body) - at < _ENVELOPE.size:
            raise BadRequest("half an envelope")
        flags, length = _ENVELOPE.unpack_from(body, at)
        at += _ENVELOPE.size
        if flags or length > len(body) - at:
            raise BadRequest("a malformed envelope")
        message = parsed(body[at : at + length], "a message")
        if type(message) is not dict:
            raise BadRequest("a message that is not an object")
        yield message
        at += length


def single(request: Request) -> dict[str, Any]:
    """The one message of a call that streams its answer. Raises BadRequest."""
    found = list(islice(messages(request.body), 2))  # millions of empty ones fit into a body
    if len(found) != 1:
        raise BadRequest("one message was expected")
    return found[0]


def stream(events: Iterable[Any], over: Callable[[], object] = lambda: None) -> Response:
    """A streaming answer. An RpcError that `events` raises becomes the stream's error. `over` is called in the end, also where nothing was sent."""

    def pieces() -> Iterator[bytes]:
        try:
            for event in events:
                yield envelope(event)
            yield envelope({}, _LAST)
        except RpcError as error:
            yield envelope({"error": {"code": error.code, "message": str(error)}}, _LAST)

    return Response(200, pieces(), {"Content-Type": "application/connect+json"}, over)
