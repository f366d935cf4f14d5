"""What an escape gets to see when the language wall has fallen: attacks with the whole of Python, judged by their effect.

Every attack runs as root, as an ordinary user, and as either where the kernel grants no namespaces and Landlock has to hold.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from safeexec_backends._hardening import landlock, libc
from tests.local.as_user import AsUser

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="n/a: these walls are Linux's"),
    pytest.mark.skipif(os.name == "posix" and os.getuid() != 0, reason="changing to other users needs root"),
]

DRIVER = Path(__file__).with_name("walls_driver.py").read_text()
CANARY = "file-canary-0c1d"
LIMITS = {"memory": 128 * 2**20, "time": 20.0, "wall": 40.0}
DISK = 64 * 2**20

# Each prelude-free snippet evaluates to what it reached; the tests below say what that must not be.
CALL = """
import ctypes
_c = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    _c.syscall.restype = ctypes.c_long
    got = _c.syscall(ctypes.c_long(number), *[ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments])
    return got if got >= 0 else -ctypes.get_errno()
"""

ATTACKS: dict[str, str] = {
    "read_files": """
import os
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read(200).decode("latin-1")
    except OSError as error:
        return None
os.symlink(canary, "link")
seen = {path: read(path) for path in [canary, "link", "/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/self/environ",
        "/proc/self/maps", "/proc/1/cmdline", "/proc/cpuinfo", "/sys/kernel/uevent_helper", "/.host" + canary, "/tmp/../" + canary,
        "/proc/self/root" + canary, "/proc/self/cwd/../.." + canary, "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/tty"]}
{path: text for path, text in seen.items() if text is not None}
""",
    "list_folders": """
import os
def names(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return None
{p: names(p) for p in ["/proc", "/home", "/root", "/var", "/sys", "/run", os.path.dirname(canary)] if names(p)}
""",
    "write_files": """
import os, sys, ctypes
done = []
for folder in ["/", "/etc", "/usr/lib", "/dev", "/root", "/home", "/var/tmp", "/dev/shm", os.path.dirname(canary), os.path.dirname(os.__file__),
               os.path.dirname(ctypes.__file__), *[p for p in sys.path if p.endswith("site-packages")]]:
    path = os.path.join(folder, "walls-marker")
    for attempt in ("open(path, 'w').close()", "os.mkdir(path)", "os.symlink('x', path)", "os.link('mine', path)", "os.rename('mine', path)"):
        try:
            open("mine", "w").close()
            exec(attempt)
            done.append([path, attempt])
        except OSError:
            pass
for attempt in ("open(canary, 'a').write('x')", "os.truncate(canary, 0)", "os.unlink(canary)",
                "os.chown(canary, 0, 0)", "os.setxattr(canary, 'user.x', b'x')", "open(os.__file__, 'r+b')"):
    try:
        exec(attempt)
        done.append(attempt)
    except OSError:
        pass
# These may be answered with a yes that has no effect.
for attempt in ("os.chmod(canary, 0o777)", "os.utime(canary, (1, 1))", "os.chmod(os.open(canary, os.O_RDONLY), 0o777)",
                "os.utime('walls', (1, 1), dir_fd=os.open(os.path.dirname(canary), os.O_PATH))", "os.chmod(os.path.dirname(canary), 0o700)",
                "os.chmod(os.__file__, 0o600)", "os.utime(os.__file__, (1, 1))", "os.chmod(os.open(os.__file__, os.O_RDONLY), 0o600)"):
    try:
        exec(attempt)
    except OSError:
        pass
done
""",
    "own_files": """
import os
os.makedirs("a/b")
with open("a/b/c.txt", "w") as file:
    file.write("mine")
import tempfile
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/x", "w").close()
    inside = os.listdir(folder)
os.rename("a/b/c.txt", "d.txt")
[open("d.txt").read(), inside, oct(os.stat(".").st_mode & 0o777)]
""",
    "network": """
import socket
reached = []
def attempt(label, family, kind, address):
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(1)
            if kind == socket.SOCK_DGRAM:
                sock.sendto(b"reached", address)
            else:
                sock.connect(address)
                sock.sendall(b"reached")
        reached.append(label)
    except OSError:
        pass
attempt("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", tcp_port))
attempt("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", udp_port))
attempt("unix", socket.AF_UNIX, socket.SOCK_STREAM, unix_path)
attempt("abstract", socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + abstract)
attempt("abstract datagram", socket.AF_UNIX, socket.SOCK_DGRAM, "\\0" + abstract + "d")
attempt("raw", socket.AF_INET, socket.SOCK_RAW, ("127.0.0.1", 0))
attempt("netlink", getattr(socket, "AF_NETLINK", 16), socket.SOCK_RAW, (0, 0))
attempt("vsock", getattr(socket, "AF_VSOCK", 40), socket.SOCK_STREAM, (2, 1024))
for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    try:
        one, two = socket.socketpair(socket.AF_UNIX, kind)
        one.sendto(b"reached", "\\0" + abstract + "d")
        reached.append("pair")
    except OSError:
        pass
