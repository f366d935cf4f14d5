"""A cell whose steps can be undone, as the host has it. What happens inside: ``keeper``."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from safeexec import watchdog, wire
from safeexec.backend import GuestDied, OnFrame
from safeexec.policy import Policy
from safeexec_backends.local import keeping
from safeexec_backends.local.family import Family
from safeexec_backends.local.line import KeeperLine
from safeexec_backends.local.process import LocalGuest, NoRoom, ZygoteProcess, no_room

_ANSWER = 10.0
"""Seconds that going back may take, and keeping a state that somebody else waits for: there may be many files, and it is the session's code that does not
want to wake, or to be copied."""
_NONE = "the checkpoint is gone"
_START, _KEPT = "start", "kept"
_REPEATED = 2**18
"""Bytes of first requests that are made again rather than kept."""
_KEEP = b"".join(wire.pack({"t": "keep"}))
_MOMENT = 0.25
"""Seconds that ending a session may wait for its checkpoint."""
_MISSED = {
    keeping.THREADS: "a thread that an earlier step started still runs, and would not be in a copy of the process",
    keeping.FILES: "an earlier step left files, or had files open, that are too large or too many to be kept",
}


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class ReturningGuest(LocalGuest):
    """One cell that keeps its state between two requests, or one of several sessions in a cell."""

    def __init__(
        self,
        stream: socket.socket,
        policy: Policy,
        zygote: ZygoteProcess,
        pid: int,
        pidfd: int,
        status: int,
        forget: Any,
        remember: Callable[[LocalGuest], None],
    ) -> None:
        super().__init__(stream, policy, zygote, pid, pidfd, status, forget)
        self._policy = policy
        self._remember = remember
        self._line = KeeperLine(stream)
        self._number = 0
        """What the keeper calls this session."""
        self._family: Family | None = None
        """Once the session has been forked, or if it is a branch."""
        self._runner = -1
        """Its pidfd; that of the first one comes over the line."""
        self._way = ""
        """What there is to go back to: `_START`, `_KEPT`, or nothing."""
        self._setup: list[bytes] | None = []
        """The requests that made the session what it was before its first step, as long as they can be made again; they run nobody's code."""
        self._ran = False
        """Whether there was any other request since."""
        self._wanted = False
        """Whether the state is to be kept, and nobody was told yet: the next request, or the next tick, does it. What is closed instead costs nothing."""
        self._pending = False
        """Whether a checkpoint was asked for that nothing was heard of."""
        self._asked = self._made = 0
        """The order by which it was asked for; the one that made the process that runs."""
        self._changed = False
        """Whether there was a request since the last checkpoint was wanted."""
        self._missed = False
        """Whether the last checkpoint that was asked for could not be taken."""
        self._gone = ""
        """Why nothing is left of this session in its cell."""
        self._ended: int | None = None
        self._no_way = _NONE

    def _target(self) -> int:
        # Never the keeper where it watches over others as well: they would end, or stand still, with this one.
        return self._pidfd if self._runner < 0 and self._family is None else self._runner

    def _signal(self, number: int) -> None:
        try:
            super()._signal(number)
        except OSError:
            if self._runner >= 0:
                raise  # else it has no process

    def prepare(self) -> None:
        family = self._family
        if family is not None:
            try:
                family.take(self)
                family.enter(self)
            except (GuestDied, OSError, EOFError):
                family.leave(self)  # the exchange meets it again

    def exchange(self, frame: wire.Frame, on_frame: OnFrame) -> None:
        kind = frame[0].get("t")
        family = self._family
        if family is None:
            self._exchange(frame, on_frame)
            return
        try:
            family.enter(self)
            self._exchange(frame, on_frame)
            self._changed = self._changed or kind not in keeping.PURE
        except (OSError, EOFError) as error:
            family.leave(self)
            raise self._lost_keeper(error) from error
        except BaseException:
            family.leave(self)
            raise
        if kind in keeping.PURE:
            family.leave(self)  # else the turn lasts until the state is to be kept, or undone

    def _exchange(self, frame: wire.Frame, on_frame: OnFrame) -> None:
        kind = frame[0].get("t")
        again: bytes | None = None
        if kind in keeping.SETUP and not self._ran:
            again = b"".join(wire.pack(*frame))  # now: what it was made of may change
        elif kind not in keeping.PURE:
            self._ran = True
        self._wake()
        try:
            self._arrive()
            try:
                self._ask(None)
            except (OSError, EOFError) as error:
                raise self.death() from error
            super(LocalGuest, self).exchange(frame, on_frame)
        finally:
            self._idle()
        if again is not None and self._setup is not None:
            self._setup.append(again)
            if sum(map(len, self._setup)) > _REPEATED:
                self._setup = None

    def _arrive(self) -> None:
        """Have the first process. Raises GuestDied."""
        if self._runner >= 0 or self._family is not None:
            return
        try:
            with self._line.lock:
                while self._runner < 0:
                    kind, number, answers, fds = self._hear(None)
                    if kind == keeping.RUNNER:
                        self._adopt(fds, answers)
                    elif kind == keeping.LOST:
                        raise GuestDied("crash", f"no process could be made for it: {os.strerror(number)}")
        except (OSError, EOFError) as error:
            raise self.death() from error

    # -- checkpoints ---------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """See SupportsCheckpoint."""
        if not self._ran and self._setup is not None:
            self._way = _START
            return
        if self._family is None:
            self._want()
        elif self._changed:
            self._want()
            self._family.leave(self)

    def _want(self) -> None:
        self._changed = False
        self._wanted = True
        watchdog.watch(id(self), self._rest)

    def _rest(self, now: float) -> None:
        # Whoever waits for a model has the state kept meanwhile. Never waits itself: it is the clock of all steps.
        with self._rest_lock:
            if self._wanted and not self._busy and not self._resting and self._line.lock.acquire(blocking=False):
                try:
                    self._ask(0.0)
                    self._idle_since = now
                except (OSError, EOFError):
                    pass  # the next request finds out
                finally:
                    self._line.lock.release()
        super()._rest(now)

    def _ask(self, seconds: float | None) -> None:
        """Have the runner copied before it does anything else, if that is wanted.

        What came of the last copy is heard first; what comes of this one, later. To hear that, and to have the order read by the runner, may take
        `seconds` each. Raises TimeoutError, OSError, EOFError.
        """
        with self._line.lock:
            if self._wanted:
                self._settle(seconds)
                number = self._order(keeping.KEEP)
                if seconds is None:
                    self._write((_KEEP,))
                else:
                    self._write_soon((_KEEP,), seconds)
                self._asked, self._pending, self._wanted, self._changed = number, True, False, False

    def _order(self, kind: bytes) -> int:
        """Give the keeper an order about this session; its number. Raises OSError."""
        return self._line.order(kind, self._number)

    def rollback(self) -> None:
        """See SupportsCheckpoint."""
        self._wake()
        try:
            if not self._way:  # unless what was asked for last is the first that was kept, and was not heard of yet
                with self._line.lock:
                    self._secure()
            if not self._way:
                raise GuestDied("crash", self._no_way)
            if self._family is None or not self._family.enter(self, killed_too=True):
                with self._line.lock:
                    self._secure()
                    self._signal(signal.SIGKILL)
                    self._go()
            self._killed = self._pending = self._wanted = self._changed = self._missed = False
        except (OSError, EOFError) as error:
            raise self._lost_keeper(error) from error
        except GuestDied:
            self._end()
            raise
        finally:
            self._idle()
            if self._family is not None:
                self._family.leave(self)

    def _secure(self) -> None:
        """Have the checkpoint that was wanted before the process is ended that it would be taken of; not for long, it may not be able to."""
        if self._wanted or self._pending:
            try:
                self._ask(_MOMENT)
                self._settle(_MOMENT)
            except (OSError, EOFError):
                pass  # then there is none

    def _lost_keeper(self, error: Exception) -> GuestDied:
        if self._family is not None:
            self._family.end()
        self._end()
        return GuestDied("crash", f"the process that watches over the sandbox failed: {error}")

    def _go(self) -> None:
        """Be as at the last checkpoint. Raises GuestDied, OSError, EOFError."""
        order = self._order(keeping.GO)
        while True:
            kind, number, answers, fds = self._hear(_ANSWER)
            if answers != order:
                _close(fds)  # somebody was interrupted before he heard that
            elif kind == keeping.RUNNER and len(fds) < 2 and self._runner >= 0:
                # There was no room for what leads to it. What leads to the one before it makes some.
                _close(fds)
                self._let_go()
                order = self._order(keeping.GO)
            elif kind == keeping.RUNNER:
                self._adopt(fds, order)
                if self._way == _START:
                    self._begin_again()
                return
            elif kind == keeping.LOST:
                self._gone = self._no_way + (f" ({os.strerror(number)})" if number else "")
                raise GuestDied("crash", self._gone)

    def _begin_again(self) -> None:
        """Be what the first requests made of the session, which has nothing else to go back to. Raises GuestDied, OSError, EOFError."""
        try:
            for frame in self._setup or ():
                self._write((frame,))
                while self._reader.next()[0].get("t") != "done":
                    pass
        except wire.WireError as error:
            raise GuestDied("crash", f"the session could not be begun again: {error}") from error
        self._ran = False

    def _await_checkpoint(self, seconds: float | None = None) -> None:
        """Have the checkpoint taken that is wanted, and hear whether it was; `seconds` where no step's clock bounds that. Raises GuestDied."""
        try:
            with self._line.lock:
                self._ask(seconds)
                self._settle(seconds)
        except TimeoutError as error:
            self.kill()
            raise GuestDied("crash", "the sandbox process does not let its state be kept") from error
        except (OSError, EOFError) as error:
            raise self.death() from error

    def _settle(self, timeout: float | None) -> None:
        while self._pending:
            self._heard(*self._hear(timeout))
            if self._ended is not None:
                raise EOFError

    def _heard(self, kind: bytes, number: int, answers: int, fds: list[int]) -> None:
        """What the keeper says of the process that runs, and of others, which is nothing to this session."""
        _close(fds)
        if answers != self._asked or not self._pending or kind not in (keeping.KEPT, keeping.MISSED):
            return
        self._pending, self._setup = False, None
        self._missed = kind == keeping.MISSED
        if self._missed:
            self._way = ""
            self._no_way = _MISSED.get(number) or f"the sandbox could not keep its state: {os.strerror(number)}"
        else:
            self._way, self._no_way = _KEPT, _NONE

    def _hear(self, timeout: float | None) -> tuple[bytes, int, int, list[int]]:
        """See `KeeperLine.hear`; takes note of the end of the process that runs."""
        kind, number, answers, fds = self._line.hear(timeout)
        if kind == keeping.ENDED:
            active = (self._family.active if self._family is not None else None) or self
            if active._made == answers:
                active._ended = number
        return kind, number, answers, fds

    # -- branches ------------------------------------------------------------------------------------------------------------

    def fork(self) -> ReturningGuest:
        """See SupportsFork."""
        try:
            nowhere, end = socket.socketpair()
        except OSError as error:  # not to be met with half a branch made
            raise NoRoom(no_room("branch", error)) from error
        if self._family is None:
            self._family = Family(self, self._line, self._pidfd, self._status)
        with nowhere, end:
            try:
                return self._branch(self._family, self._family.fork(self), nowhere)
            except (OSError, EOFError) as error:
                raise self._lost_keeper(error) from error

    def _stay_awake(self) -> None:
        """Not to be stopped for a moment: the keeper may be waiting for its copy before it hears anybody else."""
        with self._rest_lock:
            if self._busy:
                return
            self._idle_since = time.monotonic()
            if self._resting:
                self._resting = False
                self._signal(signal.SIGCONT)
        watchdog.watch(id(self), self._rest)

    def _branch(self, family: Family, number: int, nowhere: socket.socket) -> ReturningGuest:
        branch = ReturningGuest(
            nowhere, self._policy, self._zygote, self.pid, self._pidfd, self._status, self._forget, self._remember
        )
        branch._family, branch._number, branch._line = family, number, self._line
        branch._way, branch._setup, branch._ran = _KEPT, None, True
        family.join(branch)
        try:
            self._remember(branch)
        except BaseException:
            branch.close()
            raise
        return branch

    def _keep_now(self) -> None:
        """Have the state kept before somebody else runs; where that failed after the last step, try once more. Raises GuestDied."""
        self._wake()
        try:
            self._await_checkpoint(_ANSWER)
            if self._missed or self._changed or self._way != _KEPT:
                self._wanted = True
                self._await_checkpoint(_ANSWER)
        finally:
            self._idle()

    def _set_aside(self) -> None:
        """Another session of the cell is to run."""
        if self._closed:
            return
        try:
            self._keep_now()
        except GuestDied as death:
            if self._pending or self._wanted:  # else it goes back when it is asked for
                self._gone = f"it ended before its state was kept: {death.message}"
        self._pending = self._wanted = False
        if self._missed:
            self._gone = f"it could not be set aside while another session of its cell ran: {self._no_way}"
        self._let_go()

    def _come_back(self) -> None:
        """Be the one that runs: where the session was. Raises GuestDied, OSError, EOFError."""
        try:
            self._go()
        except GuestDied:
            self._gone = self._gone or _NONE
            raise
        self._pending = self._wanted = self._changed = self._missed = False

    def _be_dropped(self) -> None:
        """Tell the keeper that the session has ended, and hear all that it had said of others before. Raises OSError, EOFError."""
        if os.getpid() != self._owner or self._family is None:
            return
        self._family.until(self, self._order(keeping.DROP))

    def _adopt(self, fds: list[int], order: int) -> None:
        """Go on with a new runner: its channel, its pidfd. Raises GuestDied where this process had no place for them."""
        if len(fds) < 2:
            _close(fds)
            raise GuestDied("crash", no_room("session"))
        channel, runner = fds
        self._cut()
        with self._signal_lock, self._send_lock:
            self._forget_runner()
            self._socket, self._runner, self._ended = socket.socket(fileno=channel), runner, None
            self._made = order
            self._reader = self._reader.of(self._socket.recv_into)

    def _let_go(self) -> None:
        """Have nothing to do with the process that ran."""
        self._cut()
        with self._signal_lock, self._send_lock:
            self._forget_runner()

    def _cut(self) -> None:
        """Whoever still sends to the process that ran is to stop: a copy of it may hold its end of the channel open, and read nothing there."""
        if self._socket is not self._line.socket:
            self.hang_up()

    def _forget_runner(self) -> None:
        """Close what leads to the process that ran; whoever calls holds the locks of signals and of sending."""
        if self._socket is not None and self._socket is not self._line.socket:
            self._socket.close()
        if self._runner >= 0:
            os.close(self._runner)
        self._runner = -1

    # -- ends ----------------------------------------------------------------------------------------------------------------

    def death(self) -> GuestDied:
        if self._runner < 0 and self._family is None:
            return super().death()
        if not self._killed:
            try:
                with self._line.lock:  # whoever answers a tool may notice it, too
                    while self._ended is None:
                        self._heard(*self._hear(0.5 if not self._dead() else 10.0))
            except TimeoutError:
                self.kill()  # it lives on without its channel
                return GuestDied("crash", "the sandbox process closed its connection to the host")
            except (OSError, EOFError):
                return super().death()
        if self._killed or self._ended is None:
            return GuestDied("crash", "the sandbox process was killed by the host")
        number = self._ended
        return self._died_of({"signal": -number} if number < 0 else {"code": number})

    def kill(self) -> None:
        # A checkpoint that is being taken right now would be lost with the runner. Only where nobody waits for it already: then time is up.
        runs = self._family is None or self._family.active is self
        if (self._pending or self._wanted) and runs and self._line.lock.acquire(blocking=False):
            try:
                self._secure()
            finally:
                self._line.lock.release()
        super().kill()
        if self._family is not None:
            self._family.wake()

    def abandon(self) -> None:
        # What is ended for good needs no checkpoint.
        if self._family is None:
            self._end()
            return
        self._wanted = False
        super().kill()
        self._family.wake()

    def _end(self) -> None:
        """End every process of the cell, if it has no other session."""
        if self._family is not None:
            self._gone = self._gone or self._no_way
            self.kill()
            return
        with self._signal_lock:
            if self._closed or os.getpid() != self._owner:
                return
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)  # its first process, and with it all others
            except ProcessLookupError:
                pass
        self._wanted = self._pending = False
        super().kill()

    def close(self) -> None:
        family = self._family
        if family is not None:
            self._leave_family(family)
            return
        self._end()
        super().close()
        with self._signal_lock:
            if self._runner >= 0:
                os.close(self._runner)
                self._runner = -1
            self._line.close()

    def _leave_family(self, family: Family) -> None:
        self.abandon()
        with self._signal_lock, self._report_lock:
            if self._closed:
                return
            self._closed = True
        watchdog.unwatch(id(self))
        last = family.drop(self)
        self._cut()
        with self._signal_lock, self._send_lock:
            self._forget_runner()
        self._forget(self)
        if last:
            self._zygote.done()
