"""The host's side of the ``local`` sandbox: one zygote per executor, one cell per session."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import safeexec_backends
from safeexec import wire
from safeexec.backend import Backend, GuestDied, StreamGuest, Wall
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.policy import DEFAULT_IMPORTS, Policy
from safeexec_backends._hardening.folders import remove_tree
from safeexec_backends.local import control

_LANGUAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "language")
"""Read by cells that are forked before the zygote has imported all of it. Where this package is installed from a clone, it lies elsewhere than
the libraries."""
_FACADES = [
    f"safeexec_backends.local.language.facades.{name}" for name in ("table", "guarded", "files", "system", "views", "aio")
]
_MINIMUM = "seccomp and one of landlock or mount_namespace"
_WEAKER = "Policy(require=()), or --allow-weak on the command line, runs it with fewer walls"


class LocalBackend(Backend):
    """CPython in hardened processes of the host, behind a language wall.

    Raises BackendUnavailable where the walls asked for do not stand, PolicyError for what this sandbox cannot honour.
    """

    name: ClassVar[str] = "local"

    def __init__(
        self, policy: Policy, *, _language: str = "restricted", _deny: Iterable[str] = (), **options: Any
    ) -> None:
        if options:
            raise PolicyError(f"the local sandbox has no option {', '.join(sorted(options))}")
        if os.name != "posix":
            raise BackendUnavailable(
                "the local sandbox needs Linux (or, with fewer walls, macOS); use another sandbox here"
            )
        self._language = _language
        self._deny = dict.fromkeys(_deny, "switched off")
        self._policy = policy
        self._lock = threading.Lock()
        self._closed = False
        self._owner = os.getpid()
        self._skip: set[str] = set()
        self._zygote: _ZygoteProcess | None = None
        self._guests: set[LocalGuest] = set()
        try:
            self._launch()
            self._check(policy)
        except BaseException:
            self.close()
            raise

    @property
    def isolation(self) -> Mapping[str, Wall]:
        """What a cell found standing around itself when this backend started."""
        return MappingProxyType({**self._walls, "language": self._language_wall(self._policy)})

    def start(self, policy: Policy) -> LocalGuest:
        if os.getpid() != self._owner:
            raise BackendUnavailable("an executor does not survive a fork: make one in this process")
        self._check(policy)
        with self._lock:
            if self._closed:
                raise BackendUnavailable("the backend is closed")
            guest = self._start(policy)
            self._guests.add(guest)
        return guest

    def close(self) -> None:
        with self._lock:
            self._closed = True
            guests, zygote = list(self._guests), self._zygote
            self._zygote = None
        for guest in guests:
            guest.close()
        if zygote is not None:
            zygote.close()

    # -- the zygote --------------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        self._zygote = zygote = _ZygoteProcess(
            {
                "readable": [*_library(), _LANGUAGE],
                "deny": self._deny,
                "imports": _third_party(self._policy),
                "language": self._language,
                "idle": [*_FACADES, *(m for m in DEFAULT_IMPORTS if m != "os")],
                "skip": sorted(self._skip),
                "first": _order(self._policy),
            }
        )
        self._walls = {name: Wall(not reason, reason) for name, reason in zygote.walls.items()}

    def _start(self, policy: Policy) -> LocalGuest:
        for _ in range(8):
            if self._zygote is None:
                self._launch()
                self._check_walls(policy)
            assert self._zygote is not None
            try:
                pid, (stream, status, *pidfd) = self._zygote.spawn(_order(policy))
            except _ZygoteDied:
                # Killed from outside. Its cells died with it; sessions to come get a new one.
                self._zygote.close()
                self._zygote = None
            except _Threaded as error:
                self._skip.add(error.module)
                old, self._zygote = self._zygote, None
                old.retire()
            else:
                sock = socket.socket(fileno=stream)
                return LocalGuest(sock, policy, self._zygote, pid, [*pidfd, -1][0], status, self._guests.discard)
        raise BackendUnavailable("the local sandbox's zygote dies as soon as it is started")

    # -- what can be honoured ----------------------------------------------------------------------------------------------

    def _check(self, policy: Policy) -> None:
        if policy.packages:
            raise PolicyError("the local sandbox installs nothing: leave Policy.packages empty, or use docker or wasm")
        if policy.network:
            raise PolicyError("the local sandbox has no network: leave Policy.network empty, or use docker or wasm")
        changed = policy.limits.changed()
        if "disk" in changed and not self._walls["mount_namespace"].active:
            raise PolicyError(
                "Limits.disk cannot be held here without a mount namespace: " + self._walls["mount_namespace"].reason
            )
        if "processes" in changed and not self._walls["user_namespace"].active:
            raise PolicyError(
                "Limits.processes cannot be held here without a user namespace: " + self._walls["user_namespace"].reason
            )
        if policy.rollback in ("limits", "errors"):
            raise PolicyError("the local sandbox cannot undo a failed step: leave Policy.rollback None, or set 'never'")
        self._check_walls(policy)

    def _check_walls(self, policy: Policy) -> None:
        walls = {**self._walls, "language": self._language_wall(policy)}
        if policy.require is None or policy.require:
            seccomp, files = walls["seccomp"], (walls["landlock"], walls["mount_namespace"])
            if not seccomp.active:
                raise BackendUnavailable(
                    f"the local sandbox needs {_MINIMUM}; seccomp is missing: {seccomp.reason}. {_WEAKER}"
                )
            if not any(wall.active for wall in files):
                raise BackendUnavailable(
                    f"the local sandbox needs {_MINIMUM}; landlock is missing: {files[0].reason}; "
                    f"mount_namespace is missing: {files[1].reason}. {_WEAKER}"
                )
        for name in policy.require or ():
            if name not in walls:
                raise PolicyError(f"Policy.require: the local sandbox has no wall {name!r}; it has {', '.join(walls)}")
            if not walls[name].active:
                raise BackendUnavailable(f"the wall {name!r} is required and missing: {walls[name].reason}")

    def _language_wall(self, policy: Policy) -> Wall:
        if self._language == "full":
            return Wall(False, "switched off; the operating system's walls are what holds")
        reviewed = set(DEFAULT_IMPORTS)
        beyond = [p for p in policy.allowed_imports() if p not in reviewed]
        if beyond:
            return Wall(
                False,
                f"{', '.join(beyond[:5])}: imported at your word and not reviewed, so code may leave the language's "
                "limits; the operating system's walls are what holds",
            )
        return Wall(True)


class _ZygoteDied(Exception):
    """The zygote is gone."""


class _Threaded(Exception):
    """A module that the zygote imported started threads: it must be imported by the cells instead."""

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module


class _ZygoteProcess:
    """A running zygote and the socket to it."""

    def __init__(self, setup: dict[str, Any]) -> None:
        """Raises BackendUnavailable when it does not come up."""
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._lock = threading.Lock()
        self._live = 0
        self._retired = False
        self._folder = ""
        roots = [str(Path(next(iter(safeexec_backends.__path__))).parent)]
        package = str(Path(wire.__file__).parent)
        boot = (
            "import sys; sys.path[:] = sys.argv[4:] + [sys.argv[3]]; "
            "from safeexec_backends.local.zygote import main; main(int(sys.argv[1]), sys.argv[2])"
        )
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", boot, str(theirs.fileno()), package, *roots, *_paths()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    cwd="/",
                    # Nothing of the host's environment. One thread: a zygote that has more cannot fork. Few arenas: each
                    # takes 64 MiB of the address space that cells are limited in.
                    env={
                        "OPENBLAS_NUM_THREADS": "1",
                        "OMP_NUM_THREADS": "1",
                        "MKL_NUM_THREADS": "1",
                        "NUMEXPR_NUM_THREADS": "1",
                        "MALLOC_ARENA_MAX": "2",
                        "TZ": "UTC",
                    },
                )
            except OSError as error:
                ours.close()
                raise BackendUnavailable(f"the interpreter {sys.executable} could not be started: {error}") from error
        try:
            control.send(ours, setup)
            ours.settimeout(60.0)
            reply, _ = control.receive(ours)
            ours.settimeout(None)
        except (EOFError, OSError) as error:
            self._process.kill()
            said = self._process.communicate()[1].decode(errors="replace").strip()
            ours.close()
            raise BackendUnavailable(f"the local sandbox's zygote did not start: {said or error}") from error
        if "error" in reply:
            self.close()
            raise BackendUnavailable(f"the local sandbox's zygote could not be set up: {reply['error']}")
        self._folder = reply["folder"]
        self.walls: dict[str, str] = reply["walls"]

    def spawn(self, message: control.Message) -> tuple[int, list[int]]:
        """A new cell: its pid; its channel, status pipe and, where there are any, pidfd.

        Raises _ZygoteDied, _Threaded, BackendUnavailable.
        """
        reply, given = self._request(message)
        if "error" in reply:
            if reply["module"]:
                raise _Threaded(reply["module"])
            raise BackendUnavailable(f"a sandbox process could not be started: {reply['error']}")
        with self._lock:
            self._live += 1
        return reply["pid"], given

    def signal(self, pid: int, number: int) -> None:
        """Signal a cell where there are no pidfds; its parent is the one who can do it without a race."""
        try:
            self._request({"op": "signal", "pid": pid, "signal": number})
        except _ZygoteDied:
            pass  # and its cells with it

    def _request(self, message: control.Message) -> tuple[control.Message, list[int]]:
        with self._lock:
            try:
                control.send(self._socket, message)
                return control.receive(self._socket, 3)
            except (OSError, EOFError, ValueError) as error:
                raise _ZygoteDied from error

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
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], timeout)[0])
    finally:
        os.close(pidfd)


class LocalGuest(StreamGuest):
    """One cell."""

    def __init__(
        self,
        stream: socket.socket,
        policy: Policy,
        zygote: _ZygoteProcess,
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
        self._signal_lock = threading.Lock()
        self._killed = False
        self._closed = False
        self._report: dict[str, Any] = {}
        self._forget = forget

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._killed = True
        self._signal(signal.SIGKILL)
        self.hang_up()

    def _signal(self, number: int) -> None:
        # Through the pidfd: a process id could be another process's by the time the signal is sent. The lock keeps close() from
        # handing the descriptor's number to another file meanwhile.
        with self._signal_lock:
            if self._closed:
                return
            if self._pidfd < 0:
                self._zygote.signal(self.pid, number)
                return
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass

    def report(self, timeout: float) -> dict[str, Any]:
        """What the cell or its zygote said about its end, waiting for it up to `timeout` seconds."""
        deadline = time.monotonic() + timeout
        data = b""
        while not self._report:
            if not select.select([self._status], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            part = os.read(self._status, 65536)
            data += part
            if not part or data.endswith(b"\n"):
                self._report = json.loads(data.splitlines()[0]) if data.strip() else {"lost": True}
        return self._report

    def death(self) -> GuestDied:
        with self._signal_lock:
            report = {} if self._closed else self.report(5.0)
        if self._killed or not report:
            return GuestDied("crash", "the sandbox process was killed by the host")
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

    def close(self) -> None:
        self.kill()
        with self._signal_lock:
            if self._closed:
                return
            self._closed = True
            if self._pidfd >= 0:
                # A killed process may take a moment to be gone; after close() it is.
                select.select([self._pidfd], [], [], 5.0)
                os.close(self._pidfd)
            os.close(self._status)
        super().close()
        self._forget(self)
        self._zygote.done()


def _order(policy: Policy) -> control.Message:
    limits = policy.limits
    return {
        "op": "cell",
        "imports": list(policy.allowed_imports()),
        "preload": _third_party(policy),
        "memory": limits.memory,
        "disk": limits.disk,
        "processes": limits.processes,
    }


def _third_party(policy: Policy) -> list[str]:
    """Top-level names of `policy.imports` that are not the standard library's."""
    names = {pattern.partition(".")[0] for pattern in policy.allowed_imports() if pattern != "*"}
    return sorted(names - sys.stdlib_module_names)


