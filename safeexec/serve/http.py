"""A small HTTP/1.1 server: one thread for each connection, bodies whole, responses whole or streamed."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from safeexec import wire
from safeexec.egress import http1
from safeexec.serve.bodies import Bodies, Full

MAX_BODY = 64 * 2**20
MAX_BODIES = 16 * MAX_BODY
MAX_CONNECTIONS = 512
"""At once: each holds a thread. For one more the oldest is closed of those whose client has shown no key; where there is none, the new one, unanswered."""
_MAX_TRAILERS = 100
_LINE = 1024
_ONCE = frozenset(
    "host content-type content-length transfer-encoding x-api-key x-access-token e2b-traffic-access-token e2b-sandbox-id e2b-sandbox-port "
    "idempotency-key".split()
)
"""Fields that say who asks, and for what: of two a server before this one may have looked at the other."""


class Hangup(Exception):
    """Raised by an application or its stream: close the connection without another word."""


@dataclass
class Request:
    """One request; header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    silent: Callable[[], bool] = lambda: False
    """Whether the client will say no more: it hung up, or it only waits for the answer. Writing to it tells which."""

    def json(self) -> Any:
        """The body as JSON, ``{}`` if empty. Raises BadRequest."""
        return parsed(self.body, "the body")

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object. Raises BadRequest."""
        data = self.json()
        if type(data) is not dict:
            raise BadRequest("the body is not a JSON object")
        return data


class BadRequest(Exception):
    """The client's mistake; answered with `status`."""

    status = 400


def parsed(data: bytes, what: str) -> Any:
    """JSON of a client, ``{}`` if empty. Raises BadRequest."""
    try:
        # Before anything is built of it: sixty-four megabytes of `[],[],` would be gigabytes.
        wire.check_json(data)
        return json.loads(data.decode() or "{}")
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{what} is not JSON: {error}") from None


class TooMany(BadRequest):
    """The client has as many of something as it may have."""

    status = 429


@dataclass
class Response:
    """What to answer: a body, or pieces of one that are sent as they come."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)
    over: Callable[[], object] = lambda: None
    """Called once when nothing of it will be sent any more, also where its pieces were never asked for."""


def json_response(data: Any, status: int = 200) -> Response:
    """JSON as a response."""
    return Response(status, json.dumps(data).encode(), {"Content-Type": "application/json"})


App = Callable[[Request], Response]
"""What answers requests. Where it has an `admits`, that is asked with the path and the headers before a body is read: strangers' are not."""


class Server:
    """Serves `app` on `host`:`port` in daemon threads; port 0 takes a free one, see `url`."""

    def __init__(self, app: App, host: str = "127.0.0.1", port: int = 0) -> None:
        self._http = _HTTPServer((host, port), _handler(app))
        self.url = f"http://{host}:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.1,), name="safeexec-serve", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and close every connection."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._http.hang_up()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connections: dict[socket.socket, bool] = {}
        """As they came; whether their client has shown a key."""

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._connections) >= MAX_CONNECTIONS and not self._end_a_strangers():
            self.shutdown_request(request)
            return
        self._connections[request] = False
        super().process_request(request, client_address)

    def _end_a_strangers(self) -> bool:
        """Make room: whoever connects and says nothing must not keep those out who have a key. Whether there is any now."""
        for connection, known in list(self._connections.items()):
            if not known and self._connections.pop(connection, None) is False:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # its thread sees that, and ends
                return True
        return len(self._connections) < MAX_CONNECTIONS

    def knows(self, connection: Any) -> None:
        """The client of a connection has shown a key."""
        if connection in self._connections:
            self._connections[connection] = True

    def shutdown_request(self, request: Any) -> None:
        self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        import sys

        if not isinstance(
            sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1], ConnectionError | TimeoutError
        ):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def _number(text: str, base: int) -> int:
    """A length: digits only, where int() would take signs, spaces, prefixes and underscores. Raises ValueError."""
    if not text or len(text) > 12 or not set(text.lower()) <= set("0123456789abcdef"[:base]):
        raise ValueError("not a length")
    return int(text, base)


