"""Serves one connection of the guest: decides what is spoken on it, has the server connected, says what was refused.

The bytes of the guest are one of three things: HTTP/1.1 in plain, to be sent in plain; HTTP/1.1 behind a line that asks this end to do TLS (the modules
in the guest write that line instead of a handshake); or TLS of the guest's own, which is passed through as it is.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING

from safeexec.egress import http1, tunnel
from safeexec.egress.addresses import Deadline
from safeexec.egress.exchange import ABSOLUTE, Exchanges, Failed
from safeexec.egress.http1 import BadMessage, Reader
from safeexec.egress.rules import SCHEMES, Refused, normalise, split_authority
from safeexec.egress.stream import Gone, Stream
from safeexec.egress.upstream import Target, Upstream, reason

if TYPE_CHECKING:
    from safeexec.egress.network import StepNetwork

PREFACE = b"\x16\x00safeexec-tls "
"""Begins the line by which the guest asks for TLS: ``PREFACE host LF``. The first byte is that of a handshake, the second no version of it has."""


class Service:
    """One connection. `run` in a thread of its own; `abort` from any."""

    def __init__(self, stream: Stream, step: StepNetwork, wanted: tuple[str, int] | None) -> None:
        self.stream = stream
        self._step = step
        self._wanted = wanted
        self._upstream = Upstream(step)
        self._http = Exchanges(stream, step, self._upstream)

    def run(self) -> None:
        """Serve until either side is done. Raises nothing."""
        try:
            if self._wanted is not None:
                if not self._open(*self._wanted):
                    return
                self._serve(Reader(self.stream.read))
            else:
                self._serve_proxy(Reader(self.stream.read))
        except (Gone, OSError, EOFError, BadMessage, Refused, Failed) as error:
            if self._http.record is not None:
                self._http.record.finish("abandoned" if isinstance(error, Gone) else reason(error))
        except Exception:
            if self._http.record is not None:
                self._http.record.finish("the host failed")
            raise  # to threading.excepthook: a fault of this module, and nothing the caller of the step can act on
        finally:
            self._upstream.hang_up()
            self._step.forget(self)
            self.stream.close()

    def abort(self) -> None:
        """End it: whatever it waits for ends too."""
        self.stream.drop()
        record = self._http.record
        if record is not None:
            record.finish("abandoned")
        self._upstream.abort()

    # -- connecting ------------------------------------------------------------------------------------------------------

    def _open(self, name: str, port: int) -> bool:
        """Connect for the guest and tell it the outcome."""
        record = self._http.record = self._step.record("CONNECT", "", name[:253], port)
        try:
            self._step.admit()
            target = self._upstream.permitted(name, port, tuple(SCHEMES))
            record.host = target.host.name
            self._upstream.connect(target, Deadline(self._step.limits.tool_time))
        except Refused as error:
            record.finish(str(error), refused=True)
            self.stream.tell("refused", kind="policy", message=str(error))
            self.stream.drop()
            return False
        except OSError as error:
            record.finish(f"{type(error).__name__}: {reason(error)}")
            kind = (
                "name" if isinstance(error, socket.gaierror) else "timeout" if isinstance(error, TimeoutError) else "os"
            )
            self.stream.tell("refused", kind=kind, message=reason(error), errno=error.errno or 0)
            self.stream.drop()
            return False
        self.stream.tell("opened")
        return True

    # -- what the guest speaks -------------------------------------------------------------------------------------------

    def _serve(self, reader: Reader) -> None:
        """Serve the connection to the one target that was opened."""
        target = self._upstream.target
        assert target is not None
        first = reader.peek(1)
        if not first:
            if self._http.record is not None:
                self._http.record.finish()
            return
        if first != b"\x16":
            self._settle_or_answer(target, "http")
        elif reader.peek(2) != PREFACE[:2]:
            record = self._http.record
            assert record is not None
            tunnel.run(self.stream, self._step, self._upstream, target, reader, record)
            return
        else:
            line = reader.line(len(PREFACE) + 300)
            if not line.startswith(PREFACE):
                raise BadMessage("a malformed request for TLS")
            if not self._terminate(target, line[len(PREFACE) :].decode("ascii", "replace")):
                return
        while self._http.serve(target, reader, None):
            pass

    def _settle_or_answer(self, target: Target, scheme: str) -> None:
        try:
            self._upstream.settle(target, scheme)
        except Refused as error:
            if self._http.record is not None:
                self._http.record.finish(str(error), refused=True)
            self._http.answer(403, str(error), "connection_refused")
            raise

    def _terminate(self, target: Target, asked: str) -> bool:
        """Do TLS in the guest's place and tell it the outcome in a line."""
        try:
            # The certificate must be the target's: to have another name checked would let the guest talk to another host behind the same address.
            if asked and normalise(asked) != target.host:
                raise Refused(f"TLS for {asked!r:.100} on a connection to {target.host.in_url}")
            self._upstream.settle(target, "https")
            self._upstream.secure(target, Deadline(self._step.limits.tool_time))
        except OSError as error:  # before ValueError, which a certificate's error is too
            message, kind = (
                reason(error),
                b"certificate" if isinstance(error, ssl.SSLCertVerificationError) else b"tls",
            )
            if self._http.record is not None:
                self._http.record.finish(f"{type(error).__name__}: {message}")
        except (Refused, ValueError) as error:
            message, kind = str(error), b"policy"
            if self._http.record is not None:
                self._http.record.finish(message, refused=True)
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
                self._http.answer(400, str(error), "http_request_error")
                return
            if request.method == "CONNECT":
                if self._connect_for(request.target):
                    self._serve(reader)
                return
            target = self._target_of(request)
            if target is None or not self._http.serve(target, reader, request):
                return

    def _connect_for(self, authority: str) -> bool:
        record = self._http.record = self._step.record("CONNECT", "", authority[:253], 0)
        try:
            self._step.admit()
            name, port = split_authority(authority)
            if port is None:
                raise Refused("CONNECT without a port")
            record.port = port
            target = self._upstream.permitted(name, port, tuple(SCHEMES))
            record.host, record.url = target.host.name, f"{target.host.in_url}:{port}"
            self._upstream.connect(target, Deadline(self._step.limits.tool_time))
        except OSError as error:
            record.finish(f"{type(error).__name__}: {reason(error)}")
            self._http.answer(504 if isinstance(error, TimeoutError) else 502, reason(error), "destination_unavailable")
            return False
        except (Refused, ValueError) as error:
            record.finish(str(error), refused=True)
            self._http.answer(403, str(error), "connection_refused")
            return False
        self.stream.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True

    def _target_of(self, request: http1.Request) -> Target | None:
        """Where a request in absolute form goes; None when it was refused."""
        match = ABSOLUTE.match(request.target)
        record = None
        try:
            if match is None:
                raise Refused("a proxy needs the whole address of what it is to fetch")
            scheme = match[1].lower()
            name, port = split_authority(match[2])
            port = SCHEMES[scheme] if port is None else port
            current = self._upstream.target
            if current is not None and (current.scheme, current.host, current.port) == (scheme, normalise(name), port):
                return current
            record = self._http.record = self._step.record(request.method, request.target, name[:253], port)
            self._step.admit()
            target = self._upstream.permitted(name, port, (scheme,))
            target.scheme = scheme
            self._upstream.hang_up()
            deadline = Deadline(self._step.limits.tool_time)
            self._upstream.connect(target, deadline)
            if scheme == "https":
                self._upstream.secure(target, deadline)
            return target
        except OSError as error:
            assert record is not None
            record.finish(f"{type(error).__name__}: {reason(error)}")
            self._http.answer(504 if isinstance(error, TimeoutError) else 502, reason(error), "destination_unavailable")
        except (Refused, ValueError) as error:
            record = record or self._step.record(request.method, request.target, "", 0)
            record.finish(str(error), refused=True)
            self._http.answer(403, str(error), "connection_refused")
        return None
