"""TLS in the guest: the host does it, so what is installed here asks for that in the clear. What ``inside`` says of itself holds for this."""

from __future__ import annotations

import errno
import sys
from typing import Any

import safeexec_inside as inside  # type: ignore[import-not-found, unused-ignore]
import safeexec_inside_names as names  # type: ignore[import-not-found, unused-ignore]

PREFACE = b"\x16\x00safeexec-tls "


def install_tls(network: Any) -> None:
    """Have the host do TLS: it verifies the server, and sees the requests that it must decide about and add credentials to.

    A client that brings TLS of its own (another program, a library that does not use ``ssl``) is passed through by the host as it is.
    """
    names.after_import("ssl", lambda: _install_tls(network, sys.modules["ssl"]))


def _install_tls(network: Any, ssl: Any) -> None:
    wrap_socket, wrap_bio = ssl.SSLContext.wrap_socket, ssl.SSLContext.wrap_bio

    def secure_socket(self: Any, sock: Any, server_side: bool = False, *args: Any, **more: Any) -> Any:
        if server_side or not network.owns(sock):
            return wrap_socket(self, sock, server_side, *args, **more)
        name = more.get("server_hostname") or (args[2] if len(args) > 2 else None)
        timeout = sock.gettimeout()
        if timeout == 0:
            sock.settimeout(None)
        try:
            sock.sendall(_preface(name))
            line = bytearray()
            while not line.endswith(b"\n"):
                byte = sock.recv(1)
                if not byte:
                    raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection was closed before TLS was there")
                line += byte
        finally:
            sock.settimeout(timeout)
        _verdict(ssl, bytes(line))
        sock._secured = True
        return sock

    def secure_bio(
        self: Any,
        incoming: Any,
        outgoing: Any,
        server_side: bool = False,
        server_hostname: Any = None,
        session: Any = None,
    ) -> Any:
        if server_side or (sys.platform != "emscripten" and inside.is_loopback(server_hostname)):
            return wrap_bio(self, incoming, outgoing, server_side, server_hostname, session)
        return Plain(self, ssl, incoming, outgoing, server_hostname)

    ssl.SSLContext.wrap_socket, ssl.SSLContext.wrap_bio = secure_socket, secure_bio


def _preface(name: Any) -> bytes:
    if isinstance(name, (bytes, bytearray)):
        return PREFACE + bytes(name) + b"\n"
    text = name or ""
    return PREFACE + (text if text.isascii() else text.encode("idna").decode()).encode() + b"\n"


def _verdict(ssl: Any, line: bytes) -> None:
    kind, _, message = line[2:].decode("ascii", "replace").strip().partition(" ")
    if kind == "ok":
        return
    if kind == "certificate":
        error = ssl.SSLCertVerificationError(1, message)
        error.verify_code, error.verify_message, error.reason = 1, message, "CERTIFICATE_VERIFY_FAILED"
        raise error
    if kind == "policy":
        raise PermissionError(errno.EACCES, message)
    raise ssl.SSLError(1, message)


class Plain:
    """Stands for an ``ssl.SSLObject`` where the host does the TLS: bytes pass as they are, behind the line that asks for it."""

    server_side = False
    session = None
    session_reused = False

    def __init__(self, context: Any, ssl: Any, incoming: Any, outgoing: Any, name: Any) -> None:
        self.context = context
        self.server_hostname = name
        self._ssl = ssl
        self._incoming, self._outgoing = incoming, outgoing
        self._state = 0
        self._line = bytearray()

    def do_handshake(self) -> None:
        if self._state == 0:
            self._outgoing.write(_preface(self.server_hostname))
            self._state = 1
        while self._state == 1:
            byte = self._incoming.read(1)
            if not byte:
                if self._incoming.eof:
                    raise self._ssl.SSLEOFError(8, "the connection was closed before TLS was there")
                raise self._ssl.SSLWantReadError(2, "the host has not answered yet")
            self._line += byte
            if byte == b"\n":
                self._state = 2
                _verdict(self._ssl, bytes(self._line))

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        self.do_handshake()
        data = self._incoming.read(size if buffer is None else min(size or len(buffer), len(buffer)))
        if not data and not self._incoming.eof:
            raise self._ssl.SSLWantReadError(2, "nothing there yet")
        if buffer is None:
            return data
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        self.do_handshake()
        return int(self._outgoing.write(data))

    def unwrap(self) -> None:
        return None

    def pending(self) -> int:
        return int(self._incoming.pending)

    def getpeercert(self, binary_form: bool = False) -> Any:
        return None if binary_form else inside.verified(self.server_hostname)

    def get_channel_binding(self, cb_type: str = "tls-unique") -> None:
        return None

    def selected_alpn_protocol(self) -> None:
        return None

    selected_npn_protocol = compression = shared_ciphers = selected_alpn_protocol

    def cipher(self) -> tuple[str, str, int]:
        return ("(of the host)", self.version(), 0)

    def version(self) -> str:
        return "TLSv1.3"

    def verify_client_post_handshake(self) -> None:
        raise self._ssl.SSLError("not available: the host does TLS")
