"""How frames travel in and out of a container where there are no sockets: over its stdin and stdout.

Shipped as text next to inside.py; CPython 3.9 and later. It defends nothing: the container is the wall.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec import guest, wire
    from safeexec_backends.docker import channel
else:
    try:  # what was shipped comes first: an image may have another version of safeexec installed
        import safeexec_channel as channel
        import safeexec_guest as guest
        import safeexec_wire as wire
    except ImportError:
        from safeexec import guest, wire
        from safeexec_backends.docker import channel

_PIPE = 1 << 20
_F_SETPIPE_SZ = 1031


class StdioChannel(channel.Channel):
    """Frames over stdin and stdout, interrupts among them. A thread reads."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._frames = guest.FdChannel(self._in, os.dup(1))
        self._queue: SimpleQueue[wire.Frame] = SimpleQueue()
        self._watchers: dict[Any, Callable[[], None]] = {}
        for fd in (self._in, 1):  # fewer switches for large frames; refused above the user's share, which is no harm
            _grow(fd)
        self._redirect()

    def interrupted(self) -> bool:
        """See the base class. Frames arrive in order, so a word that comes late was taken out before the next step came."""
        return True

    def overtaken(self) -> bool:
        """See the base class."""
        return False

    def _listen(self) -> None:
        try:
            while True:
                frame = self._frames.recv()
                if frame[0].get("t") == "interrupt":
                    # The main thread by name: so that a system call it waits in is interrupted too.
                    signal.pthread_kill(self._main, signal.SIGINT)
                    continue
                self._queue.put(frame)
                for loop, callback in list(self._watchers.items()):
                    try:
                        loop.call_soon_threadsafe(callback)
                    except RuntimeError:  # that loop was closed
                        self._watchers.pop(loop, None)
        except BaseException:  # the host is gone, or user code closed the descriptor: nobody can be answered any more
            os._exit(0)

    def recv(self) -> wire.Frame:
        """The next frame, waiting for it."""
        if self._child:
            raise RuntimeError("tools cannot be called from a child process")
        frame = self._queue.get()
        self._begun(frame[0])
        return frame

    def buffered(self) -> bool:
        """Whether a frame waits."""
        return not self._queue.empty()

    def watch(self, loop: Any, callback: Callable[[], None]) -> None:
        """Call `callback` from the event loop whenever a frame may be waiting."""

        def ready() -> None:
            if self.buffered():  # an earlier call may have taken this frame too, and the callback waits for one
                callback()

        self._watchers[loop] = ready
        loop.call_soon(ready)

    def unwatch(self, loop: Any) -> None:
        """Undo :meth:`watch`."""
        self._watchers.pop(loop, None)


def _grow(fd: int) -> None:
    try:
        import fcntl

        fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE)
    except (ImportError, OSError):
        return
