"""TLS of the guest's own, passed through to the server that its handshake names."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from safeexec import threads
from safeexec.egress import tls
from safeexec.egress.http1 import BadMessage, Reader
from safeexec.egress.rules import Refused, normalise
from safeexec.egress.stream import Gone, Stream
from safeexec.egress.upstream import RECEIVE, Target, Upstream, reason, shut

if TYPE_CHECKING:
    from safeexec.egress.network import Record, StepNetwork


def run(stream: Stream, step: StepNetwork, upstream: Upstream, target: Target, reader: Reader, record: Record) -> None:
    """Pass TLS of the guest's own through. What is in it is not seen: no credentials are added, and the log has the bytes only."""
    try:
        upstream.settle(target, "https")
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
    clock = _Turns(step.enter, step.leave)
    threads.start(lambda: _back(stream, step, sock, record, clock))
    try:
        while data := reader.take(RECEIVE):
            step.charge(record, "sent", len(data))
            clock.set(True)
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        clock.over.wait()
    except Refused as error:
        record.finish(str(error), refused=True)
    except OSError as error:
        record.finish(f"{type(error).__name__}: {reason(error)}")
    finally:
        shut(sock)
        clock.over.wait()
        clock.set(False)
        record.finish()


def _back(stream: Stream, step: StepNetwork, sock: socket.socket, record: Record, clock: _Turns) -> None:
    try:
        while True:
            data = sock.recv(min(RECEIVE, step.room("received")))
            clock.set(False)
            if not data:
                break
            step.charge(record, "received", len(data))
            stream.write(data)
    except Refused as error:
        record.finish(str(error), refused=True)
    except (OSError, Gone):
        pass  # the other half says why, or nobody is there to be told
    finally:
        clock.set(False)
        shut(sock)
        stream.close()
        clock.over.set()


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
