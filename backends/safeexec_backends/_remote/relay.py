"""The program that runs at the vendor: starts the guest and carries its frames over standard input and output.

Standard library only, CPython 3.9 and later; shipped as text behind ``safeexec.bundle.guest_source()``, ``import_rule.py`` and ``lines.py``. The guest is a process of its own, so that code which
closes descriptors, crashes or hangs cannot take the relay with it, and so that its exit status is known whatever the vendor reports.
"""

import collections
import json
import os
import select
import signal
import socket
import sys
import threading
from typing import Any, Deque, Dict, List, Tuple

if "safeexec_lines" in sys.modules:  # shipped as text; another version may be installed in the sandbox
    import safeexec_import_rule as import_rule  # type: ignore[import-not-found, unused-ignore]
    import safeexec_lines as lines  # type: ignore[import-not-found, unused-ignore]
else:
    from safeexec_backends import import_rule
    from safeexec_backends._remote import lines


def language(guest: Any, patterns: Tuple[str, ...]) -> Any:
    """The whole language, with the policy's imports as a rule. No wall: the machine around it is."""

    class Rule(guest.Python):  # type: ignore[misc]
        hidden = ("<safeexec",)

        def namespace(self) -> Dict[str, Any]:
            names: Dict[str, Any] = super().namespace()
            if "*" not in patterns:
                import builtins

                builtins.__import__ = import_rule.ImportRule(guest, patterns, builtins.__import__)
            return names

    return Rule()


