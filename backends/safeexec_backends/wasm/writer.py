"""The thread of a worker that writes down sessions at rest, so that the host can keep them.

A session is held up only while its pages are copied; they are compared and packed when it may run again. Between two bits of that other threads
get the interpreter at once: a step of a neighbour must not wait for it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from . import snapshot
from .abi import EngineError
from .agreed import ANSWER, ASK, BUSY, LARGE, RESTLESS, WRITTEN
from .checkpoint import Unsettled

if TYPE_CHECKING:
    from .instance import Runtime
    from .worker_session import WorkerSession

_MOST: Final = 32 << 20
"""Bytes of one session's pages and files, before they are packed: more would hold its neighbours up for too long."""
_USUAL: Final = sys.getswitchinterval()
_POLITE: Final = 0.0002
"""Seconds after which this thread is asked for the interpreter; Python's 5 ms are as long as a whole step."""


def serve(channel: socket.socket, find: Callable[[int], WorkerSession | None], runtime: Runtime) -> None:
    """Write down the sessions that the host asks for, until it hangs up."""
    with channel:
        while True:
            try:
                asked = channel.recv(ASK.size, socket.MSG_WAITALL)
                if len(asked) < ASK.size:
                    return
                number, most = ASK.unpack(asked)
                sys.setswitchinterval(_POLITE)
                try:
                    outcome, state = _written(find(number), most, runtime)
                finally:
                    sys.setswitchinterval(_USUAL)
                channel.sendall(ANSWER.pack(outcome, len(state)))
                channel.sendall(state)
            except OSError:
                return


def _written(session: WorkerSession | None, most: int, runtime: Runtime) -> tuple[int, bytes]:
    try:
        found = None if session is None else session.draft(_MOST)
        if found is None:
            return BUSY, b""
        draft, rest = found
        state = snapshot.packed(draft, rest, runtime)
    except snapshot.TooLarge:
        return LARGE, b""
    except (Unsettled, OSError, EngineError):
        return RESTLESS, b""
    return (WRITTEN, state) if len(state) <= most else (LARGE, b"")
