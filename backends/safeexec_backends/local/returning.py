"""A cell whose steps can be undone, as the host has it. What happens inside: ``keeper``."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Any

from safeexec import wire
from safeexec.backend import GuestDied, OnFrame
from safeexec.policy import Policy
from safeexec_backends.local import keeping
from safeexec_backends.local.process import LocalGuest, ZygoteProcess

_ANSWER = 10.0
"""Seconds that going back may take: there may be many files to put back, and a checkpoint is the session's code, which may not want to wake."""
_NONE = "the checkpoint is gone"
_MOMENT = 0.25
"""Seconds that ending a session may wait for its checkpoint."""
_MISSED = {
    keeping.THREADS: "a thread that an earlier step started still runs, and would not be in a copy of the process",
    keeping.FILES: "an earlier step left files, or had files open, that are too large or too many to be kept",
}


class ReturningGuest(LocalGuest):
    """One cell that keeps its state between two requests."""

    def __init__(
        self,
        stream: socket.socket,
        policy: Policy,
        zygote: ZygoteProcess,
        pid: int,
        pidfd: int,
        status: int,
        forget: Any,
    ) -> None:
        super().__init__(stream, policy, zygote, pid, pidfd, status, forget)
        self._most = policy.limits.value + wire.MAX_HEADER
        self._keeper: socket.socket | None = None
        """The line to the cell's keeper, once there is one."""
        self._runner = -1
        """Its pidfd."""
        self._pending = False
        """Whether a checkpoint was asked for that nothing was heard of."""
        self._began = False
        """Whether code ran before the first checkpoint was asked for: who watches over a session must not have run any of it."""
        self._ended: int | None = None
        self._no_way = _NONE
        self._listening = threading.RLock()
        """Held by whoever reads from the keeper."""

    def _target(self) -> int:
        return self._pidfd if self._runner < 0 else self._runner

    def exchange(self, frame: wire.Frame, on_frame: OnFrame) -> None:
        if self._keeper is None and not self._pending:
            self._began = self._began or frame[0].get("t") not in keeping.SETUP
            super().exchange(frame, on_frame)
            return
        self._wake()
        try:
            if self._pending:
                self._await_checkpoint()
            super().exchange(frame, on_frame)
        finally:
            self._idle()

    # -- checkpoints ---------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """See SupportsCheckpoint."""
        if self._began:
            self._no_way = "code had run before the first checkpoint was asked for"
            return
        self._wake()
        try:
            if self._pending:
                self._await_checkpoint()
            if self._keeper is not None:
                self._keeper.sendall(keeping.KEEP)
            self._pending = True
            self._write(wire.pack({"t": "keep"}))
        except (GuestDied, OSError):
            pass  # the next exchange finds out
        finally:
            self._idle()

    def rollback(self) -> None:
        """See SupportsCheckpoint."""
        self._wake()
        try:
            if self._keeper is None:
                raise GuestDied("crash", self._no_way)
            with self._listening:
                self._go_back(self._keeper)
            self._killed = self._pending = False
        except (OSError, EOFError) as error:
            self._end()
            raise GuestDied("crash", f"the process that watches over the sandbox failed: {error}") from error
        except GuestDied:
            self._end()
            raise
        finally:
            self._idle()

    def _go_back(self, keeper: socket.socket) -> None:
        self._signal(signal.SIGKILL)
        keeper.sendall(keeping.BACK)
        while True:
            kind, number, fds = self._hear(_ANSWER)
            if kind == keeping.RUNNER:
                self._adopt(fds)
                return
            if kind == keeping.LOST:
                raise GuestDied("crash", self._no_way + (f" ({os.strerror(number)})" if number else ""))

    def _await_checkpoint(self) -> None:
        """Hear whether the checkpoint was taken. Raises GuestDied."""
        try:
            with self._listening:
                self._settle(None)
        except (OSError, EOFError) as error:
            raise self.death() from error

    def _settle(self, timeout: float | None) -> None:
        while self._pending:
            kind, number, fds = self._hear(timeout)
            if kind == keeping.RUNNER:
                self._keeper = self._keeper or self._socket
                self._adopt(fds)
            elif kind == keeping.ENDED:
                raise EOFError
            elif kind in (keeping.MISSED, keeping.LOST):
                self._no_way = _MISSED.get(number) or f"the sandbox could not keep its state: {os.strerror(number)}"
                self._began = self._began or self._keeper is None
            else:
                self._no_way = _NONE
            self._pending = False

    def _hear(self, timeout: float | None) -> tuple[bytes, int, list[int]]:
        """The keeper's next message. Raises OSError, EOFError."""
        line = self._keeper or self._socket
        assert line is not None
        line.settimeout(timeout)
        data, fds, _, _ = socket.recv_fds(line, keeping.MESSAGE.size, 2)
        while data and len(data) < keeping.MESSAGE.size:
            more = line.recv(keeping.MESSAGE.size - len(data))
            data = data + more if more else b""
        if not data:
            raise EOFError("it ended")
        kind, number = keeping.MESSAGE.unpack(data)
        if kind == keeping.ENDED:
            self._ended = number
        return kind, number, list(fds)

    def _adopt(self, fds: list[int]) -> None:
        """Go on with a new runner: its channel, its pidfd."""
        channel, runner = fds
        with self._signal_lock, self._send_lock:
            if self._socket is not None and self._socket is not self._keeper:
                self._socket.close()
            if self._runner >= 0:
                os.close(self._runner)
            self._socket, self._runner, self._ended = socket.socket(fileno=channel), runner, None
            self._reader = wire.FrameReader(self._socket.recv_into, self._most)

    # -- ends ----------------------------------------------------------------------------------------------------------------

    def death(self) -> GuestDied:
        if self._keeper is None:
            return super().death()
        if not self._killed:
            try:
                with self._listening:  # whoever answers a tool may notice it, too
                    while self._ended is None:
                        self._hear(0.5 if not self._dead() else 10.0)
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
        if self._pending and self._listening.acquire(blocking=False):
            try:
                self._settle(_MOMENT)
            except (OSError, EOFError):
                pass  # then there is none
            finally:
                self._listening.release()
        super().kill()

    def _end(self) -> None:
        """End every process of the cell."""
        with self._signal_lock:
            if self._closed or os.getpid() != self._owner:
                return
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.kill()

    def close(self) -> None:
        self._end()  # its first process, and with it all others
        super().close()
        with self._signal_lock:
            if self._runner >= 0:
                os.close(self._runner)
                self._runner = -1
            if self._keeper is not None:
                self._keeper.close()
