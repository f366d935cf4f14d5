"""What the daemon is asked for: the whole hardening of a container in one place."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker.types import Mount

from safeexec.policy import Limits
from safeexec_backends.docker import seccomp
from safeexec_backends.docker.direct import INSIDE, private_folder

USER = "65534:65534"
WORKDIR = "/sandbox"
HOSTNAME = "sandbox"
BASE_MEMORY = 40 * 2**20
"""What init, the interpreter and the guest program take (17 MiB measured), with room for imports of the standard library."""
BASE_ROOM = 16 * 2**20
"""What a copy of the guest program itself can take, with imports of the standard library."""
GVISOR_MEMORY = 96 * 2**20
"""The same under gVisor, whose kernel is a process in the container's memory limit too."""
OWN_PROCESSES = 3
"""init, and the guest's two threads for frames and output. Where steps can be undone: init, the keeper, and one thread."""
GVISOR_PIDS = 1024
"""gVisor's kernel needs that many threads of its own; with 64 it crashes."""
_INODES_PER_MIB = 1024
_MIB = 2**20


@dataclass(frozen=True)
class Shape:
    """What two containers must have in common for one to serve in the other's place."""

    image: str
    runtime: str
    memory: int
    disk: int
    processes: int
    cpus: float
    hosts: str = ""
    """The file that is the container's /etc/hosts, where the runtime alone makes its network namespace; "" where docker does."""

    returns: bool = False
    """Whether there is to be room for a checkpoint."""

    loopback: bool = True
    """Whether TCP and UDP sockets can be made, which reach nothing but the container's own loopback interface."""

    @property
    def direct(self) -> bool:
        """Whether frames travel over sockets of the host's, mounted into the container. gVisor lets no container connect to those."""
        return bool(self.hosts) and not self.gvisor

    @property
    def gvisor(self) -> bool:
        """Whether the runtime is gVisor's, by its name."""
        return self.runtime.startswith("runsc")


def shape(image: str, runtime: str, limits: Limits, cpus: float, hosts: str = "") -> Shape:
    """The shape of a container for `limits`; `hosts` as :func:`hosts_file` gives it."""
    return Shape(image, runtime, limits.memory, limits.disk, limits.processes, cpus, hosts)


