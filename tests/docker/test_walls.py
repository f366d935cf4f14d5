"""Every hardening setting, seen from inside by code of the session, and judged by effect."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import safeexec
from safeexec import Executor, Limits, Policy, PolicyError
from safeexec_backends.docker import backend, config, walls
from safeexec_backends.docker.direct import INSIDE

MIB = 2**20


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor("docker", pool=1) as made:
        yield made


def value(executor: Executor, code: str, **limits: Any) -> Any:
    policy = Policy(limits=Limits(**limits)) if limits else None
    result = executor.run(code, policy=policy)
    assert result.error is None, result.error.traceback or str(result.error)
    return result.value


def test_reported_walls_stand(executor: Executor) -> None:
    standing = {name for name, wall in executor.isolation.items() if wall.active}
    assert standing >= {
        "seccomp", "network_namespace", "capabilities", "no_new_privs", "unprivileged_uid", "read_only_root", "disk_limit",
        "memory_limit", "socket_memory", "swap_off", "pids_limit", "rlimits", "pid_namespace", "init",
    }  # fmt: skip
    assert not executor.isolation["language"].active and executor.isolation["language"].reason


def test_no_right_and_no_privilege(executor: Executor) -> None:
    status = value(
        executor, "dict(l.split(':\\t') for l in open('/proc/self/status').read().splitlines() if ':\\t' in l)"
    )
    assert {status[k].strip("0 ") for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}


def test_no_network(executor: Executor) -> None:
    code = "import socket\nwith open('/proc/net/route') as f:\n    routes = f.read().splitlines()[1:]\ntry:\n    socket.create_connection(('192.0.2.1', 80), 2)\n    r = 'reached'\nexcept OSError as e:\n    r = 'refused'\n(routes, r)"
    assert value(executor, code) == ([], "refused")


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/local/lib", "/dev", "/proc/sys/kernel", "/sys", "/root"])
def test_no_file_outside(executor: Executor, path: str) -> None:
    code = f"try:\n    with open({path!r} + '/canary', 'w') as f:\n        f.write('x')\n    r = 'written'\nexcept OSError as e:\n    r = 'refused'\nr"
    assert value(executor, code) == "refused"


def test_file_systems_are_capped_in_size_and_inodes(executor: Executor) -> None:
    code = "import os\n{p: (os.statvfs(p).f_blocks * os.statvfs(p).f_frsize, os.statvfs(p).f_files) for p in ('/sandbox', '/tmp', '/dev/shm')}"
    sizes = value(executor, code, disk=8 * MIB)
    assert sizes["/sandbox"][0] == 8 * MIB and sizes["/tmp"][0] == sizes["/dev/shm"][0] == 2 * MIB
    assert all(0 < inodes <= 8192 for _, inodes in sizes.values())


def test_a_small_disk_is_no_missing_wall() -> None:
    """/tmp has a quarter of a megabyte at least, and pages of 64 KiB are rounded up to."""
    with Executor("docker", policy=Policy(limits=Limits(disk=1000))) as small:
        assert small.isolation["disk_limit"].active, small.isolation["disk_limit"].reason


@pytest.mark.parametrize(
    ("page", "size", "stands"), [(4096, 8192, False), (65536, 65536, True), (65536, 131072, False)]
)
def test_a_disk_may_be_larger_by_less_than_a_page(page: int, size: int, stands: bool) -> None:
    want = config.shape("image", "runc", Limits(disk=4096), 1.0)
    mounts = [["/sandbox", "tmpfs", False, size, 256], ["/tmp", "tmpfs", False, 2**18, 256]]
    assert walls._disk({"mounts": mounts, "page": page}, want).active is stands


def test_inode_flood_is_a_full_disk_and_not_an_oom(executor: Executor) -> None:
    code = "n = 0\ntry:\n    while True:\n        open(f'f{n}', 'w').close()\n        n += 1\nexcept OSError as e:\n    r = e.errno\n(n < 5000, r)"
    assert value(executor, code, disk=4 * MIB, time=30) == (True, 28)


def test_programs_cannot_be_put_there_and_run(executor: Executor) -> None:
    code = "import os, subprocess, sys\nwith open('/sandbox/x', 'wb') as f:\n    f.write(open(sys.executable, 'rb').read(4096))\nos.chmod('/sandbox/x', 0o755)\ntry:\n    subprocess.run(['/sandbox/x'])\n    r = 'ran'\nexcept PermissionError:\n    r = 'refused'\nr"
    assert value(executor, code) == "refused"


def test_no_core_file(executor: Executor) -> None:
    code = "import os, resource\npid = os.fork()\nif pid == 0:\n    os.abort()\nstatus = os.waitpid(pid, 0)[1]\n(resource.getrlimit(resource.RLIMIT_CORE), os.WTERMSIG(status), os.WCOREDUMP(status), os.listdir())"
    assert value(executor, code) == ((0, 0), 6, False, [])


def test_open_files_are_bounded(executor: Executor) -> None:
    code = "fs = []\ntry:\n    while True:\n        fs.append(open('/dev/null'))\nexcept OSError as e:\n    r = e.errno\nn = len(fs)\nfs.clear()\n(n, r)"
    opened, errno = value(executor, code)
    assert 900 < opened < 1024 and errno == 24


def test_no_swap(executor: Executor) -> None:
    code = """
