"""HTTP/1.1 between the guest and a server: requests are read and written anew, answers are passed on.

RFC 9112. Nothing of either side is forwarded as it came but bodies, so what the two could read differently never reaches the other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from safeexec.egress import http1
from safeexec.egress.addresses import Deadline
from safeexec.egress.http1 import BadMessage, Reader
from safeexec.egress.rules import SCHEMES, Refused, normalise, split_authority
from safeexec.egress.stream import Gone, Stream
from safeexec.egress.upstream import RECEIVE, Target, Upstream, reason

if TYPE_CHECKING:
    from safeexec.egress.network import Record, StepNetwork

ABSOLUTE = re.compile(r"(https?)://([^/?#]*)([^#]*)\Z", re.IGNORECASE)
"""The address of a request in absolute form: scheme, authority, and the rest without its fragment."""
_FORBIDDEN = frozenset({"CONNECT", "TRACE", "TRACK"})  # TRACE sends the request back, credentials included


class Failed(Exception):
    """A request cannot be answered by its server: `status` is what the guest gets instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Exchanges:
    """The requests on one connection of the guest, one after another."""

    def __init__(self, stream: Stream, step: StepNetwork, upstream: Upstream) -> None:
        self._stream = stream
        self._step = step
        self._upstream = upstream
        self._used = False
        self.record: Record | None = None
        """The entry of the log that is open: of the connection, then of the request on it."""

    def serve(self, target: Target, reader: Reader, request: http1.Request | None) -> bool:
        """One request and its answer; whether another may follow."""
        if request is None:
            try:
                lines = reader.head()
                if lines is None:
                    return False
                request = http1.read_request(lines)
            except BadMessage as error:
                broken = self.record or self._step.record("", "", target.host.name, target.port)
                broken.finish(str(error), refused=True)
                self.answer(400, str(error), "http_request_error")
                return False
        deadline = Deadline(self._step.limits.tool_time)
        url = f"{target.scheme}://{target.authority}{request.target}" if request.target[:1] == "/" else request.target
        record = self.record
        if record is None:
            record = self.record = self._step.record(request.method, url, target.host.name, target.port)
        else:  # that of the connection: this is what it was made for
            self._step.rename(record, request.method, url)
        answered = _Answered()
        try:
            self._step.admit()
            path = _path(request, target)
            framing = http1.request_framing(request.fields)
            self._forward(target, request, path, framing, reader, record, deadline)
            keep = self._pass_on(target, request, record, deadline, answered)
        except (Refused, BadMessage) as error:
            record.finish(str(error), refused=True)
            if not answered:
                self.answer(403 if isinstance(error, Refused) else 400, str(error), "http_request_denied")
            return False
        except Failed as error:
            record.finish(str(error))
            if not answered:
                self.answer(error.status, str(error), "http_protocol_error")
            return False
        except TimeoutError:
            record.finish("the request took too long (Limits.tool_time)")
            if not answered:
                self.answer(504, "the request took too long (Limits.tool_time)", "http_response_timeout")
            return False
        except (OSError, EOFError) as error:
            record.finish(f"{type(error).__name__}: {reason(error)}")
            if not answered:
                self.answer(502, f"the server ended the connection: {reason(error)}", "connection_terminated")
            return False
        except Gone:
            record.finish("abandoned")
            raise
        record.finish()
        self.record = None
        return keep

    def _forward(
        self, target: Target, request: http1.Request, path: str, framing: http1.Framing, reader: Reader, record: Record, deadline: Deadline
    ) -> None:  # fmt: skip
        """Send the request, written anew."""
        rules = self._step.rules
        added = rules.credentials(target.scheme, target.host, target.port)
        found = http1.end_to_end(request.fields, {name.lower() for name in added})
        found.insert(0, (b"Host", target.authority.encode()))
        found += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in added.items()]
        if framing.chunked:
            found.append((b"Transfer-Encoding", b"chunked"))
        elif framing.length or http1.values(request.fields, b"content-length"):
            found.append((b"Content-Length", b"%d" % (framing.length or 0)))
        if any(value.lower() == b"100-continue" for value in http1.values(request.fields, b"expect")):
            self._stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._step.room("sent")
        self._step.room("received")
        self._upstream.ensure_alive(target, deadline, self._used)
        self._used = True
        data = http1.head(b"%b %b HTTP/1.1" % (request.method.encode(), path.encode("latin-1")), found)
        for piece in http1.body(reader, framing):
            data += http1.chunk(piece) if framing.chunked else piece
            if len(data) >= http1.PIECE or not reader.buffered:
                self._send(target, data, record, deadline)
                data = b""
        if framing.chunked:
            data += http1.chunk(b"")
        if data:
            self._send(target, data, record, deadline)

    def _send(self, target: Target, data: bytes, record: Record, deadline: Deadline) -> None:
        self._step.charge(record, "sent", len(data))
        sock = target.sock
        assert sock is not None
        with self._step.busy():
            sock.settimeout(deadline.timeout())
            try:
                sock.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                return  # a server may answer before it has read everything, and hang up; its answer says why

    def _pass_on(
        self, target: Target, request: http1.Request, record: Record, deadline: Deadline, answered: _Answered
    ) -> bool:
        """Read the answer and hand it to the guest; whether the connection goes on."""
        sock = target.sock
        assert sock is not None

        def receive() -> bytes:
            # Asked for no more than is left: a server that never ends costs the limit and not a byte more.
            most = min(RECEIVE, self._step.room("received"))
            with self._step.busy():
                sock.settimeout(deadline.timeout())
                data = sock.recv(most)
            self._step.charge(record, "received", len(data))
            return data

        reader = Reader(receive)
        try:
            for _ in range(20):
                lines = reader.head()
                if lines is None:
                    raise Failed(502, "the server closed the connection without an answer")
                response = http1.read_response(lines)
                if response.status >= 200:
                    break
                if response.status == 101:
                    raise Failed(502, "the server wants another protocol than HTTP")
            else:
                raise Failed(502, "the server sends interim answers only")
            framing = http1.response_framing(response.fields, request.method, response.status)
        except BadMessage as error:
            raise Failed(502, f"the server's answer is not HTTP: {error}") from None
        record.status = response.status
        return self._pass_body(target, request, response, framing, reader, answered)

    def _pass_body(
        self, target: Target, request: http1.Request, response: http1.Response, framing: http1.Framing, reader: Reader, answered: _Answered
    ) -> bool:  # fmt: skip
        found = http1.end_to_end(response.fields)
        bodiless = framing.length == 0 and not framing.chunked
        keep = http1.keeps_alive(request.fields, request.minor)
        chunked = not bodiless and framing.length is None and request.minor == 1
        if chunked:
            found.append((b"Transfer-Encoding", b"chunked"))
        elif framing.length is None:
            keep = False
        else:
            length = http1.values(response.fields, b"content-length")
            if framing.length or (length and response.status not in (204,) and length[0].isdigit()):
                found.append((b"Content-Length", b"%d" % framing.length if framing.length else length[0]))
            elif response.status not in (204, 304) and request.method != "HEAD":
                found.append((b"Content-Length", b"0"))
        if not keep:
            found.append((b"Connection", b"close"))
        elif request.minor == 0:
            found.append((b"Connection", b"keep-alive"))
        data = http1.head(b"HTTP/1.1 %d %b" % (response.status, response.reason), found)
        answered.begun = True
        try:
            for piece in http1.body(reader, framing):
                data += http1.chunk(piece) if chunked else piece
                if len(data) >= http1.PIECE or not reader.buffered:
                    self._stream.write(data)
                    data = b""
        except (BadMessage, EOFError, OSError, Refused) as error:
            self._stream.write(data)  # as far as it came; the end of the connection then says that it is not all
            if isinstance(error, BadMessage):
                raise Failed(502, f"the server's answer is not HTTP: {error}") from None
            raise
        if chunked:
            data += http1.chunk(b"")
        if data:
            self._stream.write(data)
        ends = framing.length is None and not framing.chunked
        if ends or reader.buffered or not http1.keeps_alive(response.fields, response.minor):
            # Also for bytes behind the answer: they must not become the answer to the next request.
            self._upstream.drop(target)
        return keep

    def answer(self, status: int, message: str, error: str) -> None:
        """An answer of the host's own."""
        text = (message + "\n").encode("utf-8", "replace")
        reasons = {400: b"Bad Request", 403: b"Forbidden", 502: b"Bad Gateway", 504: b"Gateway Timeout"}
        found = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", b"%d" % len(text)),
            (b"Proxy-Status", b"safeexec; error=%b" % error.encode()),
            (b"Connection", b"close"),
        ]
        self._stream.write(http1.head(b"HTTP/1.1 %d %b" % (status, reasons[status]), found) + text)