def sizes(disk: int) -> dict[str, int]:
    """The file systems that can be written to, and how many bytes each is to hold; the kernel rounds that up to whole pages."""
    small = max(disk // 4, _MIB // 4)
    return {WORKDIR: max(4096, disk), "/tmp": small, "/dev/shm": small}


def tmpfs(disk: int, podman: bool = False) -> dict[str, str]:
    """How they are mounted. Each has an inode cap: empty files cost kernel memory that `size` does not count."""
    # podman 4 takes neither an owner of a tmpfs (nobody else is in the container whom the mode would keep out) nor a bound on inodes, which
    # `isolation` then reports as missing.
    base = "rw,nosuid,nodev,noexec," + ("mode=1777" if podman else "uid=65534,gid=65534,mode=0700")

    def options(size: int) -> str:
        inodes = max(256, size * _INODES_PER_MIB // _MIB)
        return f"{base},size={size}" + ("" if podman else f",nr_inodes={inodes}")

    return {path: options(size) for path, size in sizes(disk).items()}


def memory(want: Shape) -> int:
    """The container's memory limit, in bytes."""
    base = GVISOR_MEMORY if want.gvisor else BASE_MEMORY
    # Files lie in memory and are charged to the container like any other: without their share a full disk would be an OOM.
    return base + want.memory + want.disk + room(want)


def room(want: Shape) -> int:
    """How many bytes of it are for a checkpoint: pages that a step changes exist twice, and so do the files.

    On top, so that no step has less than its limit for it; a session that holds more than this keeps no checkpoint.
    """
    return BASE_ROOM + want.memory // 4 if want.returns else 0


def host_config(want: Shape, podman: bool, profile: str, volumes: tuple[str, ...], socket: str = "") -> dict[str, Any]:
    """The arguments of the SDK's ``create_host_config``. `socket` is the file that the container connects to, if any."""
    mounts = tmpfs(want.disk, podman)
    if podman:  # under a read-only root it makes these two writable, and without a limit
        volumes = (*volumes, "/run", "/var/tmp")
    for path in volumes:  # a volume the image declares would be writable and without a limit
        mounts.setdefault(path, "ro,nosuid,nodev,noexec,size=4096" + ("" if podman else ",nr_inodes=2"))
    options: dict[str, Any] = {
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges", f"seccomp={profile}"],
        "pids_limit": GVISOR_PIDS if want.gvisor else want.processes + OWN_PROCESSES + want.returns,
        "mem_limit": memory(want),
        "memswap_limit": memory(want),  # equal: no swap
        "nano_cpus": round(want.cpus * 1e9),
        "tmpfs": mounts,
        "ipc_mode": "private",
        "ulimits": [
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "nofile", "Soft": 1024, "Hard": 1024},
            {"Name": "fsize", "Soft": max(4096, want.disk), "Hard": max(4096, want.disk)},
            {"Name": "msgqueue", "Soft": 0, "Hard": 0},
            {"Name": "memlock", "Soft": 65536, "Hard": 65536},
        ],
        # A child that the guest leaves behind is reaped, and the guest is not process 1, whose signals the kernel treats otherwise.
        "init": True,
        # Nothing that the guest writes lands on the host's disk.
        "log_config": {"Type": "none", "Config": {}},
        "restart_policy": {"Name": "no"},
        "auto_remove": False,  # why it ended is asked afterwards
    }
    if want.runtime:
        options["runtime"] = want.runtime
    if want.hosts:
        options["mounts"] = [Mount("/etc/hosts", want.hosts, type="bind", read_only=True)]
        if socket:
            options["mounts"].append(Mount(INSIDE, socket, type="bind", read_only=True))
    if podman:
        # podman counts processes per user over all containers where this is not set, and has no docker-init to mount.
        options["ulimits"].append({"Name": "nproc", "Soft": 4096, "Hard": 4096})
        options["init"] = False  # the guest program brings its own
        del options["log_config"]
    return options


def environment(cpus: float) -> dict[str, str]:
    """The guest's environment before the policy's. Nothing of the host's."""
    threads = str(max(1, math.floor(cpus)))
    return {
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": "/tmp/.matplotlib",
        # Numerical libraries start a thread for each of the machine's processors, which the process limit would refuse.
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }


def counts_sockets(info: Mapping[str, Any]) -> bool:
    """Whether the kernel counts what lies in TCP and UDP sockets in a container's memory, from the daemon's ``info``.

    The first version of control groups does not (it could, where a limit of its own is set; runc sets none): code fills, over its own loopback interface,
    the memory that the kernel has for the sockets of the whole machine: gigabytes, and the host's own connections stand still.
    """
    return str(info.get("CgroupVersion")) == "2"


def profile(podman: bool, loopback: bool) -> str:
    """The seccomp profile: JSON text, or for podman the path of a file that holds it, which its interface wants instead."""
    if not podman:
        return seccomp.profile(loopback)
    return _private_file("seccomp.json", seccomp.profile(loopback))


def hosts_file() -> str:
    """The path of an /etc/hosts that names localhost.

    With it the network namespace is left to the runtime, which makes the same one as docker's "none": loopback and nothing else. Docker's own
    road starts the whole daemon program anew from inside each namespace, 80 of the 150 ms of a start, and hands in an /etc/resolv.conf with the
    name servers of the host. What is lost is the /etc/hosts that it makes.
    """
    return _private_file("hosts", f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost\n")


def _private_file(name: str, text: str) -> str:
    folder = private_folder()
    # Named by what is in it: another version of this program may use the folder at the same time.
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-{name}"
    if not path.exists():
        part = path.with_suffix(f".{secrets.token_hex(4)}")
        try:
            part.write_text(text)
            part.chmod(0o644)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)  # its name is used once: nobody would ever remove it
            raise
    return str(path)