def read(path):
    try:
        return open(path).read().strip()
    except OSError:
        return None
two = read("/sys/fs/cgroup/memory.swap.max")
one = read("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"), read("/sys/fs/cgroup/memory/memory.limit_in_bytes")
(two, *one)
"""
    two, both, memory = value(executor, code)
    assert two == "0" if two is not None else int(both) == int(memory) < 2**40


def test_processor_time_is_bounded(docker_url: str) -> None:
    """Of a fifth of a processor nobody gets half of one, however busy or idle the machine is."""
    code = "import time\na, b = time.monotonic(), time.process_time()\nwhile time.monotonic() - a < 0.7:\n    pass\n(time.process_time() - b) / (time.monotonic() - a)"
    with Executor("docker", cpus=0.2) as slow:
        assert 0 < value(slow, code) < 0.5


ORPHAN = """
import os, time
def states():
    found = {}
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                with open(f"/proc/{p}/stat") as f:
                    found[int(p)] = f.read().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):  # it ended just now
                pass
    return found
before = states()
ours, theirs = os.pipe()
pid = os.fork()
if pid == 0:
    if os.fork() == 0:
        os.close(ours)
        os.write(theirs, str(os.getpid()).encode())
    os._exit(0)
os.waitpid(pid, 0)
os.close(theirs)
grandchild = int(os.read(ours, 99))
while grandchild in states():
    time.sleep(0.01)
(os.getpid() != 1, sorted(before) == sorted({1, os.getpid()}), before == states())
"""


def test_processes_of_others_are_not_there_and_children_are_reaped(executor: Executor) -> None:
    """The guest is not process 1: what it leaves behind is taken over by an init, and no zombie stays."""
    assert value(executor, ORPHAN) == (True, True, True)


def test_engine_without_an_init_gets_one(docker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """podman brings none. Process 1 would be deaf to its own signals, and never reap."""
    real = config.host_config
    monkeypatch.setattr(config, "host_config", lambda *args: {**real(*args), "init": False})
    monkeypatch.setattr(backend, "_prepared", {})
    with Executor("docker") as made:
        assert made.isolation["init"].active
        assert value(made, ORPHAN) == (True, True, True)
        assert value(made, "import signal, os\nsignal.alarm(0), os.getppid()") == (0, 1)
        for code, said in (
            ("os.kill(os.getpid(), 9)", "signal 9"),
            ("os._exit(7)", "exit code 7"),
            ("os._exit(0)", "exit code 0"),
        ):
            error = made.run("import os\n" + code).error
            assert error is not None and error.kind == "crash" and said in error.message
        eat = "x = []\nwhile True:\n    x.append(bytes(10**6))"
        error = made.run(eat, policy=Policy(limits=Limits(memory=32 * MIB, time=30))).error
        assert error is not None and error.kind == "memory"


def test_nothing_of_the_host_s_is_mounted_and_nothing_listens(client: Any) -> None:
    """No port, no socket of the daemon's, no volume: only a file of names, and the socket that is gone when code runs."""
    with Executor("docker") as made, made.session() as session:
        found = client.api.inspect_container(session._guest.id)  # type: ignore[attr-defined]
        assert {mount["Destination"] for mount in found["Mounts"]} <= {"/etc/hosts", INSIDE}
        assert not any(mount["RW"] for mount in found["Mounts"])
        host = found["HostConfig"]
        assert not (
            host["Binds"] or host["Devices"] or host["VolumesFrom"] or host["PortBindings"] or host["Privileged"]
        )
        assert not found["NetworkSettings"]["Ports"] and not found["Config"].get("ExposedPorts")
        code = "import os, stat\n[os.path.join(f, n) for f, _, names in os.walk('/') if not f.startswith('/proc') for n in names if stat.S_ISSOCK(os.lstat(os.path.join(f, n)).st_mode)]"
        assert set(session.run(code).value) <= {INSIDE}
        assert session.run(
            "open('/proc/net/tcp').read().count('\\n'), open('/proc/net/tcp6').read().count('\\n')"
        ).value == (1, 1)


