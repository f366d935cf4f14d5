"""What native code in a cell tries: programs, by what they attack, and the system calls that are none of its business.

Each evaluates to what it reached; `test_walls` says what that must not be.
"""

from __future__ import annotations

from safeexec_backends._hardening import libc

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
    "memory_by_sockets": """
import socket
held, total = [], 0
try:
    while True:
        held.append(socket.socketpair())
        for end in held[-1]:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF, 32, 33):  # 32 and 33: SO_SNDBUFFORCE, SO_RCVBUFFORCE
                try:
                    end.setsockopt(socket.SOL_SOCKET, option, 2**30)
                except OSError:
                    pass
            end.setblocking(False)
            try:
                while total < 2**28:
                    total += end.send(bytes(2**20))
            except BlockingIOError:
                pass
except OSError:
    pass
for pair in held:
    for end in pair:
        end.close()
[len(held), total]
""",
    "descriptors_by_threads": """
import ctypes, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
total, ready, done = [], threading.Event(), threading.Event()
def take():
    libc.syscall(436, ctypes.c_uint(0xFFFFFFF0), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(2))  # close_range, CLOSE_RANGE_UNSHARE
    ready.wait()
    held = []
    try:
        while len(held) < 1000:
            held.append(os.dup(0))
    except OSError:
        pass
    total.append(len(held))
    done.wait()
    for fd in held:
        os.close(fd)
before = threading.stack_size(2**17)
threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
ready.set()
while len(total) < 4:
    time.sleep(0.001)
done.set()
for thread in threads:
    thread.join()
threading.stack_size(before)
sum(total)
""",
    "socket_options": """
import ctypes, os, socket, struct
code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
done = []
one, two = socket.socketpair()
for sock in (one, socket.socket(fileno=os.dup(3))):
    # SO_PASSCRED, SO_ATTACH_FILTER, SO_TIMESTAMP, SO_PEEK_OFF, SO_LOCK_FILTER, SO_PASSPIDFD
    for option, value in ((16, 1), (26, program), (29, 1), (42, 1), (44, 1), (76, 1)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, value)
            done.append(option)
        except OSError:
            pass
    for option in (17, 55, 57, 59, 77):  # SO_PEERCRED, SO_MEMINFO, SO_COOKIE, SO_PEERGROUPS, SO_PEERPIDFD: who is at the other end
        try:
            sock.getsockopt(socket.SOL_SOCKET, option, 4 if option == 77 else 64)
            done.append(option)
        except OSError:
            pass
done
""",
    "own_sockets": """
import socket
one, two = socket.socketpair()
one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
one.settimeout(5)
two.sendall(b"x")
[one.recv(1).decode(), one.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM, one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
 one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 4096]
""",
    "own_locks": """
import fcntl, sqlite3
got = []
with open("locked", "w") as one, open("locked", "w") as two:
    for how in (fcntl.LOCK_EX, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN):
        fcntl.lockf(one, how)
        fcntl.lockf(two, how)  # one process: they are all its own
    fcntl.flock(one, fcntl.LOCK_EX)
    try:
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        got.append("held")
base, other = (sqlite3.connect("locks.db", timeout=0, isolation_level=None) for _ in range(2))
base.execute("pragma journal_mode=wal")
base.execute("create table t (x)")
base.execute("begin immediate")
base.execute("insert into t values (1)")
try:
    other.execute("insert into t values (2)")
except sqlite3.OperationalError as error:
    got.append(str(error))
base.execute("commit")
other.execute("insert into t values (3)")
[*got, base.execute("select x from t").fetchall()]
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
    "clone_own_descriptors": (56, 220, "0x00050B00, 0, 0, 0, 0"),
    "clone_own_folder": (56, 220, "0x00050D00, 0, 0, 0, 0"),
    "close_range_unshare": (436, 436, "0xFFFFFFF0, 0xFFFFFFFF, 2"),
    "lock_of_descriptor": (72, 25, "0, 37, ctypes.create_string_buffer(b'\\x00\\x00', 32)"),
    "futex_lock_pi": (202, 98, "ctypes.create_string_buffer(8), 6, 0, 0, 0, 0"),
    "futex_lock_pi_private": (202, 98, "ctypes.create_string_buffer(8), 0x86, 0, 0, 0, 0"),
    "futex_trylock_pi": (202, 98, "ctypes.create_string_buffer(8), 8, 0, 0, 0, 0"),
    "futex_lock_pi2": (202, 98, "ctypes.create_string_buffer(8), 13, 0, 0, 0, 0"),
    "madvise_mergeable": (28, 233, "0, 0, 12"),
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
