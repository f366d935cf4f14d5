"""The host's handles of the processes it has: the zygote and its cells."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from safeexec import watchdog, wire
from safeexec.backend import GuestDied, OnFrame, StreamGuest
from safeexec.errors import BackendUnavailable
from safeexec.policy import Policy
from safeexec_backends._hardening.folders import remove_tree
from safeexec_backends._hardening.waiting import ready
from safeexec_backends.local import control, launch

if sys.platform != "win32":
    import resource  # here: where no descriptors are left nothing can be imported


class ZygoteDied(Exception):
    """The zygote is gone."""


class Threaded(Exception):
    """A module that the zygote imported started threads: it must be imported by the cells instead."""

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module


class NoRoom(BackendUnavailable):
    """The host has no descriptors left for another cell. Those that it has go on."""


_ANSWER = 120.0
"""Seconds a zygote may take to answer: it may have to import large packages first."""


_FILES = 256
"""Open files that every sandbox makes do with."""


def _few() -> str:
    """What may be behind an error that names a descriptor."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = limit != resource.RLIM_INFINITY and limit < _FILES
    return f"; {limit} files may be open here (ulimit -Hn), and {_FILES} are enough for any sandbox" if few else ""


def no_room(what: str, error: OSError | None = None) -> str:
    """Why there is not one more of `what`: because of `error`, or because this process cannot take the descriptors that it needs."""
    if error is not None and error.errno != errno.EMFILE:
        return f"no room for another {what}: {error}"
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"no room for another {what}: Too many open files; this process may have {limit} (ulimit -n): close some sessions, or allow it more"


class ZygoteProcess:
    """A running zygote and the socket to it."""

    module = launch.MODULE
    """Where its `main` is."""
    sandbox = "local"
    """Whose it is, for messages."""

    def __init__(self, setup: dict[str, Any]) -> None:
        """Raises BackendUnavailable when it does not come up."""
        if not sys.executable:
            raise BackendUnavailable(
                f"the {self.sandbox} sandbox needs a Python interpreter to start, and sys.executable names none"
            )
        try:
            started = launch.take(setup, self.module) or launch.Launched(setup, self.module)
        except OSError as error:
            raise BackendUnavailable(f"the interpreter {sys.executable} could not be started: {error}") from error
        self._process = started.process
        self._socket = started.socket
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._live = 0
        self._retired = False
        self._closed = False
        self._folder = ""
        try:
            self._socket.settimeout(_ANSWER)
            reply, _ = control.receive(self._socket)
        except BaseException as error:
            said = started.end()
            if not isinstance(error, EOFError | OSError):
                raise
            raise BackendUnavailable(
                f"the {self.sandbox} sandbox's zygote did not start: {said or error}{_few()}"
            ) from error
        if "error" in reply:
            self.close()
            raise BackendUnavailable(
                f"the {self.sandbox} sandbox's zygote could not be set up: {reply['error']}{_few()}"
            )
        self._folder = reply["folder"]
        self.portable: bool = reply["portable"]
        """Whether it makes do without system calls of its own, having none it knows here."""
        self.walls: dict[str, str] = reply.get("walls", {})
        self.rollback: str = reply.get("rollback", "it is not known whether it could be undone")
        """Why a step that failed cannot be undone in its cells; empty where it can."""
        self.retry: dict[str, str] = reply.get("retry", {})
        """Walls it found out too late that it cannot have: another one must be started without them."""

    def expect(self, message: control.Message, idle: list[str]) -> None:
        """Say what the first cell will be like, and which modules are worth importing while nobody waits."""
        try:
            control.send(self._socket, {"op": "expect", "first": message, "idle": idle})
        except OSError:
            pass  # it died: whoever wants a cell finds out

    def spawn(self, message: control.Message) -> tuple[int, list[int]]:
        """A new cell: its pid; its channel, status pipe and, where there are any, pidfd.

        Raises ZygoteDied, Threaded, NoRoom, BackendUnavailable.
        """
        reply, given = self._request(message)
        if "error" in reply:
            if reply["module"]:
                raise Threaded(reply["module"])
            raise BackendUnavailable(f"a sandbox process could not be started: {reply['error']}")
        with self._lock:
            self._live += 1
        return reply["pid"], given

    def signal(self, pid: int, number: int) -> None:
        """Signal a cell where there are no pidfds; its parent is the one who can do it without a race."""
        try:
            self._request({"op": "signal", "pid": pid, "signal": number})
        except ZygoteDied:
            pass  # and its cells with it

    def _request(self, message: control.Message) -> tuple[control.Message, list[int]]:
        with self._lock:
            try:
                control.send(self._socket, message)
                return control.receive(self._socket, 3)
            except TimeoutError as error:
                self._process.kill()
                raise BackendUnavailable(
                    f"the {self.sandbox} sandbox's zygote gave no answer for {_ANSWER:.0f} seconds"
                ) from error
            except control.Lost as lost:
                for fd in lost.fds:  # the cell at their other ends is hung up on, and ends
                    os.close(fd)
                raise NoRoom(no_room("sandbox process")) from lost
            except (OSError, EOFError, ValueError) as error:
                raise ZygoteDied from error

    def done(self) -> None:
        """One cell less."""
        with self._lock:
            self._live -= 1
            last = self._retired and not self._live
        if last:
            self.close()

    def retire(self) -> None:
        """Close once the last cell is gone."""
        with self._lock:
            self._retired = True
            last = not self._live
        if last:
            self.close()

    def close(self) -> None:
        """End it and every cell it has. Idempotent."""
        self._socket.close()
        with self._lock:
            if self._closed or os.getpid() != self._owner:  # the child of a fork ends nothing of its parent's
                return
            self._closed = True
        if self._process.poll() is None:
            self._process.terminate()
            if not _gone(self._process.pid, 5.0):
                self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        if self._folder and os.path.exists(self._folder):
            remove_tree(self._folder)  # a zygote that was killed could not


