"""Servers on the loopback interface that keep what they were sent, byte for byte, and answer as a test wants it."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TLS = Path(__file__).with_name("tls")
PAGE = b"<html><head><title>Alpha &amp; Omega</title></head><body>hello</body></html>"


@dataclass
class Seen:
    """One request as it arrived."""

    head: bytes
    body: bytes = b""

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode("latin-1")

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]

    def get(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name.lower()]


@dataclass
class Site:
    """A server. `secure` names a certificate of the folder ``tls``."""

    secure: str = ""
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    answers: dict[str, Callable[[Any, Seen], bool]] = field(default_factory=dict)
    """Path to what is done there instead of the usual: gets the connection; whether the connection goes on."""

    def __post_init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._server.getsockname()[1]
        self._context: ssl.SSLContext | None = None
        if self.secure:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(TLS / f"{self.secure}.pem")
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self.closing = threading.Event()
        threading.Thread(target=self._main, daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        try:
            self._server.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._server.close()
        with self._lock:
            for live in self._live:
                try:
                    socket.socket.shutdown(live, socket.SHUT_RDWR)
                except OSError:
                    pass

    def _main(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self.open += 1
            self._live.add(connection)
        raw = connection
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._requests(connection)
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self.open -= 1
                self._live.discard(raw)
            connection.close()
            raw.close()

    def _requests(self, connection: socket.socket) -> None:
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = connection.recv(65536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            seen = Seen(head)
            with self._lock:
                self.seen.append(seen)
            if seen.get("transfer-encoding"):
                while not buffer.endswith(b"0\r\n\r\n"):
                    buffer += connection.recv(65536)
                seen.body, buffer = buffer, b""
            size = int((seen.get("content-length") or ["0"])[0])
            while len(buffer) < size:
                data = connection.recv(65536)
                if not data:
                    return
                buffer += data
            if size:
                seen.body, buffer = buffer[:size], buffer[size:]
            if not self._answer(connection, seen):
                return

    def _answer(self, connection: socket.socket, seen: Seen) -> bool:
        path = seen.line.split(" ")[1]
        special = self.answers.get(path.partition("?")[0])
        if special is not None:
            return special(connection, seen)
        if path.startswith("/to?"):
            send(connection, b"", status="302 Found", extra=f"Location: {unquote(path[4:])}\r\n")
        elif path == "/echo":
            send(connection, seen.body)
        elif path == "/head":
            send(connection, seen.head)
        elif path == "/gzip":
            send(connection, gzip.compress(PAGE), extra="Content-Encoding: gzip\r\n")
        elif seen.line.startswith("HEAD "):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PAGE))
        else:
            send(connection, PAGE, extra="Content-Type: text/html; charset=utf-8\r\n")
        return True


def send(connection: Any, body: bytes, status: str = "200 OK", extra: str = "") -> None:
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body)


def drip(connection: Any, seen: Seen) -> bool:
    """A head, and then a byte now and then, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    pause = threading.Event()
    while True:
        connection.sendall(b"x")
        pause.wait(0.01)


def flood(connection: Any, seen: Seen) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def mute(connection: Any, seen: Seen) -> bool:
    connection.recv(1)
    return False