class _Answered:
    """Whether bytes of an answer went to the guest: after them none of the host's own may follow."""

    begun = False

    def __bool__(self) -> bool:
        return self.begun


def _path(request: http1.Request, target: Target) -> str:
    """The path to ask for: the one target's, however the guest spelt it. Raises Refused."""
    if request.method.upper() in _FORBIDDEN:
        raise Refused(f"the method {request.method} is not served")
    here = (target.scheme, target.host, target.port)
    for value in http1.values(request.fields, b"host"):
        # A Host that names another site would reach it, behind a front that is permitted.
        if _place(target.scheme, value.decode("latin-1")) != here:
            raise Refused(f"a Host field that is not the host connected to, {target.authority}")
    if len(http1.values(request.fields, b"host")) > 1:
        raise Refused("two Host fields")
    if request.target.startswith("/"):
        return request.target
    if request.target == "*" and request.method == "OPTIONS":
        return "*"
    match = ABSOLUTE.match(request.target)
    if match is None or _place(match[1].lower(), match[2]) != here:
        raise Refused(f"an address that is not on {target.authority}")
    path: str = match[3]
    return path if path.startswith("/") else "/" + path


def _place(scheme: str, authority: str) -> Any:
    try:
        name, port = split_authority(authority)
        return scheme, normalise(name), SCHEMES[scheme] if port is None else port
    except ValueError:
        return None