def _gone(pid: int, timeout: float) -> bool:
    """Whether a child of ours ends within `timeout` seconds; the child is left to be waited for."""
    if not hasattr(os, "pidfd_open"):
        deadline = time.monotonic() + timeout
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:  # a host that ignores SIGCHLD has its children waited for by the kernel
        return True
    try:
        return ready(pidfd, timeout)
    finally:
        os.close(pidfd)


_REST = 0.05
"""Seconds without a request after which a cell is stopped."""


class LocalGuest(StreamGuest):
    """One cell."""

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
        super().__init__(stream, policy.limits.value + wire.MAX_HEADER)
        self.pid = pid
        self._zygote = zygote
        self._pidfd = pidfd
        self._status = status
        self._owner = os.getpid()
        self._signal_lock = threading.Lock()
        self._report_lock = threading.Lock()
        self._killed = False
        self._closed = False
        self._report: dict[str, Any] = {}
        self._forget = forget
        self._rest_lock = threading.Lock()
        self._busy = self._resting = False
        self._idle_since = 0.0

    def exchange(self, frame: wire.Frame, on_frame: OnFrame) -> None:
        # A cell without a request is stopped: a thread that a step left behind must not go on using the processor, unseen by any clock.
        # Not at once: two signals would cost every step of a busy session more than the step itself. Where there is no pidfd the
        # zygote would have to send them, at the price of two messages.
        if self._pidfd < 0:
            super().exchange(frame, on_frame)
            return
        self._wake()
        try:
            super().exchange(frame, on_frame)
        finally:
            self._idle()

    def _wake(self) -> None:
        with self._rest_lock:
            self._busy = True
            if self._resting:
                self._resting = False
                self._signal(signal.SIGCONT)

    def _idle(self) -> None:
        self._idle_since = time.monotonic()  # first: `_rest` looks at it once it sees the other
        self._busy = False
        watchdog.watch(id(self), self._rest)

    def _rest(self, now: float) -> None:
        """Stop the cell once it has had nothing to do for a while; called by the watchdog."""
        with self._rest_lock:
            if self._busy or now - self._idle_since < _REST:
                return
            watchdog.unwatch(id(self))
            self._resting = True
            self._signal(signal.SIGSTOP)

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        if os.getpid() != self._owner:  # the child of a fork ends nothing of its parent's
            return
        self._killed = True
        self._signal(signal.SIGKILL)
        self.hang_up()

    def _signal(self, number: int) -> None:
        # Through the pidfd: a process id could be another process's by the time the signal is sent. The lock keeps close() from
        # handing the descriptor's number to another file meanwhile.
        with self._signal_lock:
            if self._closed or os.getpid() != self._owner:
                return
            if self._pidfd < 0:
                self._zygote.signal(self.pid, number)
                return
            try:
                signal.pidfd_send_signal(self._target(), number)
            except ProcessLookupError:
                pass

    def _target(self) -> int:
        """The pidfd of the process that the session runs in."""
        return self._pidfd

    def _read_report(self, timeout: float) -> dict[str, Any]:
        """What the cell or its zygote said about its end, waiting for it up to `timeout` seconds."""
        deadline = time.monotonic() + timeout
        data = b""
        with self._report_lock:
            while not self._report and not self._closed:
                if not ready(self._status, deadline - time.monotonic()):
                    break
                part = os.read(self._status, 65536)
                data += part
                if not part or data.endswith(b"\n"):
                    self._report = json.loads(data.splitlines()[0]) if data.strip() else {"lost": True}
            return self._report

    def death(self) -> GuestDied:
        report = self._read_report(0.0 if self._killed else 0.5)
        if not report and not self._killed and not self._dead():
            # It lives on without its channel.
            self.kill()
            return GuestDied("crash", "the sandbox process closed its connection to the host")
        if self._killed:
            return GuestDied("crash", "the sandbox process was killed by the host")
        return self._died_of(report or self._read_report(10.0))

    @staticmethod
    def _died_of(report: dict[str, Any]) -> GuestDied:
        if "setup" in report:
            return GuestDied("crash", f"the sandbox process could not be set up: {report['setup']}")
        if "code" in report:
            return GuestDied("crash", f"the sandbox process left with exit code {report['code']}")
        number = report.get("signal", 0)
        if number == signal.SIGKILL:
            return GuestDied("memory", "the kernel killed the sandbox process; most likely memory ran out")
        if number == signal.SIGSYS:
            return GuestDied(
                "crash", "the system call wall (seccomp) ended the sandbox process: it made a call no program needs"
            )
        if number:
            return GuestDied("crash", f"the sandbox process was ended by {signal.Signals(number).name}")
        return GuestDied("crash", "the process that watches over the sandbox died")

    def _dead(self) -> bool:
        with self._signal_lock:
            return self._closed or (self._pidfd >= 0 and ready(self._target(), 0.0))

    def close(self) -> None:
        self.kill()
        with self._signal_lock, self._report_lock:
            if self._closed:
                return
            self._closed = True
            watchdog.unwatch(id(self))
            if self._pidfd >= 0:
                # A killed process may take a moment to be gone; after close() it is.
                if os.getpid() == self._owner:
                    ready(self._pidfd, 5.0)
                os.close(self._pidfd)
            os.close(self._status)
        super().close()
        self._forget(self)
        self._zygote.done()