def _paths() -> list[str]:
    """The entries of sys.path that are libraries: the standard library's and the installed packages' folders.

    Not the script's folder, the working directory or development installs: they hold the user's own files.
    """
    stdlib = os.path.dirname(os.__file__)
    own = {stdlib, os.path.join(stdlib, "lib-dynload")}
    zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    kept = []
    for path in sys.path:
        name = os.path.basename(path)
        if os.path.isabs(path) and (path in own or name == zipped or name in ("site-packages", "dist-packages")):
            kept.append(path)
    dynamic = importlib.util.find_spec("_ctypes")
    if dynamic is not None and dynamic.origin and os.path.isabs(dynamic.origin):
        folder = os.path.dirname(dynamic.origin)
        if folder not in kept:
            kept.append(folder)
    return kept


def _library() -> list[str]:
    """What a cell may read: the interpreter's library, the shared libraries under it, and time zones."""
    stdlib = os.path.dirname(os.__file__)
    prefixes = {os.path.dirname(stdlib), os.path.join(sys.base_prefix, "lib"), os.path.join(sys.base_prefix, "lib64")}
    system = ["/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/local/lib", "/nix/store"]
    return [
        path
        for path in [*system, "/etc/ld.so.cache", "/usr/share/zoneinfo", *sorted(prefixes), *_paths()]
        if os.path.exists(path)
    ]
