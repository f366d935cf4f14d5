"""The sessions of one cell: one and the branches that came of it. They take turns, since the cell has one runner and one set of files."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from safeexec.backend import GuestDied
from safeexec.errors import BackendUnavailable
from safeexec_backends._hardening.waiting import ready
from safeexec_backends.local import keeping

if TYPE_CHECKING:
    from safeexec_backends.local.line import KeeperLine
    from safeexec_backends.local.returning import ReturningGuest

_ANSWER = 10.0
"""Seconds that the keeper may take for what it does by itself: it may be taking a copy meanwhile, which is the session's code."""
_UNDECIDED = 5.0
"""Seconds, many times what the host takes between the end of a request and the word to keep or undo what it did."""
_SHORT = 0.02
"""Seconds: less than a session at rest goes on."""


class Family:
    """What the sessions of a cell share on the host, and whose turn it is."""

    def __init__(self, first: ReturningGuest, line: KeeperLine, pidfd: int, status: int) -> None:
        self.line = line
        self.pidfd = pidfd
        """Of the keeper, with which everything ends."""
        self._status = status
        self._changed = threading.Condition()
        self._turn: ReturningGuest | None = None
        self.active: ReturningGuest | None = first
        """Whose process the runner is, and whose files the cell has."""
        self._members = {first}
        self._owner = os.getpid()

    def join(self, guest: ReturningGuest) -> None:
        with self._changed:
            self._members.add(guest)

    # -- turns -------------------------------------------------------------------------------------------------------------

    def take(self, guest: ReturningGuest, killed_too: bool = False) -> None:
        """Wait for the turn, which stays with `guest` until :meth:`leave`. Raises GuestDied when it is ended meanwhile."""
        with self._changed:
            while self._turn is not None and self._turn is not guest:
                if guest._closed or (guest._killed and not killed_too):
                    raise GuestDied("crash", "the sandbox process was killed by the host")
                holds = self._turn
                if not self._changed.wait(_UNDECIDED) and self._turn is holds and not holds._busy:
                    self._turn = None  # its caller was interrupted before he said whether the step is to be kept: it is
            self._turn = guest

    def leave(self, guest: ReturningGuest) -> None:
        with self._changed:
            if self._turn is guest:
                self._turn = None
                self._changed.notify_all()

    def wake(self) -> None:
        """Let those who wait look again whether they are to wait."""
        with self._changed:
            self._changed.notify_all()

    def enter(self, guest: ReturningGuest, killed_too: bool = False) -> bool:
        """Take the turn and be the one that runs; whether that was another one before. Raises GuestDied, OSError, EOFError."""
        self.take(guest, killed_too)
        try:
            with self.line.lock:
                if self.active is guest:
                    return False
                if guest._gone:
                    raise GuestDied("crash", guest._gone)
                if self.active is not None:
                    self.active._set_aside()
                self.active = None
                guest._come_back()
                self.active = guest
                return True
        except BaseException:
            self.leave(guest)
            raise

    # -- the keeper --------------------------------------------------------------------------------------------------------

    def fork(self, guest: ReturningGuest) -> int:
        """Let there be another session with the state of `guest`; its number. Raises BackendUnavailable, GuestDied, OSError, EOFError."""
        self.take(guest)
        try:
            with self.line.lock:
                if guest._gone:
                    raise GuestDied("crash", guest._gone)
                if self.active is guest:
                    guest._keep_now()
                if guest._missed:
                    raise BackendUnavailable(f"the session cannot be branched now: {guest._no_way}")
                number = guest._order(keeping.FORK)
                kind, why = self.until(guest, number)
                if kind == keeping.LOST:
                    reason = f"there is no room for more than {keeping.BRANCHES} in one cell" if why else guest._no_way
                    raise BackendUnavailable(f"the session cannot be branched: {reason}")
                return number
        finally:
            self.leave(guest)

    def until(self, guest: ReturningGuest, order: int) -> tuple[bytes, int]:
        """The keeper's answer to an order that concerns nobody's process; what it says of the one that runs is for that. Raises OSError, EOFError."""
        deadline = time.monotonic() + _ANSWER
        while True:
            active = self.active
            if active is not None:
                active._stay_awake()
            try:
                kind, number, answers, fds = guest._hear(_SHORT)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
                continue
            if answers == order and kind != keeping.ENDED:
                return kind, number
            (active or guest)._heard(kind, number, answers, fds)

    # -- ends --------------------------------------------------------------------------------------------------------------

    def drop(self, guest: ReturningGuest) -> bool:
        """`guest` is closed. Whether it was the last, and everything has ended with it."""
        with self.line.lock:
            with self._changed:
                self._members.discard(guest)
                last = not self._members
            if not last:
                try:
                    guest._be_dropped()
                except (OSError, EOFError):
                    self.end()  # who watches over them all does not answer any more
            if self.active is guest:
                self.active = None
        self.leave(guest)
        if last:
            self.end()
            if os.getpid() == self._owner:
                ready(self.pidfd, 5.0)
            os.close(self.pidfd)
            os.close(self._status)
            self.line.close()
        return last

    def end(self) -> None:
        """End every process of the cell."""
        if os.getpid() != self._owner:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