def _handler(app: App) -> type[BaseHTTPRequestHandler]:
    admits: Callable[[str, Mapping[str, str]], bool] = getattr(app, "admits", lambda path, headers: True)

    bodies = Bodies(MAX_BODIES)

    class Handler(BaseHTTPRequestHandler):
        raw_requestline: bytes
        taken = 0
        """Bytes of this request's body, as far as there is room for them."""
        server: _HTTPServer
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "safeexec", ""  # strangers need not know which Python has which holes
        disable_nagle_algorithm = True  # 40 ms for each small answer otherwise
        wbufsize = -1  # head and body in one packet
        timeout = 300  # a client that says nothing for so long must not hold a thread

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def parse_request(self) -> bool:
            # The library's parser takes what a server before this one may read otherwise, and one request would be two: lines that end in a carriage return
            # alone, fields with a blank before the colon, lines that are no field, behind which it reads none.
            self.command, self.request_version, self.close_connection = None, self.protocol_version, True  # type: ignore[assignment]
            self.requestline = ""  # as the two above: for an answer to what is no request
            try:
                lines = self._head()
                found = [name.lower().decode() for name, _ in http1.read_request(lines).fields]
                if any(found.count(name) > 1 for name in _ONCE):
                    raise http1.BadMessage("a field that may be there once")
            except EOFError:
                return False
            except http1.BadMessage as error:
                self.send_error(400, f"Bad request: {error}")
                return False
            stream, self.rfile = self.rfile, BytesIO(b"\r\n".join([*lines[1:], b"", b""]))
            try:
                return super().parse_request()
            finally:
                self.rfile = stream

        def _head(self) -> list[bytes]:
            """The lines of a request's head. Raises BadMessage, EOFError."""
            lines: list[bytes] = []
            line, left = self.raw_requestline, http1.MAX_HEAD
            while line != b"\r\n" or not lines:
                left -= len(line)
                if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
                    if not line:
                        raise EOFError
                    raise http1.BadMessage("a line without a proper end")
                if left < 0 or len(lines) > http1.MAX_FIELDS:
                    raise http1.BadMessage("a head that is too large")
                lines.append(line[:-2])
                line = self.rfile.readline(http1.MAX_HEAD)
            return lines

        def _serve(self) -> None:
            try:
                response = self._respond()
                try:
                    self._answer(response)
                finally:
                    response.over()
            except (Hangup, ConnectionError):
                self.close_connection = True
            finally:
                bodies.give(self.taken)
                self.taken = 0

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

        def _respond(self) -> Response:
            url = urlsplit(self.path)
            path = unquote(url.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                length = self._length()
                if length is not None and length > MAX_BODY:
                    return self._refusal(413, "the body is too large")
                known = admits(path, headers)
                if known:
                    self.server.knows(self.connection)
                if length != 0 and not known:
                    # Unread: sixty-four megabytes for each connection are not for those who have no key.
                    self.close_connection = True
                    body: bytes | None = b""
                else:
                    body = self._chunks() if length is None else self._read(length)
            except ValueError as error:
                return self._refusal(400, f"a malformed body: {error}")
            except Full:
                return self._refusal(503, "there are too many bodies at once")
            if body is None:
                return self._refusal(413, "the body is too large")
            if length and not self.close_connection and len(body) < length:
                raise ConnectionError  # half a file must not be taken for a whole one
            query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
            try:
                return app(Request(self.command, path, query, headers, body, self._silent))
            except BadRequest as error:
                return json_response({"code": error.status, "message": str(error)}, error.status)
            except (Hangup, ConnectionError):
                raise
            except Exception:
                # What went wrong is for whoever runs this. A client hears that it was not its fault, and nothing of paths and lines.
                self.server.handle_error(self.request, self.client_address)
                return json_response({"code": 500, "message": "the server failed"}, 500)

        def _silent(self) -> bool:
            # First whether there is anything at all: on a socket that has a timeout, recv() waits for it whatever its flags say.
            look = select.poll()
            look.register(self.connection, select.POLLIN)
            try:
                return bool(look.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)
            except OSError:
                return True

        def _refusal(self, status: int, message: str) -> Response:
            self.close_connection = True  # what follows on this connection cannot be told from the body
            return json_response({"code": status, "message": message}, status)

        def _length(self) -> int | None:
            """Bytes of the body, None where it comes in chunks. Raises ValueError for what a server before this one could read otherwise."""
            lengths = self.headers.get_all("Content-Length") or []
            encodings = self.headers.get_all("Transfer-Encoding") or []
            if not encodings:
                if len(lengths) > 1:
                    raise ValueError("two lengths")
                return _number(lengths[0], 10) if lengths else 0
            if (
                self.request_version != "HTTP/1.1"
                or lengths
                or [encoding.strip().lower() for encoding in encodings] != ["chunked"]
            ):
                raise ValueError(
                    "a Transfer-Encoding that is not plain 'chunked', or beside a Content-Length, or of HTTP/1.0"
                )
            return None

        def _read(self, size: int) -> bytes:
            bodies.take(size)
            self.taken += size
            return self.rfile.read(size)

        def _line(self) -> bytes:
            line = self.rfile.readline(_LINE)
            # What ends in less is no end to others: a request might be hidden behind it.
            if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
                raise ValueError("a line without a proper end")
            return line[:-2]

        def _chunks(self) -> bytes | None:
            """The body, None if it is too large. Raises ValueError."""
            data = bytearray()
            while True:
                size = _number(self._line().split(b";")[0].strip(b" \t").decode("latin-1"), 16)
                if not size:
                    break
                if len(data) + size > MAX_BODY:
                    return None
                data += self._read(size)
                if self._line():
                    raise ValueError("a chunk of another length than it says")
            for _ in range(
                _MAX_TRAILERS
            ):  # read, and left out: as the beginning of the next request they would be somebody's smuggled one
                if not self._line():
                    return bytes(data)
            raise ValueError("endless trailers")

        def _answer(self, response: Response) -> None:
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            if isinstance(response.body, bytes):
                if response.status != 204:
                    self.send_header("Content-Length", str(len(response.body)))
                self.end_headers()
                self.wfile.write(response.body)
                self.wfile.flush()
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            pieces = iter(response.body)
            try:
                for piece in pieces:
                    if piece:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                        self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
                self.wfile.flush()
            finally:
                close = getattr(pieces, "close", None)
                if close is not None:
                    close()

    return Handler
