"""A small HTTP/1.1 server: one thread for each connection, bodies whole, responses whole or streamed."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

MAX_BODY = 64 * 2**20


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

    def json(self) -> Any:
        """The body as JSON, ``{}`` if empty. Raises BadRequest."""
        try:
            return json.loads(self.body or b"{}")
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from None

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object. Raises BadRequest."""
        data = self.json()
        if type(data) is not dict:
            raise BadRequest("the body is not a JSON object")
        return data


class BadRequest(Exception):
    """The client's mistake; answered with status 400."""


@dataclass
class Response:
    """What to answer: a body, or pieces of one that are sent as they come."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_response(data: Any, status: int = 200) -> Response:
    """JSON as a response."""
    return Response(status, json.dumps(data).encode(), {"Content-Type": "application/json"})


App = Callable[[Request], Response]


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
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
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
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # 40 ms for each small answer otherwise
        wbufsize = -1  # head and body in one packet
        timeout = 300  # a client that says nothing for so long must not hold a thread

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _serve(self) -> None:
            try:
                try:
                    body = self._read_body()
                except ValueError as error:
                    # What follows on this connection cannot be told from the body.
                    self.close_connection = True
                    self._answer(json_response({"code": 400, "message": f"a malformed body: {error}"}, 400))
                    return
                if body is None:
                    self.close_connection = True
                    self._answer(json_response({"code": 413, "message": "the body is too large"}, 413))
                    return
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
                headers = {name.lower(): value for name, value in self.headers.items()}
                try:
                    response = app(Request(self.command, unquote(url.path), query, headers, body))
                except BadRequest as error:
                    response = json_response({"code": 400, "message": str(error)}, 400)
                self._answer(response)
            except (Hangup, ConnectionError):
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

        def _read_body(self) -> bytes | None:
            """The body, None if it is too large. Raises ValueError."""
            if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
                length = _number(self.headers.get("Content-Length") or "0", 10)
                return self.rfile.read(length) if length <= MAX_BODY else None
            parts, total = [], 0
            while True:
                size = _number(self.rfile.readline(64).split(b";")[0].strip().decode("latin-1"), 16)
                total += size
                if total > MAX_BODY:
                    return None
                parts.append(self.rfile.read(size))
                self.rfile.readline(64)
                if not size:
                    return b"".join(parts)

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