def test_shared_memory_and_messages_of_others_are_not_there(executor: Executor) -> None:
    """System V's shared memory has numbers that any process of the namespace may open; POSIX queues a common file system."""
    make = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.shmget(0x5AFEE, 4096, 0o1666)"
    find = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n(libc.shmget(0x5AFEE, 4096, 0), ctypes.get_errno())"
    )
    queue = "\nlibc.mq_open(b'/q', 0o102, 0o600, None), ctypes.get_errno()"
    with executor.session() as one, executor.session() as two:
        assert one.run(make).value >= 0
        assert one.run(find).value[0] >= 0
        assert two.run(find).value == (-1, 2)
        assert one.run(queue).value == (-1, 24), "a queue takes kernel memory"
    libc = ctypes.CDLL(None, use_errno=True)
    assert (libc.shmget(0x5AFEE, 4096, 0), ctypes.get_errno()) == (-1, 2), "it is the host's"


def test_nothing_is_logged(client: Any) -> None:
    """Not what is printed, and not what is written past the interpreter, where the daemon would keep it on the host's disk."""
    with Executor("docker") as made, made.session() as session:
        assert session.run("import os\nos.write(2, b'canary'), os.write(1, b'canary'), print('canary')").ok
        found = client.api.inspect_container(session._guest.id)  # type: ignore[attr-defined]
        assert found["LogPath"] == "" and found["HostConfig"]["LogConfig"]["Type"] == "none"
        root = Path(client.info()["DockerRootDir"], "containers", found["Id"])
        assert root.is_dir() and [p.name for p in root.rglob("*") if p.is_file() and b"canary" in p.read_bytes()] == []