one, two = socket.socketpair()
for address in (unix_path, "\\0" + abstract):
    for verb in ("connect", "bind"):
        try:
            getattr(one, verb)(address)
            reached.append(verb)
        except OSError:
            pass
reached
""",
    "programs": """
import os, subprocess, sys
ran = []
for attempt in ("os.execv(sys.executable, [sys.executable, '-c', '0'])", "os.execve('/bin/sh', ['sh', '-c', 'true'], {})",
                "subprocess.run([sys.executable, '-c', '0'])", "os.system('true') == 0 or 1 / 0", "os.popen('true').close() and 1 / 0",
                "os.posix_spawn(sys.executable, [sys.executable], {})", "os.fork() or os._exit(0)", "os.forkpty()"):
    try:
        exec(attempt)
        ran.append(attempt)
    except (OSError, ZeroDivisionError):
        pass
ran
""",
    "programs_from_memory": CALL
    + """
import platform, os
number = 319 if platform.machine() == "x86_64" else 279
call(number, ctypes.c_char_p(b"x"), 0)
""",
    "threads": """
import threading
gate = threading.Event()
started = []
try:
    for _ in range(500):
        thread = threading.Thread(target=gate.wait, daemon=True)
        thread.start()
        started.append(thread)
except RuntimeError:
    pass
count = len(started)
gate.set()
for thread in started:
    thread.join()
count
""",
    "host_memory": """
import ctypes, os
def read():
    for path in (f"/proc/{driver_pid}/mem", "/proc/1/mem", "/dev/mem", "/proc/kcore", "/dev/kmem"):
        try:
            with open(path, "rb", 0) as file:
                file.seek(secret_address)
                return file.read(secret_length)
        except OSError:
            pass
read()
""",
    "environment": CALL
    + """
import os
pointer = ctypes.POINTER(ctypes.c_char_p).in_dll(_c, "environ")
native = []
place = 0
while pointer and pointer[place]:
    native.append(pointer[place].decode())
    place += 1
[dict(os.environ), native]
""",
    "own_memory_has_no_secret": """
import ctypes, gc
# Everything of this process that once was the host's: what a forked child inherits. Objects first, then the environment block.
needle = ("environment" + "-canary").encode()
found = [type(o).__name__ for o in gc.get_objects() if isinstance(o, (dict, list)) and "environment" "-" "canary" in map(str, o)]
pointer = ctypes.pythonapi.Py_GetProgramFullPath
found
""",
    "signals": """
import os, signal, threading
sent = []
for pid in (victim_pid, driver_pid, os.getppid(), 1 if os.getpid() != 1 else 2, -1, -victim_pid, 0):
    for number in (signal.SIGKILL, signal.SIGSTOP, 0):
        if pid == os.getppid() == 0:  # itself, in a pid namespace of its own
            continue
        if os.getpid() > 1 == os.getppid() and number == signal.SIGKILL and pid > 1:  # ends the sender: see test_rollback
            continue
        try:
            os.kill(pid, number)
            sent.append([pid, int(number)])
        except OSError:
            pass
