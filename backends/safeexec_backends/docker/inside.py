"""What runs in the container around the guest program: frames over stdin and stdout, other output caught, the walls looked at.

Shipped as text next to wire.py and guest.py; CPython 3.9 and later. It defends nothing: the container is the wall.
"""

import _thread
import builtins
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec import guest, wire
else:
    try:  # what was shipped comes first: an image may have another version of safeexec installed
        import safeexec_guest as guest
        import safeexec_wire as wire
    except ImportError:
        from safeexec import guest, wire

_PIPE = 1 << 20
_F_SETPIPE_SZ = 1031
_PIECE = 64 * 1024
_CONFIG = "/usr/local/share/safeexec/matplotlib"


class Channel:
    """Frames over the container's stdin and stdout.

    One thread reads: so an interrupt, and the host's end, are noticed while the step is busy. Descriptors 1 and 2 lead to pipes whose content
    travels as output, so that what C code and child processes print is part of the result.
    """

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._frames = guest.FdChannel(self._in, os.dup(1))
        self._queue: SimpleQueue[wire.Frame | None] = SimpleQueue()
        self._watchers: dict[Any, Callable[[], None]] = {}
        self._main = _thread.get_ident()
        self._child = False
        self._peek = select.poll()  # under the guest's send lock: a poll object serves one thread at a time
        self._wait = select.poll()  # of the thread that forwards
        self._pipes: dict[int, int] = {}
        self.guest: Any = None
        for fd in (self._in, 1):  # fewer switches for large frames; refused above the user's share, which is no harm
            _grow(fd)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        for number in (1, 2):
            ours, theirs = os.pipe()
            os.set_blocking(ours, False)
            os.dup2(theirs, number, inheritable=True)
            os.close(theirs)
            self._pipes[ours] = number
            self._peek.register(ours, select.POLLIN)
            self._wait.register(ours, select.POLLIN)

    # -- reading ---------------------------------------------------------------------------------------------------------

    def start(self, owner: Any) -> None:
        """Begin to read frames and to forward output for `owner`, the guest."""
        self.guest = owner
        os.register_at_fork(after_in_child=self._after_fork)
        _thread.start_new_thread(self._listen, ())
        _thread.start_new_thread(self._forward, ())

    def first(self) -> wire.Frame:
        """A frame, read in this thread, before :meth:`start`."""
        return self._frames.recv()

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
        if frame is None:
            raise EOFError
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

    # -- writing ---------------------------------------------------------------------------------------------------------

    def send(self, header: wire.Header, blobs: Sequence[wire.Blob] = ()) -> None:
        """Write one frame, behind what the pipes hold: output keeps its order. The guest's send lock is held."""
        if self._child:
            self._send_from_child(header, blobs)
            return
        for fd, _ in self._peek.poll(0):
            self._relay(fd)
        self._frames.send(header, blobs)

    def _relay(self, fd: int) -> None:
        """Send what a pipe holds now, within the step's limit."""
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # user code closed the descriptors
            self._peek.unregister(fd)
            self._pipes.pop(fd, None)
            return
        number = self._pipes[fd]
        stream = self.guest._stdout if number == 1 else self.guest._stderr
        if len(data) > stream._left:
            stream.truncated = True
            data = data[: stream._left]
        stream._left -= len(data)
        if data:
            self._frames.send({"t": "out", "s": number}, [data])

    def _forward(self) -> None:
        while True:
            try:
                ready = self._wait.poll()
                with self.guest._send_lock:
                    for fd, _ in ready:
                        if fd in self._pipes:
                            self._relay(fd)
                        if fd not in self._pipes:
                            self._wait.unregister(fd)
                if not self._pipes:
                    return
            except BaseException:  # the descriptors were closed by user code: there is nothing left to forward
                return

    # -- children of user code -------------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        # A forked child has the descriptors and none of the threads. It must not speak for its parent, nor wait for a lock nobody holds.
        self._child = True
        self.guest._send_lock = type(self.guest._send_lock)()
        self.guest._read_lock = type(self.guest._read_lock)()

    def _send_from_child(self, header: wire.Header, blobs: Sequence[wire.Blob]) -> None:
        kind = header.get("t")
        if kind == "out":
            view = memoryview(blobs[0])
            while len(view):
                view = view[os.write(header["s"], view) :]
        elif kind == "done":  # a child that was never told to leave
            os._exit(1 if "error" in header else 0)
        elif kind == "call":
            raise RuntimeError("tools cannot be called from a child process")


def _grow(fd: int) -> None:
    try:
        import fcntl

        fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE)
    except (ImportError, OSError):
        return


class Python(guest.Python):
    """The whole language, with `imports` as a rule: what code of the session itself may import."""

    hidden = (__file__,)

    def __init__(self, imports: Sequence[str] | None) -> None:
        self._imports = imports

    def namespace(self) -> dict[str, Any]:
        """See the base class."""
        namespace = super().namespace()
        if self._imports is not None and "*" not in self._imports:
            builtins.__import__ = _ruled(builtins.__import__, tuple(self._imports))
        return namespace


