"""Processes seen from above: whose they are, what they take, how to end all of them. Linux only."""

from __future__ import annotations

import collections
import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_HELD = re.compile(rb"Rss(?:Anon|Shmem):\s*(\d+) kB")
_SHARED = re.compile(rb"RssShmem:\s*(\d+) kB")
_MACHINE = re.compile(rb"^(\w+):\s*(\d+) kB", re.MULTILINE)
_FREEING = 1.0
"""Seconds that the pages of a process which ended may take to be free."""
_PATIENCE = 10.0
"""Seconds after which what does not end is left."""
bystanders: set[int] = set()
"""Processes that are not part of what is looked at or ended, although they are below."""


class Unsupported(OSError):
    """This system has no subreapers; the audit needs Linux."""


def become_subreaper() -> None:
    """From now on a descendant whose parent ended becomes this process's child, whatever it did to get away. Raises Unsupported."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except AttributeError as error:
        raise Unsupported("auditing needs Linux: processes could get away unseen here") from error
    if failed:
        raise Unsupported(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _stat(pid: int) -> tuple[int, str, int] | None:
    """(parent, state, start time) of a process, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[1]), fields[0].decode(), int(fields[19])


def descendants(root: int) -> dict[int, int]:
    """Pid to start time of all processes below `root` that have not ended."""
    children: dict[int, list[int]] = {}
    started: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            found = _stat(int(entry))
            if found is not None and found[1] not in "ZX":
                children.setdefault(found[0], []).append(int(entry))
                started[int(entry)] = found[2]
    below: dict[int, int] = {}
    rest = list(children.get(root, ()))
    while rest:
        pid = rest.pop()
        if pid not in below and pid not in bystanders:
            below[pid] = started[pid]
            rest += children.get(pid, ())
    return below


def memory(pids: Iterable[int], kinds: re.Pattern[bytes] = _HELD) -> int:
    """Bytes of memory that is no file's: the private pages, and those of shared memory, since a guest can fill either."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                text = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(number) for number in kinds.findall(text)) << 10
    return total


def files_in_memory(pids: Iterable[int]) -> int:
    """Bytes of the files without a name in memory (memfd_create) that these have open, each counted once; of those that may be looked at."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            with os.scandir(f"/proc/{pid}/fd") as descriptors:
                for descriptor in descriptors:
                    if os.readlink(descriptor.path).startswith("/memfd:"):
                        info = os.stat(descriptor.path)
                        sizes[info.st_dev, info.st_ino] = info.st_blocks * 512
        except OSError:
            continue  # it ended while it was looked at, or is not ours to look at
    return sum(sizes.values())


class MemoryOfNoProcess:
    """How much memory grew that no process's figures show.

    What lies in pipes and sockets, page tables and other objects of the kernel, and in files in memory that nothing below `root` has mapped, is the
    whole machine's: the kernel does not say whose it is, and what others give back at the same moment hides it. Files without a name are known by who
    has them open, so those below `own` are looked at by themselves as well.
    """

    def __init__(self, root: int, own: int) -> None:
        self._root, self._own = root, own
        self._recent: collections.deque[tuple[float, int, int]] = collections.deque()
        self._first = self._last = self._held()

    def grown(self) -> tuple[int, int]:
        """Bytes since this was made, of the whole machine and in files of `own`. What is there for one look only does not count."""
        before, self._last = self._last, self._held()
        machine, files = (min(held) - first for first, *held in zip(self._first, before, self._last))
        return machine, files

    def _held(self) -> tuple[int, int]:
        below = descendants(self._own)
        # Those that are mapped are in their processes' figures already.
        return self._of_machine(), max(0, files_in_memory(below) - memory(below, _SHARED))

    def _of_machine(self) -> int:
        with open("/proc/meminfo", "rb") as file:
            held = {name.decode(): int(number) << 10 for name, number in _MACHINE.findall(file.read())}
        now = time.monotonic()
        self._recent.append((now, held["AnonPages"], memory(descendants(self._root), _SHARED)))
        while self._recent[0][0] < now - _FREEING:
            self._recent.popleft()
        # Pages of a process that ends are no longer its own some time before they are free: those it had a moment ago are not taken for the kernel's.
        own, mapped = max(entry[1] for entry in self._recent), max(entry[2] for entry in self._recent)
        # Cached holds the pages of shared memory as well; Balloon, where the kernel tells, is what a hypervisor took back.
        known = ("MemFree", "Buffers", "Cached", "SwapCached", "SReclaimable", "Balloon")
        kernel = held["MemTotal"] - sum(held.get(name, 0) for name in known) - own
        return kernel + max(0, held.get("Shmem", 0) - mapped)


def processor(pids: Iterable[int]) -> tuple[float, float]:
    """Seconds that all threads of these ran so far, and seconds that they waited for a processor that others had."""
    ran = waited = 0
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                    one, other, _ = file.read().split()
                ran, waited = ran + int(one), waited + int(other)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ran / 1e9, waited / 1e9


def end(pids: Iterable[int]) -> None:
    """Kill each; those that are gone already are no trouble."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def end_all_below(root: int, spare: int = 0) -> None:
    """Kill until nothing is left below `root`, reaping what became a child of this process but for `spare`, or something stays for too long."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        reap(spare)
        below = descendants(root)
        if not below or time.monotonic() > deadline:
            return
        end(below)
        time.sleep(0.005)


def reap(spare: int = 0) -> None:
    """Take note of the end of children, but for `spare` and the bystanders."""
    for pid in _dead_children():
        if pid != spare and pid not in bystanders:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def _dead_children() -> Iterator[int]:
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            found = _stat(int(entry))
            if found is not None and found[0] == own and found[1] == "Z":
                yield int(entry)


def command(pid: int) -> str:
    """The command line of a process, for a report."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(300).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def owner_of_tcp(local_port: int, remote_port: int) -> int | None:
    """The process that holds the TCP connection from `local_port` to `remote_port` on the loopback interface, where it can be found."""
    wanted = None
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                lines = file.readlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            here, there = (int(f.rpartition(":")[2], 16) for f in fields[1:3])
            if (here, there) == (local_port, remote_port):
                wanted = f"socket:[{fields[9]}]"
    if wanted is None:
        return None
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                for descriptor in os.listdir(f"/proc/{entry}/fd"):
                    if os.readlink(f"/proc/{entry}/fd/{descriptor}") == wanted:
                        return int(entry)
            except OSError:
                continue  # it ended while it was looked at, or is not ours to look at
    return None


def remove(folder: str | os.PathLike[str]) -> None:
    """Remove a folder, which an attack may have made deeper than Python recurses."""
    subprocess.run(["rm", "-rf", "--", folder], check=False)