try:
    fd = os.pidfd_open(victim_pid)
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    sent.append("pidfd")
except OSError:
    pass
sent
""",
    "signals_by_file_owner": """
import fcntl, os, socket
one, two = socket.socketpair()
done = []
for command in (8, 10, 15):  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    try:
        fcntl.fcntl(one, command, victim_pid)
        done.append(command)
    except OSError:
        pass
done
""",
    "own_signals": """
import os, signal
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
os.kill(os.getpid(), signal.SIGUSR1)
signal.raise_signal(signal.SIGUSR1)
len(got)
""",
    "raise_limits": """
import resource
raised = []
for name in ("RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_MEMLOCK"):
    which = getattr(resource, name)
    soft, hard = resource.getrlimit(which)
    try:
        resource.setrlimit(which, (hard + 1, hard + 1))
        raised.append(name)
    except (OSError, ValueError):
        pass
try:
    resource.prlimit(driver_pid, resource.RLIMIT_NOFILE, (1, 1))
    raised.append("of the host")
except OSError:
    pass
raised
""",
    "change_identity": """
import os
done = []
for attempt in ("os.setuid(0)", "os.setgid(0)", "os.setresuid(0, 0, 0)", "os.setgroups([0])", "os.seteuid(0)", "os.nice(-1)",
                "os.chroot('/')", "os.chown('/sandbox', 0, 0)", "os.mknod('null', 0o020666, os.makedev(1, 3))",
                "os.sched_setscheduler(0, 1, os.sched_param(1))"):
    if attempt.startswith("os.chroot"):
        continue
    try:
        exec(attempt)
        done.append(attempt)
    except OSError:
        pass
done
""",
    "shared_memory": CALL
    + """
import platform
x86 = platform.machine() == "x86_64"
got = {"shmget": call(29 if x86 else 194, 0, 4096, 0o1600), "msgget": call(68 if x86 else 186, 0, 0o1600),
       "semget": call(64 if x86 else 190, 0, 1, 0o1600), "mq_open": call(240 if x86 else 180, ctypes.c_char_p(b"x"), 0o102, 0o600, 0)}
{name: value for name, value in got.items() if value >= 0}
""",
    "memory": """
def bomb():
    held = []
    try:
        while len(held) < 4000:
            held.append(bytearray(2**20))
    except MemoryError:
        pass
    return len(held)
bomb()
""",
    "memory_by_mapping": """
import mmap
held, total = [], 0
try:
    for _ in range(64):
        held.append(mmap.mmap(-1, 2**26))
        total += 2**26
except (OSError, MemoryError, ValueError):
    pass
total
""",
    "memory_by_pipes": """
import os, fcntl
total = 0
held = []
try:
    for _ in range(4000):
        read, write = os.pipe()
        held.append((read, write))
        try:
            fcntl.fcntl(write, 1031, 2**20)
        except OSError:
            pass
        os.set_blocking(write, False)
        try:
            while True:
                total += os.write(write, bytes(65536))
        except BlockingIOError:
            pass
except OSError:
    pass
for read, write in held:
    os.close(read)
    os.close(write)
total
""",
    "disk": """
import os
total = 0
for folder in (".", "/tmp"):
    try:
        for number in range(100):
            with open(f"{folder}/{number}", "wb") as file:
                for _ in range(16):
                    total += file.write(bytes(2**20))
    except OSError:
        pass
total
""",
    "file_flood": """
made = 0
try:
    for number in range(200_000):
        open(f"f{number}", "w").close()
        made += 1
except OSError:
    pass
made
""",
    "descriptor_flood": """
import os
held = []
try:
    while len(held) < 100_000:
        held.append(os.dup(0))
except OSError:
    pass
count = len(held)
for fd in held:
    os.close(fd)
count
""",
    "inherited_descriptors": """