def _ruled(real: Callable[..., Any], patterns: tuple[str, ...]) -> Callable[..., Any]:
    def allowed(name: str) -> bool:
        if name in guest.own_modules:
            return True
        for pattern in patterns:
            if name == pattern:
                return True
            if pattern.endswith(".*") and (name == pattern[:-2] or name.startswith(pattern[:-1])):
                return True
            if pattern.startswith(name + "."):  # the way to an allowed module leads through its packages
                return True
        return False

    def __import__(name: Any, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        # Only the session's own code is asked; a library imports what it needs. Code that means to can get around this.
        ours = globals is None or globals.get("__name__") == "__main__"
        if ours and level == 0 and isinstance(name, str) and not allowed(name):
            shown = ", ".join(patterns[:40]) + ("…" if len(patterns) > 40 else "")
            raise guest.ImportRefused("Import of {!r} is not allowed; allowed: {}".format(name, shown or "nothing"))
        return real(name, globals, locals, fromlist, level)

    return __import__


# -- looking at the walls from inside -------------------------------------------------------------------------------------

# Numbers from the kernel's tables: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
_CALLS = {
    "x86_64": {"io_uring_setup": 425, "ptrace": 101, "keyctl": 250, "bpf": 321, "userfaultfd": 323, "mount": 165,
               "unshare": 272, "perf_event_open": 298},
    "aarch64": {"io_uring_setup": 425, "ptrace": 117, "keyctl": 219, "bpf": 280, "userfaultfd": 282, "mount": 40,
                "unshare": 97, "perf_event_open": 241},
}  # fmt: skip
_REFUSED = (1, 38)  # EPERM, ENOSYS


def _syscalls() -> dict[str, int] | None:
    """errno of calls that must be refused, 0 where one was let through; None where that cannot be tried."""
    table = _CALLS.get(os.uname().machine)
    try:
        import ctypes
    except ImportError:
        return None
    if table is None:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    found = {}
    for name, number in table.items():
        # Arguments that the kernel refuses with EINVAL, EFAULT or ESRCH when it looks at them: a filter answers before it does.
        ctypes.set_errno(0)
        big = ctypes.c_long(-1)
        arguments = {"unshare": (ctypes.c_long(0),), "ptrace": (ctypes.c_long(0x4200), big)}.get(name, (big, big))
        result = libc.syscall(ctypes.c_long(number), *arguments, *([ctypes.c_long(-1)] * (5 - len(arguments))))
        found[name] = ctypes.get_errno() if result == -1 else 0
    return found


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def look() -> dict[str, Any]:
    """What this process can see of the walls around it, as plain data."""
    import resource
    import socket

    status = dict(line.split(":\t", 1) for line in _read("/proc/self/status").splitlines() if ":\t" in line)
    mounts: list[Any] = []
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 6 or len(kind) < 3:
            continue
        path = fields[4].encode().decode("unicode_escape")
        try:
            info = os.statvfs(path)
        except OSError:
            continue
        mounts.append([path, kind[0], bool(info.f_flag & 1), info.f_frsize * info.f_blocks, info.f_files])
    writable = []
    for path in (
        "/",
        "/etc",
        "/usr",
        "/usr/local",
        "/opt",
        "/home",
        "/root",
        "/var/tmp",
        "/dev",
        "/run",
        os.path.dirname(os.__file__),
    ):
        probe = os.path.join(path, ".safeexec-probe")
        try:
            os.close(os.open(probe, os.O_CREAT | os.O_WRONLY))
            os.unlink(probe)
            writable.append(path)
        except OSError:
            continue
    try:
        interfaces = [name for _, name in socket.if_nameindex()]
    except OSError:
        interfaces = [line.split(":")[0].strip() for line in _read("/proc/net/dev").splitlines() if ":" in line]
    limits = {}
    for name in ("CORE", "NOFILE", "FSIZE", "MSGQUEUE", "MEMLOCK"):
        limits[name] = list(resource.getrlimit(getattr(resource, "RLIMIT_" + name, resource.RLIMIT_CORE)))
    return {
        "uid": list(os.getresuid()),
        "gid": list(os.getresgid()),
        "groups": os.getgroups(),
        "caps": {key: int(status.get(key, "1"), 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
        "nnp": status.get("NoNewPrivs", "").strip(),
        "seccomp": status.get("Seccomp", "").strip(),
        "calls": _syscalls(),
        "mounts": mounts,
        "writable": writable,
        "interfaces": interfaces,
        "limits": limits,
        "pid": os.getpid(),
        "init": _read("/proc/1/comm").strip(),
        "uid_map": _read("/proc/self/uid_map").split(),
        "version": _read("/proc/version").strip(),
        "memory": (_read("/sys/fs/cgroup/memory.max") or _read("/sys/fs/cgroup/memory/memory.limit_in_bytes")).strip(),
        "swap": (
            _read("/sys/fs/cgroup/memory.swap.max") or _read("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
        ).strip(),
        "pids": (_read("/sys/fs/cgroup/pids.max") or _read("/sys/fs/cgroup/pids/pids.max")).strip(),
        "python": "{}.{}.{}".format(*sys.version_info[:3]),
    }


def main(codes: bytes | None) -> None:
    """Serve. `codes` is the compiled program where it had to be compiled here: the host ships it to the containers that follow."""
    channel = Channel()
    if codes is not None:
        channel._frames.send({"t": "program", "look": look()}, [codes])
    else:
        channel._frames.send({"t": "ready"})
    header, _ = channel.first()
    _prepare()
    session = guest.Guest(channel, Python(header.get("imports")))
    channel.start(session)
    session.serve()
    os._exit(0)


def _prepare() -> None:
    """Matplotlib's font cache, where the image holds one: making it takes seconds."""
    target = os.environ.get("MPLCONFIGDIR")
    if not target or not os.path.isdir(_CONFIG):
        return
    import shutil

    try:
        shutil.copytree(_CONFIG, target, dirs_exist_ok=True)
    except OSError:
        return
