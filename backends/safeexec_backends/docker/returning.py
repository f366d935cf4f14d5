"""A container whose steps can be undone, as the host has it. What happens inside: ``keeper``."""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from safeexec import wire
from safeexec.backend import GuestDied
from safeexec_backends.docker import orders
from safeexec_backends.docker.container import DockerGuest, ended, found_out
from safeexec_backends.docker.direct import Direct, take_no_descriptors

_ANSWER = 10.0
"""Seconds that going back may take: there may be many files to put back, and who wakes is the session's code, which may not want to."""
_UNREAD = 5.0
"""Seconds that a guest may take to read what it was sent before it is told to keep its state: answers of tools, which it may leave where they are."""
_NEWS = 2.0
"""Seconds until the container says how the guest ended, or why there is no way back."""
_WHY = {
    orders.THREADS: "a thread that an earlier step started still runs, and would not be in a copy of the process",
    orders.PROCESSES: "a process that an earlier step started still runs, and would not be in a copy of the session",
    orders.FILES: "an earlier step left files, or had files open, that are too large or too many to be kept",
    orders.MEMORY: "the session holds more than can be kept beside it (a quarter of Limits.memory)",
}


class ReturningGuest(DockerGuest):
    """A container that keeps its state between two requests. `room` is how many bytes of its memory limit are for that."""

    def __init__(
        self, client: Any, identity: str, stream: Direct, max_frame: int, remove: Callable[[str], None], room: int
    ) -> None:
        super().__init__(client, identity, stream, max_frame, remove)
        self._direct = stream
        self._room = room
        self._asked = 0
        """The number of the last checkpoint that was asked for; 0: none ever was."""
        self._backs = 0
        self._cut = False

    def checkpoint(self) -> None:
        """See SupportsCheckpoint."""
        self._asked += 1
        try:
            self._write_soon(wire.pack({"t": "keep", "at": self._asked, "room": self._room}), _UNREAD)
        except TimeoutError:
            self.kill()
        except OSError:
            return  # the next exchange finds out

    def rollback(self) -> None:
        """See SupportsCheckpoint."""
        self.busy = True
        ours, theirs = socket.socketpair()
        take_no_descriptors(ours)
        try:
            with theirs:
                self._go_back(ours, theirs)
            if ours.recv(1) != b"\1":
                raise EOFError
            ours.settimeout(None)
        except (OSError, EOFError) as error:
            reason = self._reason or self._no_way(error)
            self.end(reason)
            raise reason from error
        finally:
            self.used = monotonic()
            self.busy = False
        self._backs += 1

    def _go_back(self, ours: socket.socket, theirs: socket.socket) -> None:
        # A guest that lies, or does not answer, costs this long and its session.
        ours.settimeout(_ANSWER)
        self._direct.cut()  # so that nobody who writes there holds the lock
        with self._send_lock, self._end_lock:
            old = self._direct._frames
            self._direct.renew(ours)
            old.close()
            if self._removed:
                raise EOFError
            self._reader = self._reader.of(ours.recv_into)
            self._number = 0
            self._cut = False
            self._direct.order(orders.BACK, self._asked, theirs)

    def _no_way(self, error: BaseException) -> GuestDied:
        if isinstance(error, TimeoutError):
            return GuestDied("crash", f"the container did not go back within {_ANSWER:g} s")
        try:
            why = self._news(orders.LOST)
        except EOFError:
            return found_out(self._client, self.id, self._stream.tail)
        return GuestDied("crash", _WHY.get(-1 if why is None else why[1], "the checkpoint is gone"))

    def _news(self, *wanted: int) -> tuple[int, int] | None:
        """What the container said of these things, in the life that it is in; None when it says nothing. Raises EOFError when it is gone."""
        deadline = monotonic() + _NEWS
        while (said := self._direct.hear(deadline)) is not None:
            if said[1] in wanted and said[0] == self._backs:
                return said[1:]
            if monotonic() > deadline:  # a guest that says something else all the time, faster than it is read
                break
        return None

    def death(self) -> GuestDied:
        """See the base class. That the guest ended does not mean that its container did."""
        if self._reason is not None or not self._asked:
            return super().death()
        if self._cut:
            return GuestDied("crash", "the guest was killed by the host")
        try:
            news = self._news(orders.ENDED, orders.OUT_OF_MEMORY)
        except EOFError:
            return super().death()
        if news is not None:
            return ended(news[1] & 0xFF, news[0] == orders.OUT_OF_MEMORY)
        self.kill()
        return GuestDied("crash", "the guest closed its connection to the host")

    def kill(self) -> None:
        """See the base class: ends what runs, so that :meth:`rollback` may follow. :meth:`abandon` ends the container."""
        with self._end_lock:
            if self._removed:
                return
            if self._asked:
                self._cut = True
                self._direct.cut()
                try:
                    self._direct.order(orders.KILL, self._asked)
                    return
                except OSError:
                    pass  # it does not listen any more
        super().kill()

    def abandon(self) -> None:
        """See the base class."""
        super().kill()

    def close(self) -> None:
        """See the base class."""
        self.abandon()
        super().close()