import os, stat
found = []
for fd in range(1024):
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        continue
    found.append("socket" if stat.S_ISSOCK(mode) else "device" if stat.S_ISCHR(mode) else "other")
found
""",
    "terminal": """
import fcntl
done = []
for request in (0x5412, 0x540E, 0x5414, 0x89A0):  # TIOCSTI, TIOCSCTTY, TIOCSWINSZ, SIOCBRADDBR
    for fd in (0, 1, 2, 3):
        try:
            fcntl.ioctl(fd, request, b"x" * 64)
            done.append([request, fd])
        except OSError as error:
            pass
done
""",
    "interpreter_works": """
import asyncio, hashlib, sqlite3, json, decimal, zoneinfo, datetime, tempfile, shutil, random, threading, concurrent.futures
async def both():
    return await asyncio.gather(asyncio.sleep(0.01, 1), asyncio.to_thread(lambda: 2))
rows = sqlite3.connect("t.db").execute("select 1 + 1").fetchall()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    squares = list(pool.map(lambda x: x * x, range(5)))
open("one", "w").write("1")
shutil.copy2("one", "two")
shutil.copytree(".", tempfile.gettempdir() + "/copy")
[asyncio.run(both()), rows, squares, hashlib.sha256(b"x").hexdigest()[:4], open(tempfile.gettempdir() + "/copy/two").read(),
 str(datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")))]
""",
}

# System calls (x86_64, aarch64) that must neither succeed nor leave anything; the process may be ended for making one.
CALLS = {
    "ptrace": (101, 117, "0, 0, 0, 0"),
    "process_vm_readv": (310, 270, "driver_pid, 0, 0, 0, 0, 0"),
    "process_vm_writev": (311, 271, "driver_pid, 0, 0, 0, 0, 0"),
    "io_uring_setup": (425, 425, "4, ctypes.create_string_buffer(256)"),
    "unshare_user": (272, 97, "0x10000000"),
    "unshare_files": (272, 97, "0x400"),
    "clone_user": (56, 220, "0x10000000 | 17, 0, 0, 0, 0"),
    "clone_process": (56, 220, "17, 0, 0, 0, 0"),
    "clone_vm": (56, 220, "0x100 | 17, 0, 0, 0, 0"),
    "clone3": (435, 435, "ctypes.create_string_buffer((17).to_bytes(40, 'little'), 88), 88"),
    "setns": (308, 268, "3, 0"),
    "mount": (165, 40, "ctypes.c_char_p(b'x'), ctypes.c_char_p(b'/tmp'), ctypes.c_char_p(b'tmpfs'), 0, 0"),
    "umount": (166, 39, "ctypes.c_char_p(b'/tmp'), 2"),
    "pivot_root": (155, 41, "ctypes.c_char_p(b'/tmp'), ctypes.c_char_p(b'/tmp')"),
    "chroot": (161, 51, "ctypes.c_char_p(b'/')"),
    "bpf": (321, 280, "0, ctypes.create_string_buffer(128), 128"),
    "perf_event_open": (298, 241, "ctypes.create_string_buffer(128), 0, -1, -1, 0"),
    "userfaultfd": (323, 282, "1"),
    "keyctl": (250, 219, "0, -3, 1"),
    "add_key": (248, 217, "ctypes.c_char_p(b'user'), ctypes.c_char_p(b'x'), ctypes.c_char_p(b'y'), 1, -3"),
    "personality": (135, 92, "0x0040000"),
    "seccomp": (317, 277, "1, 0, 0"),
    "landlock_create_ruleset": (444, 444, "ctypes.create_string_buffer(b'\\x01', 8), 8, 0"),
    "prctl_dumpable": (157, 167, "4, 1, 0, 0, 0"),
    "prctl_pdeathsig": (157, 167, "1, 0, 0, 0, 0"),
    "prctl_subreaper": (157, 167, "36, 1, 0, 0, 0"),
    "prctl_tsc": (157, 167, "26, 2, 0, 0, 0"),
    "capset": (
        126,
        91,
        "ctypes.create_string_buffer((0x20080522).to_bytes(8, 'little')), ctypes.create_string_buffer(b'\\xff' * 24)",
    ),
    "setsid": (112, 157, ""),
    "tkill": (200, 130, "victim_pid, 9"),
    "rt_sigqueueinfo": (129, 138, "victim_pid, 9, ctypes.create_string_buffer(128)"),
    "tgkill": (234, 131, "victim_pid, victim_pid, 9"),
    "pidfd_open": (434, 434, "1, 0"),
    "pidfd_getfd": (438, 438, "0, 0, 0"),
    "kcmp": (312, 272, "driver_pid, driver_pid, 0, 0, 0"),
    "name_to_handle_at": (
        303,
        264,
        "-100, ctypes.c_char_p(b'/'), ctypes.create_string_buffer(256), ctypes.create_string_buffer(8), 0",
    ),
    "open_by_handle_at": (304, 265, "-100, ctypes.create_string_buffer(256), 0"),
    "fsopen": (430, 430, "ctypes.c_char_p(b'tmpfs'), 0"),
    "open_tree": (428, 428, "-100, ctypes.c_char_p(b'/'), 1"),
    "memfd_create": (319, 279, "ctypes.c_char_p(b'x'), 0"),
    "memfd_secret": (447, 447, "0"),
    "execveat": (322, 281, "-100, ctypes.c_char_p(b'/bin/true'), 0, 0, 0"),
    "inotify_init1": (294, 26, "0"),
    "fanotify_init": (300, 262, "0, 0"),
    "syslog": (103, 116, "10, 0, 0"),
    "settimeofday": (164, 170, "ctypes.create_string_buffer(16), 0"),
    "sethostname": (170, 161, "ctypes.c_char_p(b'x'), 1"),
    "init_module": (175, 105, "0, 0, 0"),
    "reboot": (169, 142, "0, 0, 0, 0"),
    "modern": (452 + 40, 452 + 40, "0, 0, 0"),
    "x32": (0x40000000 | 39, 0x40000000 | 172, ""),
    "negative": (-1, -1, ""),
}
for _name, (_x86, _arm, _arguments) in CALLS.items():
    ATTACKS["call " + _name] = CALL + f"call({_x86 if libc.MACHINE == 'x86_64' else _arm}, {_arguments})"


class Target:
    """What an escaped program would go for: a secret file, listeners, a process."""

    def __init__(self, uid: int, stack: ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="walls-target-", dir="/tmp"))
        os.chmod(folder, 0o777)
        self.canary = Path(folder, "secret.txt")
        self.canary.write_text(CANARY)
        os.chmod(self.canary, 0o666)
        for path in (folder, self.canary):
            os.chown(path, uid, uid)  # the user's own file: no permission of the file system stands before it
        os.utime(self.canary, (1_000_000, 1_000_000))
        self.attributes = {path: self._attributes(path) for path in (folder, str(self.canary), os.__file__)}
        self.heard: list[bytes] = []
        name = os.urandom(8).hex()
        listeners = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix": (socket.AF_UNIX, socket.SOCK_STREAM, f"{folder}/socket"),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, "\0" + name),
            "abstract_datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, "\0" + name + "d"),
        }
        self.sockets: dict[str, socket.socket] = {}
        for label, (family, kind, address) in listeners.items():
            sock = stack.enter_context(socket.socket(family, kind))
            sock.bind(address)
            if kind == socket.SOCK_STREAM:
                sock.listen()
            self.sockets[label] = sock
        os.chmod(f"{folder}/socket", 0o777)
        self.victim = subprocess.Popen(
            ["sleep", "600"], user=uid if uid else None, group=uid if uid else None, start_new_session=True
        )
        stack.callback(self.victim.wait)
        stack.callback(self.victim.kill)
        self.known: dict[str, Any] = {
            "canary": str(self.canary),
            "tcp_port": self.sockets["tcp"].getsockname()[1],
            "udp_port": self.sockets["udp"].getsockname()[1],
            "unix_path": f"{folder}/socket",
            "abstract": name,
            "victim_pid": self.victim.pid,
        }

    @staticmethod
    def _attributes(path: str) -> tuple[int, int]:
        status = os.stat(path)
        return status.st_mode, status.st_mtime_ns if not os.path.isdir(path) else 0

    def changed(self) -> list[str]:
        """The files whose mode or time is another."""
        return [path for path, old in self.attributes.items() if self._attributes(path) != old]

    def reached(self) -> list[str]:
        """The listeners that heard from anyone."""
        heard = []
        for label, sock in self.sockets.items():
            sock.setblocking(False)
            try:
                sock.accept() if sock.type == socket.SOCK_STREAM else sock.recv(100)
            except BlockingIOError:
                continue
            heard.append(label)
        return heard


class Report:
    """What the attacks of one run brought."""

    def __init__(self, target: Target, answer: dict[str, Any]) -> None:
        self.target = target
        self.isolation: dict[str, list[Any]] = answer["isolation"]
        self.results: dict[str, dict[str, Any]] = answer["results"]
        self.after = answer["after"]
        self.folder: str = answer["folder"]

    def value(self, name: str) -> Any:
        """What an attack evaluated to; it must have run to its end."""
        result = self.results[name]
        assert result["error"] is None, result["error"]
        return result["value"]

    def active(self, wall: str) -> bool:
        return bool(self.isolation[wall][0])


RUNS: dict[str, dict[str, Any]] = {
    "root": {"uid": 0},
    "nobody": {"uid": 65534},
    "root, no namespaces": {"uid": 0, "deny_namespaces": "all"},
    "nobody, no namespaces": {"uid": 65534, "deny_namespaces": "all"},
    "root, no namespaces for cells": {"uid": 0, "deny_namespaces": "late"},
    "nobody, no namespaces for cells": {"uid": 65534, "deny_namespaces": "late"},
    "root, no Landlock": {"uid": 0, "options": {"_deny": ["landlock"]}},
    "root, after a rollback": {"uid": 0, "undone": True},
    "nobody, after a rollback": {"uid": 65534, "undone": True},
}


_SLOW = ("nobody, after a rollback",)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in RUNS]
)
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    run = RUNS[request.param]
    if run.get("deny_namespaces") and not landlock.abi():
        pytest.skip("this kernel has no Landlock to fall back to")
    with ExitStack() as stack:
        target = Target(run["uid"], stack)
        place = stack.enter_context(AsUser(run["uid"]))
        # Without a mount namespace files go to a real disk and their sum has no bound: do not fill it.
        attacks = {
            k: v for k, v in ATTACKS.items() if not run.get("deny_namespaces") or k not in ("disk", "file_flood")
        }
        job = {**run, "attacks": attacks, "known": target.known, "limits": LIMITS}
        done = place.run(DRIVER, input=json.dumps(job))
        assert done.returncode == 0, done.stderr
        yield Report(target, json.loads(done.stdout))


def test_the_walls_that_stand_are_reported(report: Report) -> None:
    always = [
        "seccomp",
        "no_new_privs",
        "capabilities",
        "not_dumpable",
        "rlimits",
        "closed_fds",
        "empty_environment",
        "parent_death",
    ]
    assert all(report.active(wall) for wall in always), report.isolation
    assert report.active("landlock") or report.active("mount_namespace")
    assert all(bool(active) != bool(reason) for active, reason in report.isolation.values())
    assert not report.active("language")


def test_files_of_the_host_cannot_be_read(report: Report) -> None:
    assert report.value("read_files") == {}


def test_folders_of_the_host_cannot_be_listed(report: Report) -> None:
    listed = report.value("list_folders")
    # The way to the interpreter's own library may lead through one of these.
    assert not set(listed) - {"/root", "/home"}, listed
    for names in listed.values():
        assert set(names) <= {".pyenv", "venvs", "miniconda3", *os.path.realpath(sys.base_prefix).split("/")}


def test_nothing_outside_the_working_directory_can_be_written(report: Report) -> None:
    assert report.value("write_files") == []
    assert report.target.canary.read_text() == CANARY
    assert report.target.changed() == []
    assert not [p for p in [Path("/"), Path("/usr/lib"), Path(os.__file__).parent] if (p / "walls-marker").exists()]


def test_the_working_directory_and_tmp_can_be_used(report: Report) -> None:
    assert report.value("own_files") == ["mine", ["x"], "0o700"]


def test_ordinary_library_code_works_behind_the_walls(report: Report) -> None:
    assert report.value("interpreter_works") == [
        [1, 2],
        [[2]],
        [0, 1, 4, 9, 16],
        "2d71",
        "1",
        "2026-01-01 00:00:00+01:00",
    ]


def test_no_network_is_reached(report: Report) -> None:
    assert report.value("network") == []
    assert report.target.reached() == []


@pytest.mark.parametrize(
    "attack", ["programs", "signals", "signals_by_file_owner", "raise_limits", "change_identity", "terminal"]
)
def test_attempts_that_must_all_fail(report: Report, attack: str) -> None:
    assert report.value(attack) == []


def test_programs_cannot_be_put_into_memory(report: Report) -> None:
    assert report.value("programs_from_memory") < 0


def test_the_host_process_lives_and_was_not_stopped(report: Report) -> None:
    assert report.target.victim.poll() is None
    state = Path(f"/proc/{report.target.victim.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "S"
    assert report.after == "alive"


def test_a_process_may_signal_itself(report: Report) -> None:
    assert report.value("own_signals") == 2


def test_threads_are_counted(report: Report) -> None:
    if not report.active("user_namespace") and not report.active("unprivileged_uid"):
        pytest.skip("n/a: the kernel counts no threads of root's; address space bounds them")
    assert 4 <= report.value("threads") < 32


def test_host_memory_is_out_of_reach(report: Report) -> None:
    assert report.value("host_memory") is None


def test_no_environment_arrives(report: Report) -> None:
    python, process = report.value("environment")
    # Python 3.13's doctest imports readline, which tells the process how large no terminal is.
    assert (python, [entry for entry in process if not entry.startswith(("LINES=", "COLUMNS="))]) == ({}, [])
    assert report.value("own_memory_has_no_secret") == []


def test_shared_memory_of_the_host_is_out_of_reach(report: Report) -> None:
    assert report.value("shared_memory") == {}


def test_memory_is_limited(report: Report) -> None:
    assert 32 <= report.value("memory") <= 128
    assert report.value("memory_by_mapping") <= 128 * 2**20
    assert report.value("memory_by_pipes") <= 64 * 2**20


def test_disk_is_limited(report: Report) -> None:
    if not report.active("mount_namespace"):
        pytest.skip("n/a: without a mount namespace only single files are limited, and isolation says so")
    assert 0.8 * DISK <= report.value("disk") <= DISK
    assert 1000 <= report.value("file_flood") <= 16_384


def test_descriptors_are_limited_and_none_is_inherited(report: Report) -> None:
    assert report.value("descriptor_flood") < 256
    assert report.value("inherited_descriptors") == ["device", "device", "device", "socket"]


@pytest.mark.parametrize("name", CALLS)
def test_dangerous_system_calls_are_refused(report: Report, name: str) -> None:
    result = report.results["call " + name]
    if result["error"] is not None:
        kind, _, message = result["error"]
        assert kind == "crash" and "seccomp" in message
    else:
        assert result["value"] in (-1, -22, -38) and result["value"] < 0, result["value"]


def test_nothing_is_left_in_the_file_system(report: Report) -> None:
    assert bool(report.folder) != report.active("mount_namespace")
    assert not report.folder or not os.path.exists(report.folder)


def test_no_process_is_left(report: Report) -> None:
    mine = [p for p in os.listdir("/proc") if p.isdigit() and _parent_is_gone_zygote(int(p))]
    assert mine == []


def _parent_is_gone_zygote(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return False
    return b"safeexec_backends.local.zygote" in command and parent == 1
