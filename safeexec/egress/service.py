"""Serves one connection of the guest: decides, connects, speaks HTTP with the server, passes the answer on.

The bytes of the guest are one of three things: HTTP/1.1 in plain, to be sent in plain; HTTP/1.1 behind a line that asks this end to do TLS (the modules
in the guest write that line instead of a handshake); or TLS of the guest's own, which is passed through as it is.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from safeexec import threads
from safeexec.egress import addresses, http1, tls
from safeexec.egress.addresses import Deadline
from safeexec.egress.http1 import BadMessage, Reader
from safeexec.egress.rules import SCHEMES, Host, Refused, normalise, port_number, split_authority
from safeexec.egress.stream import Gone, Stream

if TYPE_CHECKING:
    from safeexec.egress.network import Record, StepNetwork

PREFACE = b"\x16\x00safeexec-tls "
"""Begins the line by which the guest asks for TLS: ``PREFACE host LF``. The first byte is that of a handshake, the second no version of it has."""
_ABSOLUTE = re.compile(r"(https?)://([^/?#]*)([^#]*)\Z", re.IGNORECASE)
_FORBIDDEN = frozenset({"CONNECT", "TRACE", "TRACK"})  # TRACE sends the request back, credentials included
_RECEIVE = 64 * 1024


@cache
def tls_context() -> ssl.SSLContext:
    """Full verification against the machine's trust store (``SSL_CERT_FILE`` adds to it, as everywhere)."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Failed(Exception):
    """A request cannot be answered by its server: `status` is what the guest gets instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Target:
    """Where requests go, and the connection there."""

    def __init__(self, host: Host, port: int) -> None:
        self.host = host
        self.port = port
        self.scheme = ""
        self.addresses: list[Host] = []
        self.sock: socket.socket | None = None
        self.reader: Reader | None = None

    @property
    def authority(self) -> str:
        """As a Host field has it."""
        return self.host.in_url if self.port == SCHEMES.get(self.scheme) else f"{self.host.in_url}:{self.port}"


class Service:
    """One connection. `run` in a thread of its own; `abort` from any."""

    def __init__(self, stream: Stream, step: StepNetwork, wanted: tuple[str, int] | None) -> None:
        self.stream = stream
        self._step = step
        self._wanted = wanted
        self._lock = threading.Lock()
        self._target: Target | None = None
        self._aborted = False
        self._connecting: socket.socket | None = None
        self._requests = 0
        self._record: Record | None = None

    def run(self) -> None:
        """Serve until either side is done. Raises nothing."""
        try:
            if self._wanted is not None:
                if not self._open(*self._wanted):
                    return
                self._serve(Reader(self.stream.read))
            else:
                self._serve_proxy(Reader(self.stream.read))
        except (Gone, OSError, EOFError, BadMessage, Refused, _Failed) as error:
            if self._record is not None:
                self._record.finish("abandoned" if isinstance(error, Gone) else _reason(error))
        except Exception:
            if self._record is not None:
                self._record.finish("the host failed")
            raise  # to threading.excepthook: a fault of this module, and nothing the caller of the step can act on
        finally:
            self._hang_up()
            self._step.forget(self)
            self.stream.close()

    def abort(self) -> None:
        """End it: whatever it waits for ends too."""
        self.stream.drop()
        record = self._record
        if record is not None:
            record.finish("abandoned")
        with self._lock:
            self._aborted = True
            for sock in (self._connecting, self._target.sock if self._target is not None else None):
                if sock is not None:
                    _shut(sock)

    def _hang_up(self) -> None:
        with self._lock:
            target, self._target = self._target, None
            if target is not None and target.sock is not None:
                target.sock.close()

    # -- connecting ------------------------------------------------------------------------------------------------------

    def _open(self, name: str, port: int) -> bool:
        """Connect for the guest and tell it the outcome."""
        record = self._record = self._step.record("CONNECT", "", name[:253], port)
        try:
            self._step.admit()
            target = self._permitted(name, port, tuple(SCHEMES))
            record.host = target.host.name
            self._connect(target, Deadline(self._step.limits.tool_time))
        except Refused as error:
            record.finish(str(error), refused=True)
            self.stream.tell("refused", kind="policy", message=str(error))
            self.stream.drop()
            return False
        except OSError as error:
            record.finish(f"{type(error).__name__}: {_reason(error)}")
            kind = (
                "name" if isinstance(error, socket.gaierror) else "timeout" if isinstance(error, TimeoutError) else "os"
            )
            self.stream.tell("refused", kind=kind, message=_reason(error), errno=error.errno or 0)
            self.stream.drop()
            return False
        self.stream.tell("opened")
        return True

    def _permitted(self, name: str, port: int, schemes: tuple[str, ...]) -> Target:
        """The target, if the policy permits it. Raises Refused."""
        try:
            host = normalise(name)
            port_number(str(port))
        except ValueError as error:
            raise Refused(f"not a host to connect to: {error}") from None
        self._step.rules.check(schemes, host, port)
        return Target(host, port)

    def _connect(self, target: Target, deadline: Deadline) -> None:
        """Connect `target`, which is permitted. Raises Refused, OSError, Gone."""
        with self._step.busy():
            if not target.addresses:
                schemes = [target.scheme] if target.scheme else list(SCHEMES)
                target.addresses = self._addresses(target, schemes)
            sock = addresses.connect(target.addresses, target.port, deadline.remaining, self._begun)
        with self._lock:
            self._connecting = None
            if self._aborted:
                sock.close()
                raise Gone
            self._target = target
            target.sock = sock
        target.reader = None

    def _begun(self, sock: socket.socket) -> None:
        with self._lock:
            if self._aborted:
                raise Gone
            self._connecting = sock

    def _addresses(self, target: Target, schemes: list[str]) -> list[Host]:
        rules, trouble = self._step.rules, Refused("no scheme is permitted")
        for scheme in schemes:
            if not rules.permits(scheme, target.host, target.port):
                continue
            try:
                return addresses.checked_addresses(rules, scheme, target.host, target.port)
            except Refused as error:
                trouble = error
        raise trouble

    def _settle(self, target: Target, scheme: str) -> None:
        """What is spoken is known now: it must be permitted, by name and by address. Raises Refused."""
        rules = self._step.rules
        rules.check([scheme], target.host, target.port)
        if not target.scheme:
            # The port was opened before it was known what would be spoken there.
            for address in target.addresses:
                if not addresses.may_connect(rules, scheme, target.host, address, target.port):
                    raise Refused(
                        f"{scheme} to {target.authority} is not permitted by the network policy of this sandbox"
                    )
        target.scheme = scheme

    def _secure(self, target: Target, deadline: Deadline) -> None:
        """TLS with the server, fully verified. Raises OSError (ssl.SSLError is one), Gone."""
        sock = target.sock
        assert sock is not None
        with self._step.busy():
            sock.settimeout(deadline.timeout())
            secured = tls_context().wrap_socket(sock, server_hostname=target.host.name)
        with self._lock:
            target.sock = secured
            if self._aborted:
                raise Gone

    # -- what the guest speaks -------------------------------------------------------------------------------------------

    def _serve(self, reader: Reader) -> None:
        """Serve the connection to the one target that was opened."""
        target = self._target
        assert target is not None
        first = reader.peek(1)
        if not first:
            if self._record is not None:
                self._record.finish()
            return
        if first != b"\x16":
            self._settle_or_answer(target, "http")
        elif reader.peek(2) != PREFACE[:2]:
            self._tunnel(target, reader)
            return
        else:
            line = reader.line(len(PREFACE) + 300)
            if not line.startswith(PREFACE):
                raise BadMessage("a malformed request for TLS")
            if not self._terminate(target, line[len(PREFACE) :].decode("ascii", "replace")):
                return
        while self._exchange(target, reader, None):
            pass

    def _settle_or_answer(self, target: Target, scheme: str) -> None:
        try:
            self._settle(target, scheme)
        except Refused as error:
            if self._record is not None:
                self._record.finish(str(error), refused=True)
            self._answer(403, str(error), "connection_refused")
            raise

    def _terminate(self, target: Target, asked: str) -> bool:
        """Do TLS in the guest's place and tell it the outcome in a line."""
        try:
            # The certificate must be the target's: to have another name checked would let the guest talk to another host behind the same address.
            if asked and normalise(asked) != target.host:
                raise Refused(f"TLS for {asked!r:.100} on a connection to {target.host.in_url}")
            self._settle(target, "https")
            self._secure(target, Deadline(self._step.limits.tool_time))
        except OSError as error:  # before ValueError, which a certificate's error is too
            message, kind = (
                _reason(error),
                b"certificate" if isinstance(error, ssl.SSLCertVerificationError) else b"tls",
            )
            if self._record is not None:
                self._record.finish(f"{type(error).__name__}: {message}")
        except (Refused, ValueError) as error:
            message, kind = str(error), b"policy"
            if self._record is not None:
                self._record.finish(message, refused=True)
        else:
            self.stream.write(b"\x16\x00ok\n")
            return True
        line = re.sub(rb"[^\x20-\x7e]", b"?", message.encode("ascii", "replace"))[:500]
        self.stream.write(b"\x16\x00%b %b\n" % (kind, line))
        return False

    def _serve_proxy(self, reader: Reader) -> None:
        """Serve a client that took this end for the HTTP proxy it is."""
        while True:
            try:
                lines = reader.head()
                if lines is None:
                    return
                request = http1.read_request(lines)
            except BadMessage as error:
                self._answer(400, str(error), "http_request_error")
                return
            if request.method == "CONNECT":
                if self._connect_for(request.target):
                    self._serve(reader)
                return
            target = self._target_of(request)
            if target is None or not self._exchange(target, reader, request):
                return

    def _connect_for(self, authority: str) -> bool:
        record = self._record = self._step.record("CONNECT", "", authority[:253], 0)
        try:
            self._step.admit()
            name, port = split_authority(authority)
            if port is None:
                raise Refused("CONNECT without a port")
            record.port = port
            target = self._permitted(name, port, tuple(SCHEMES))
            record.host, record.url = target.host.name, f"{target.host.in_url}:{port}"
            self._connect(target, Deadline(self._step.limits.tool_time))
        except OSError as error:
            record.finish(f"{type(error).__name__}: {_reason(error)}")
            self._answer(504 if isinstance(error, TimeoutError) else 502, _reason(error), "destination_unavailable")
            return False
        except (Refused, ValueError) as error:
            record.finish(str(error), refused=True)
            self._answer(403, str(error), "connection_refused")
            return False
        self.stream.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True

    def _target_of(self, request: http1.Request) -> Target | None:
        """Where a request in absolute form goes; None when it was refused."""
        match = _ABSOLUTE.match(request.target)
        record = None
        try:
            if match is None:
                raise Refused("a proxy needs the whole address of what it is to fetch")
            scheme = match[1].lower()
            name, port = split_authority(match[2])
            port = SCHEMES[scheme] if port is None else port
            current = self._target
            if current is not None and (current.scheme, current.host, current.port) == (scheme, normalise(name), port):
                return current
            record = self._record = self._step.record(request.method, request.target, name[:253], port)
            self._step.admit()
            target = self._permitted(name, port, (scheme,))
            target.scheme = scheme
            self._hang_up()
            deadline = Deadline(self._step.limits.tool_time)
            self._connect(target, deadline)
            if scheme == "https":
                self._secure(target, deadline)
            return target
        except OSError as error:
            assert record is not None
            record.finish(f"{type(error).__name__}: {_reason(error)}")
            self._answer(504 if isinstance(error, TimeoutError) else 502, _reason(error), "destination_unavailable")
        except (Refused, ValueError) as error:
            record = record or self._step.record(request.method, request.target, "", 0)
            record.finish(str(error), refused=True)
            self._answer(403, str(error), "connection_refused")
        return None

    # -- HTTP ------------------------------------------------------------------------------------------------------------

    def _exchange(self, target: Target, reader: Reader, request: http1.Request | None) -> bool:
        """One request and its answer; whether another may follow."""
        if request is None:
            try:
                lines = reader.head()
                if lines is None:
                    return False
                request = http1.read_request(lines)
            except BadMessage as error:
                broken = self._record or self._step.record("", "", target.host.name, target.port)
                broken.finish(str(error), refused=True)
                self._answer(400, str(error), "http_request_error")
                return False
        self._requests += 1
        deadline = Deadline(self._step.limits.tool_time)
        url = f"{target.scheme}://{target.authority}{request.target}" if request.target[:1] == "/" else request.target
        record = self._record
        if record is None:
            record = self._record = self._step.record(request.method, url, target.host.name, target.port)
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
                self._answer(403 if isinstance(error, Refused) else 400, str(error), "http_request_denied")
            return False
        except _Failed as error:
            record.finish(str(error))
            if not answered:
                self._answer(error.status, str(error), "http_protocol_error")
            return False
        except TimeoutError:
            record.finish("the request took too long (Limits.tool_time)")
            if not answered:
                self._answer(504, "the request took too long (Limits.tool_time)", "http_response_timeout")
            return False
        except (OSError, EOFError) as error:
            record.finish(f"{type(error).__name__}: {_reason(error)}")
            if not answered:
                self._answer(502, f"the server ended the connection: {_reason(error)}", "connection_terminated")
            return False
        except Gone:
            record.finish("abandoned")
            raise
        record.finish()
        self._record = None
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
            self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._step.room("sent")
        self._step.room("received")
        self._ensure_alive(target, deadline)
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

    def _ensure_alive(self, target: Target, deadline: Deadline) -> None:
        """A server may have closed a connection that was kept; connect again, to the addresses that were checked."""
        sock = target.sock
        if sock is not None and (self._requests == 1 or not _readable(sock)):
            return
        if sock is not None:
            with self._lock:
                sock.close()
                target.sock = None
        self._connect(target, deadline)
        if target.scheme == "https":
            self._secure(target, deadline)

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
            most = min(_RECEIVE, self._step.room("received"))
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
                    raise _Failed(502, "the server closed the connection without an answer")
                response = http1.read_response(lines)
                if response.status >= 200:
                    break
                if response.status == 101:
                    raise _Failed(502, "the server wants another protocol than HTTP")
            else:
                raise _Failed(502, "the server sends interim answers only")
            framing = http1.response_framing(response.fields, request.method, response.status)
        except BadMessage as error:
            raise _Failed(502, f"the server's answer is not HTTP: {error}") from None
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
                    self.stream.write(data)
                    data = b""
        except (BadMessage, EOFError, OSError, Refused) as error:
            self.stream.write(data)  # as far as it came; the end of the connection then says that it is not all
            if isinstance(error, BadMessage):
                raise _Failed(502, f"the server's answer is not HTTP: {error}") from None
            raise
        if chunked:
            data += http1.chunk(b"")
        if data:
            self.stream.write(data)
        ends = framing.length is None and not framing.chunked
        if ends or reader.buffered or not http1.keeps_alive(response.fields, response.minor):
            # Also for bytes behind the answer: they must not become the answer to the next request.
            with self._lock:
                if target.sock is not None:
                    target.sock.close()
                target.sock = None
        return keep

    def _answer(self, status: int, message: str, error: str) -> None:
        """An answer of the host's own."""
        text = (message + "\n").encode("utf-8", "replace")
        reasons = {400: b"Bad Request", 403: b"Forbidden", 502: b"Bad Gateway", 504: b"Gateway Timeout"}
        found = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", b"%d" % len(text)),
            (b"Proxy-Status", b"safeexec; error=%b" % error.encode()),
            (b"Connection", b"close"),
        ]
        self.stream.write(http1.head(b"HTTP/1.1 %d %b" % (status, reasons[status]), found) + text)

    # -- tunnels ---------------------------------------------------------------------------------------------------------

    def _tunnel(self, target: Target, reader: Reader) -> None:
        """Pass TLS of the guest's own through. What is in it is not seen: no credentials are added, and the log has the bytes only."""
        record = self._record
        assert record is not None
        try:
            self._settle(target, "https")
            # Another name in the handshake would reach another site behind the same address.
            asked = tls.server_name(reader)
            if target.host.address is None and (asked is None or normalise(asked) != target.host):
                raise Refused(f"TLS for {asked!r:.100} on a connection to {target.host.in_url}")
        except (Refused, ValueError, BadMessage) as error:
            record.finish(str(error), refused=True)
            return
        sock = target.sock
        assert sock is not None
        sock.settimeout(None)
        clock = _Turns(self._step.enter, self._step.leave)
        threads.start(lambda: self._tunnel_back(sock, record, clock))
        try:
            while data := reader.take(_RECEIVE):
                self._step.charge(record, "sent", len(data))
                clock.set(True)
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            clock.over.wait()
        except Refused as error:
            record.finish(str(error), refused=True)
        except OSError as error:
            record.finish(f"{type(error).__name__}: {_reason(error)}")
        finally:
            _shut(sock)
            clock.over.wait()
            clock.set(False)
            record.finish()

    def _tunnel_back(self, sock: socket.socket, record: Record, clock: _Turns) -> None:
        try:
            while True:
                data = sock.recv(min(_RECEIVE, self._step.room("received")))
                clock.set(False)
                if not data:
                    break
                self._step.charge(record, "received", len(data))
                self.stream.write(data)
        except Refused as error:
            record.finish(str(error), refused=True)
        except (OSError, Gone):
            pass  # the other half says why, or nobody is there to be told
        finally:
            clock.set(False)
            _shut(sock)
            self.stream.close()
            clock.over.set()


class _Answered:
    """Whether bytes of an answer went to the guest: after them none of the host's own may follow."""

    begun = False

    def __bool__(self) -> bool:
        return self.begun


class _Turns:
    """Whose turn it is in a tunnel: the host is busy, for the guest's clock, from its bytes to the server's."""

    def __init__(self, enter: Callable[[], None], leave: Callable[[], None]) -> None:
        self._enter, self._leave = enter, leave
        self._lock = threading.Lock()
        self._busy = False
        self.over = threading.Event()

    def set(self, busy: bool) -> None:
        with self._lock:
            if busy is self._busy:
                return
            self._busy = busy
            (self._enter if busy else self._leave)()


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
    match = _ABSOLUTE.match(request.target)
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


def _readable(sock: socket.socket) -> bool:
    """Whether something is to be read where nothing is expected: the end of the connection, or bytes nobody asked for."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _shut(sock: socket.socket) -> None:
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of a TLS socket too: without a goodbye, and without a wait
    except OSError:
        pass


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__