def confine(memory: int) -> None:
    """Bound what this process may have beyond what it has now."""
    import resource

    try:
        with open("/proc/self/status") as status:
            now = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    except (OSError, StopIteration):
        now = 64 * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (now + memory, now + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _die_with_parent() -> None:
    # Where the vendor kills the relay alone, a busy guest would never notice that the host is gone.
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, linux/prctl.h
    except (ImportError, OSError, AttributeError):
        pass  # not Linux, or no ctypes: the machine's end is the guest's


def serve_guest(stream: socket.socket, setup: Dict[str, Any]) -> None:
    """The child: become the guest. Does not return."""
    import tempfile

    import safeexec_guest as guest  # type: ignore[import-not-found, unused-ignore]

    os.setsid()
    _die_with_parent()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    home = os.path.expanduser("~")
    if not os.access(home, os.W_OK):
        home = tempfile.gettempdir()
    os.chdir(tempfile.mkdtemp(prefix="session-", dir=home))
    if "packages" in setup:
        sys.path.insert(0, os.path.join(os.path.expanduser("~"), setup["packages"]))
    # Figures are drawn, not shown: there is no display here.
    os.environ.setdefault("MPLBACKEND", "Agg")

    class Forwarding(guest.Guest):  # type: ignore[misc, name-defined, unused-ignore]
        """Also sends what programs and native code write to descriptors 1 and 2."""

        def forward(self) -> None:
            """Take over the descriptors, and send what comes from them while steps run."""
            self.pipes: Dict[int, Any] = {}
            self.pipe_lock = threading.Lock()
            for fd, stream in ((1, self._stdout), (2, self._stderr)):
                read, write = os.pipe()
                # The other end stays too: a pipe that nobody can write to would wake the pump for ever.
                os.dup2(write, fd)
                os.set_blocking(read, False)
                self.pipes[read] = stream.buffer
            threading.Thread(target=self.pump, daemon=True).start()

        def pump(self) -> None:
            poll = select.poll()
            for fd in self.pipes:
                poll.register(fd, select.POLLIN)
            while True:
                try:
                    poll.poll()
                    self.drain()
                except OSError:
                    return  # user code closed them

        def drain(self) -> None:
            with self.pipe_lock:
                for fd, stream in self.pipes.items():
                    while True:
                        try:
                            data = os.read(fd, 65536)
                        except BlockingIOError:
                            break
                        if not data:
                            break
                        try:
                            stream.write(data)
                        except guest.OutputFlood:
                            continue  # past its limit: read on, or its writer would hang

        def _finish(self, answer: Dict[str, Any], started: float) -> None:
            try:
                self.drain()  # what came before the step's end belongs to the step
            except OSError:
                pass
            super()._finish(answer, started)

    served = Forwarding(guest.FdChannel(stream.fileno()), language(guest, tuple(setup["imports"])))
    served.forward()
    confine(setup["memory"])
    served.serve()
    os._exit(0)


def _killed_for_memory() -> int:
    try:
        with open("/proc/vmstat") as counters:
            return next(int(line.split()[1]) for line in counters if line.startswith("oom_kill "))
    except (OSError, StopIteration, ValueError):
        return 0


class Relay:
    """Bytes of the guest to lines on standard output, lines of standard input to bytes for the guest."""

    def __init__(self, pid: int, stream: socket.socket) -> None:
        self._pid = pid
        self._stream = stream
        self._fd = stream.fileno()
        self._down = lines.Receiver()
        self._up = lines.Sender()
        self._to_guest: List[memoryview] = []
        self._to_host = memoryview(b"")
        self._history: Deque[Tuple[int, bytes]] = collections.deque()
        self._kept = 0
        self._open = True

    def run(self) -> None:
        """Until the guest ends, the host hangs up, or either breaks the rules."""
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        os.set_blocking(self._fd, False)
        before = _killed_for_memory()
        self._say("h", json.dumps({"python": sys.version.split()[0]}).encode())
        while self._open:
            poll = select.poll()
            # One side that does not read stops the other from being read: nothing piles up here. Interrupts are the exception, so input
            # is read until as much waits for the guest as the host may have under way.
            if sum(map(len, self._to_guest)) < lines.WINDOW:
                poll.register(0, select.POLLIN)
            events = select.POLLOUT if self._to_guest else 0
            if not len(self._to_host):
                events |= select.POLLIN
            poll.register(self._fd, events)
            if len(self._to_host):
                poll.register(1, select.POLLOUT)
            for fd, event in poll.poll():
                if fd == 0:
                    self._from_host()
                elif fd == 1:
                    self._flush()
                else:
                    if event & (select.POLLIN | select.POLLHUP) and not len(self._to_host):
                        self._from_guest()
                    if event & select.POLLOUT:
                        self._feed()
        self._finish(before)

    def _from_host(self) -> None:
        try:
            data = os.read(0, 1 << 18)
        except BlockingIOError:
            return
        if not data:
            self._signal(signal.SIGKILL)  # the host has hung up: nobody waits for what the guest may still do
            self._open = False
            return
        for kind, body in self._down.feed(data):
            if kind == "d":
                self._to_guest.append(memoryview(body))
            elif kind == "i":
                self._signal(signal.SIGINT)
            elif kind == "r":
                self._resume(int(body))
        self._feed()

    def _feed(self) -> None:
        while self._to_guest:
            try:
                count = os.write(self._fd, self._to_guest[0])
            except BlockingIOError:
                return
            except OSError:
                self._to_guest.clear()  # the guest closed its end; its exit is seen next
                return
            if count == len(self._to_guest[0]):
                self._to_guest.pop(0)
            else:
                self._to_guest[0] = self._to_guest[0][count:]

    def _from_guest(self) -> None:
        try:
            data = os.read(self._fd, lines.CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._say("d", data)
        else:
            self._open = False

    def _say(self, kind: str, body: bytes = b"") -> None:
        line = self._up.line(kind, body)
        self._history.append((self._up.number, line))
        self._kept += len(line)
        while self._kept > lines.HISTORY:
            self._kept -= len(self._history.popleft()[1])
        self._to_host = memoryview(bytes(self._to_host) + line)
        self._flush()

    def _resume(self, seen: int) -> None:
        """The host's connection broke: send again what came behind record `seen`, cut records included."""
        if self._history and self._history[0][0] > seen + 1:
            self._open = False  # too far behind: nothing could make up for what is gone
            return
        self._to_host = memoryview(b"".join(line for number, line in self._history if number > seen))
        self._flush()

    def _flush(self) -> None:
        try:
            while len(self._to_host):
                self._to_host = self._to_host[os.write(1, self._to_host) :]
        except BlockingIOError:
            return
        except OSError:
            self._open = False
            self._to_host = memoryview(b"")

    def _signal(self, number: int) -> None:
        try:
            os.kill(self._pid, number)
        except OSError:
            pass

    def _finish(self, before: int) -> None:
        """Report how the guest ended; end it first if it only hung up."""
        status = self._reap(0.5)
        if status is None:
            self._signal(signal.SIGKILL)
            os.waitpid(self._pid, 0)
            report: Dict[str, Any] = {"hung_up": True}
        elif os.WIFSIGNALED(status):
            # The kernel's own count tells its killing from the program's own kill -9.
            report = {"signal": os.WTERMSIG(status), "memory": _killed_for_memory() > before}
        else:
            report = {"code": os.WEXITSTATUS(status)}
        try:
            os.killpg(self._pid, signal.SIGKILL)  # what it started
        except OSError:
            pass
        os.set_blocking(1, True)
        self._say("x", json.dumps(report).encode())

    def _reap(self, patience: float) -> Any:
        import time

        deadline = time.monotonic() + patience
        while True:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                return status
            if time.monotonic() > deadline:
                return None
            select.select([], [], [], 0.002)


def main(setup: Dict[str, Any]) -> None:
    """Start the guest and relay until it ends."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            serve_guest(theirs, setup)
        finally:
            os._exit(70)
    theirs.close()
    try:
        Relay(pid, ours).run()
    except lines.LinesBroken as error:
        os.kill(pid, signal.SIGKILL)
        sys.exit(str(error))