REFUSED = {
    "io_uring_setup": 425, "ptrace": 101, "keyctl": 250, "add_key": 248, "bpf": 321, "userfaultfd": 323, "mount": 165, "umount2": 166,
    "unshare": 272, "setns": 308, "perf_event_open": 298, "process_vm_readv": 310, "pivot_root": 155, "open_by_handle_at": 304,
    "kexec_load": 246, "init_module": 175, "fsopen": 430, "move_mount": 429, "personality": 135, "syslog": 103,
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_system_call_is_refused(executor: Executor, name: str) -> None:
    code = f"import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nr = libc.syscall({REFUSED[name]}, 0, 0, 0, 0, 0)\n(os.uname().machine, r, ctypes.get_errno())"
    machine, result, errno = value(executor, code)
    if machine != "x86_64":
        pytest.skip("n/a: the numbers are x86_64's")
    assert (result, errno) == (-1, 1)


def test_new_namespaces_are_refused(executor: Executor) -> None:
    code = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nr = []\nfor flag in (0x10000000, 0x40000000, 0x00020000, 0x20000000):\n    n = libc.syscall(56, flag | 17, 0, 0, 0, 0)\n    if n == 0:\n        os._exit(0)\n    r.append((n, ctypes.get_errno()))\nn = libc.syscall(435, 0, 0)\n(r, n, ctypes.get_errno())"
    assert value(executor, code) == ([(-1, 1)] * 4, -1, 38)


@pytest.mark.parametrize("family", [16, 17, 38, 40])
def test_socket_family_is_refused(executor: Executor, family: int) -> None:
    code = f"import socket\ntry:\n    socket.socket({family}, socket.SOCK_RAW if {family} == 17 else socket.SOCK_DGRAM)\n    r = 0\nexcept OSError as e:\n    r = e.errno\nr"
    assert value(executor, code) == 1


SOCKETS = """
import socket
made = []
for family in (1, 2, 10):
    for kind in (1, 2, 3, 4, 5, 6):
        for protocol in (0, 1, 6, 17, 33, 58, 132, 136, 262):
            try:
                socket.socket(family, kind, protocol).close()
                made.append((family, kind, protocol))
            except OSError:
                pass
made
"""


def test_what_waits_in_sockets_is_no_memory_beside_the_limit(docker_url: str) -> None:
    """Sockets of the Internet's families, full of what they sent themselves: 100 MB for one second of work, where the kernel does not count them."""
    fill = """
import socket, time
kept, held = [], 0
def fill(made, data):
    global held
    try:
        for _ in range(900):
            kept.append(sock := made())
            sock.setblocking(False)
            try:
                while True:
                    held += sock.send(data)
            except BlockingIOError:
                pass
    except OSError:
        pass
def udp():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.connect(sock.getsockname())
    return sock
def tcp():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        kept.append(listener.accept()[0])
    return sock
def ping():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    sock.connect(("127.0.0.1", 0))
    return sock
for made in (tcp, udp):
    fill(made, b"x" * 60000)
try:
    for _ in range(500):
        kept.append(sock := ping())
        for _ in range(8):
            sock.send(bytes((8, 0, 0, 0, 0, 0, 0, 1)) + b"x" * 30000)
            held += 30000
except OSError:
    pass
held
"""
    limits = Limits(time=30, memory=64 * MIB)
    with Executor("docker", policy=Policy(limits=limits, rollback="never")) as executor, executor.session() as session:
        result = session.run(fill)
        wall = executor.isolation["socket_memory"]
    counted = config.counts_sockets(executor._backend._info)  # type: ignore[attr-defined]
    assert wall.active and (result.value == 0 or counted)


def test_sockets_of_the_internet_s_families(docker_url: str, client: Any) -> None:
    unix = [(1, kind, 0) for kind in (1, 2, 5)]
    with Executor("docker", loopback=False) as executor:
        made = executor.run(SOCKETS).value
        assert {family for family, _, _ in made} == {1} and set(unix) <= set(made)
        code = "import socket\ntry:\n    socket.socket()\nexcept OSError as e:\n    r = e.errno\nr"
        assert executor.run(code).value == 97  # as where a kernel has no such family
        with pytest.raises(PolicyError, match="loopback"):
            executor.run("1", policy=Policy(network=("example.com",)))
    with Executor("docker", loopback=True) as executor:
        made = executor.run(SOCKETS).value
        assert {(kind, protocol) for family, kind, protocol in made if family != 1} == {(1, 0), (1, 6), (2, 0), (2, 17)}
        counted = config.counts_sockets(client.info())
        assert executor.isolation["socket_memory"].active == counted
        assert counted or "loopback=False" in executor.isolation["socket_memory"].reason


def test_pairs_of_other_families_are_not_even_made(executor: Executor) -> None:
    """TIPC has pairs; of others the kernel makes one before it finds out that it cannot, and loads what it needs for that."""
    code = "import socket\nr = {}\nfor f in range(50):\n    try:\n        socket.socketpair(f, socket.SOCK_STREAM)\n    except OSError as e:\n        r[f] = e.errno\nr"
    assert value(executor, code) == dict.fromkeys({*range(50)} - {1}, 1)


def test_huge_pages_of_the_host_are_out_of_reach(executor: Executor) -> None:
    """They count in no container's memory; where the host has set some aside, for a database, they would be had for the asking."""
    code = """
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
try:
    mmap.mmap(-1, 2**21, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
    r = [0]
except OSError as e:
    r = [e.errno]
for call in (lambda: libc.memfd_create(b"x", 4), lambda: libc.memfd_create(b"x", 5), lambda: libc.shmget(0, ctypes.c_size_t(2**21), 0o5600)):
    r.append(ctypes.get_errno() if call() < 0 else 0)
r + [libc.memfd_create(b"x", 1) > 2, libc.shmget(0, ctypes.c_size_t(4096), 0o1600) >= 0, len(mmap.mmap(-1, 4096))]
"""
    assert value(executor, code) == [1, 1, 1, 1, True, True, 4096]


def test_the_host_is_not_made_to_write_its_disks(executor: Executor) -> None:
    """sync(2) is about every file system of the machine. A descriptor that is none would be refused by the kernel, were it asked."""
    code = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nos.sync()\nf = open('f', 'w')\nf.write('x')\nf.flush()\nos.fsync(f.fileno())\nlibc.syncfs(-1)"
    assert value(executor, code) == 0


def test_terminal_is_not_typed_into_with_a_request_of_more_bits(executor: Executor) -> None:
    """The kernel looks at the lower half of the argument alone."""
    code = """
import ctypes, fcntl, os, termios
libc = ctypes.CDLL(None, use_errno=True)
ours, theirs = os.openpty()
pid = os.fork()
if not pid:
    os.setsid()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    letter = ctypes.create_string_buffer(b"Z")
    found = 0
    for upper in (0, 1, 1 << 31):
        request = ctypes.c_ulong(upper << 32 | 0x5412)
        found += libc.ioctl(theirs, request, letter) == 0 or ctypes.get_errno() != 1
    os._exit(found)
os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.get_terminal_size(ours).columns
"""
    assert value(executor, code) == (0, 0)


def test_proxies_of_the_host_s_docker_configuration_do_not_enter(
    docker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their addresses have passwords in them; docker's own command and SDK put them into the environment of every container."""
    (tmp_path / "config.json").write_text(
        '{"proxies": {"default": {"httpProxy": "http://bob:canary@proxy.test:1", "noProxy": "canary.test"}}}'
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    code = "seen = ''\nfor pid in (1, 'self'):\n    with open(f'/proc/{pid}/environ') as f:\n        seen += f.read()\nseen"
    with Executor("docker") as executor:
        seen = executor.run(code.replace("(1, 'self')", "('self',)")).value
        assert "PATH=" in seen and "canary" not in seen and "proxy" not in seen.lower()


def test_fork_bomb_is_contained(executor: Executor) -> None:
    code = "import os, time\nn = 0\ntry:\n    while n < 200:\n        if os.fork() == 0:\n            time.sleep(30)\n            os._exit(0)\n        n += 1\nexcept BlockingIOError:\n    pass\nn"
    assert value(executor, code, processes=8) <= 8
    assert value(executor, "1 + 1") == 2


def test_output_of_children_and_of_descriptors_is_captured_in_order(executor: Executor) -> None:
    code = "import os, subprocess, sys\nprint('one')\nsubprocess.run([sys.executable, '-c', 'print(\"two\")'])\nos.write(1, b'three\\n')\nprint('four')\nos.write(2, b'apart\\n')\nos.system('true')"
    result = executor.run(code)
    assert result.stdout == "one\ntwo\nthree\nfour\n" and "apart\n" in result.stderr


def test_forked_child_speaks_for_nobody(executor: Executor) -> None:
    calls: list[int] = []
    code = "import os\npid = os.fork()\nif pid == 0:\n    try:\n        tool(1)\n    except RuntimeError:\n        print('refused')\nelse:\n    os.waitpid(pid, 0)\n'parent' if pid else 'child'"
    result = executor.run(code, tools={"tool": calls.append})
    assert result.value == "parent" and result.stdout == "refused\n" and calls == []


def test_multiprocessing_works(executor: Executor) -> None:
    assert value(
        executor,
        "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p:\n    r = p.map(abs, [-1, -2])\nr",
        time=20,
    ) == [1, 2]


def test_fields_that_cannot_be_honoured_are_refused(executor: Executor) -> None:
    for policy in (Policy(rollback="errors", network=("example.org",)), Policy(packages=("--index-url=x",))):
        with pytest.raises(PolicyError):
            executor.session(policy=policy)


def test_imports_are_a_rule_that_names_what_is_allowed(executor: Executor) -> None:
    with executor.session(policy=Policy(imports=("json", "os.path"))) as session:
        assert session.run("import json, os.path\njson.dumps(1)").value == "1"
        error = session.run("import subprocess").error
        assert error is not None and error.kind == "policy" and "json" in error.message


def test_version_is_the_images() -> None:
    assert safeexec.run("import sys\nsys.version_info[0]", sandbox="docker").value == 3
    from safeexec.shared import close_shared

    close_shared()
