"""The way to the servers: which may be connected to, the connection that is open, TLS on it.

Whoever serves the guest's side decides nothing here: names, addresses and certificates are checked on the way.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
from functools import cache
from typing import TYPE_CHECKING

from safeexec.egress import addresses
from safeexec.egress.addresses import Deadline
from safeexec.egress.rules import SCHEMES, Host, Refused, normalise, port_number
from safeexec.egress.stream import Gone

if TYPE_CHECKING:
    from safeexec.egress.network import StepNetwork

RECEIVE = 64 * 1024
"""Bytes asked for at once."""


@cache
def tls_context() -> ssl.SSLContext:
    """Full verification against the machine's trust store (``SSL_CERT_FILE`` adds to it, as everywhere)."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Target:
    """Where requests go, and the connection there."""

    def __init__(self, host: Host, port: int) -> None:
        self.host = host
        self.port = port
        self.scheme = ""
        self.addresses: list[Host] = []
        self.sock: socket.socket | None = None

    @property
    def authority(self) -> str:
        """As a Host field has it."""
        return self.host.in_url if self.port == SCHEMES.get(self.scheme) else f"{self.host.in_url}:{self.port}"


class Upstream:
    """At most one connection to a server at a time. Used by one thread; `abort` from any."""

    def __init__(self, step: StepNetwork) -> None:
        self._step = step
        self._lock = threading.Lock()
        self._aborted = False
        self._connecting: socket.socket | None = None
        self.target: Target | None = None
        """Where the open connection goes."""

    def abort(self) -> None:
        """Whatever waits for a server ends."""
        with self._lock:
            self._aborted = True
            for sock in (self._connecting, self.target.sock if self.target is not None else None):
                if sock is not None:
                    # After a shutdown no window is announced any more: a server whose window was full at that moment, and whose bytes were then read,
                    # would be held in its `send` until the kernel forgets the connection, a minute later. A reset tells it at once that nobody listens.
                    shut(sock, reset=True)

    def hang_up(self) -> None:
        """Close the connection; another may follow."""
        with self._lock:
            target, self.target = self.target, None
            if target is not None and target.sock is not None:
                target.sock.close()

    def drop(self, target: Target) -> None:
        """Close the socket of a target that stays what it is: the next request connects anew."""
        with self._lock:
            if target.sock is not None:
                target.sock.close()
            target.sock = None

    def permitted(self, name: str, port: int, schemes: tuple[str, ...]) -> Target:
        """The target, if the policy permits it. Raises Refused."""
        try:
            host = normalise(name)
            port_number(str(port))
        except ValueError as error:
            raise Refused(f"not a host to connect to: {error}") from None
        self._step.rules.check(schemes, host, port)
        return Target(host, port)

    def connect(self, target: Target, deadline: Deadline) -> None:
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
            self.target = target
            target.sock = sock

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

    def settle(self, target: Target, scheme: str) -> None:
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

    def secure(self, target: Target, deadline: Deadline) -> None:
        """TLS with the server, fully verified. Raises OSError (ssl.SSLError is one), Gone."""
        sock = target.sock
        assert sock is not None
        sock.settimeout(deadline.timeout())
        # Known to `abort` before the first byte of the handshake: the plain socket is none any more.
        secured = tls_context().wrap_socket(sock, server_hostname=target.host.name, do_handshake_on_connect=False)
        with self._lock:
            target.sock = secured
            if self._aborted:
                raise Gone
        with self._step.busy():
            secured.do_handshake()
        with self._lock:
            if self._aborted:
                raise Gone

    def ensure_alive(self, target: Target, deadline: Deadline, used: bool) -> None:
        """A server may have closed a connection that was `used` and kept; connect again, to the addresses that were checked. As `connect`, `secure`."""
        if target.sock is not None and not (used and _readable(target.sock)):
            return
        self.drop(target)
        self.connect(target, deadline)
        if target.scheme == "https":
            self.secure(target, deadline)


def _readable(sock: socket.socket) -> bool:
    """Whether something is to be read where nothing is expected: the end of the connection, or bytes nobody asked for."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def shut(sock: socket.socket, reset: bool = False) -> None:
    """End what is done on a socket in another thread. With `reset`, closing it then is one, and no orderly end."""
    try:
        if reset:
            linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            socket.socket.setsockopt(sock, socket.SOL_SOCKET, socket.SO_LINGER, linger)
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of a TLS socket too: without a goodbye, and without a wait
    except OSError:
        pass  # it is closed, or is becoming a TLS socket: whoever makes it one looks whether it was aborted


def reason(error: BaseException) -> str:
    """What went wrong, in a few words, for the log and for the guest."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__
