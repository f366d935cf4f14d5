"""A cell: the process of one session, from its fork to the guest program behind every wall.

Runs in the zygote's child. Any failure before the guest starts ends the process: a cell with a hole in its walls never serves.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from safeexec_backends._hardening import (
    copies,
    descriptors,
    landlock,
    libc,
    mounts,
    namespaces,
    privileges,
    rlimits,
    seccomp,
    waiting,
)
from safeexec_backends.local.keeping import BRANCHES, CHILDREN

UID = 1000
"""What a cell's own user namespace calls its one user."""
_CHANNEL, _STATUS, _PROC, _PROC_STATUS, _PROC_FDS = 3, 4, 5, 6, 7

WALLS = (
    "seccomp",
    "landlock",
    "user_namespace",
    "mount_namespace",
    "pid_namespace",
    "network_namespace",
    "ipc_namespace",
    "uts_namespace",
    "cgroup_namespace",
    "unprivileged_uid",
    "capabilities",
    "no_new_privs",
    "not_dumpable",
    "rlimits",
    "closed_fds",
    "empty_environment",
    "parent_death",
)
"""The operating-system walls of a cell, in the order they are reported."""


class Plan:
    """What the zygote found out, done once, for all its cells."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        """Walls that cannot stand, and why."""
        self.outer = (0, 0)
        """uid and gid outside the cells' user namespaces."""
        self.readable: tuple[str, ...] = ()
        """Where no private root can be built: what Landlock lets cells read."""
        self.covered: tuple[mounts.Covered, ...] = ()
        """What the private root has below /tmp."""
        self.namespaces: dict[str, str] = {}
        """The host's namespaces, to compare with."""
        self.common: frozenset[str] = frozenset()
        """Namespaces of the zygote's own that its cells are in, too, instead of one each."""
        self.proc = -1
        """An open /proc."""
        self.zygote = -1
        """A pidfd of the zygote: readable once it is dead."""
        self.pinned: tuple[int, ...] = ()
        """Descriptors that cells keep under their numbers, because a library remembers them; each above all others that are kept."""
        self.own_files: dict[int, str] = {}
        """Files of /proc that cells open before their walls go up and keep, by the numbers they get, above all of `pinned`. Only in a user
        namespace of their own: a pagemap that the host's root opened would tell where in the machine's memory each page lies."""
        self.allow: tuple[str, ...] = ()
        """System calls that the seccomp filter lets through besides its own list."""
        self.filter = b""
        """The seccomp filter of a process with id 1; empty where cells share the host's ids."""
        self.keepers_filter = b""
        """That of one that watches over a session's states; empty where none does."""
        self.cannot_keep = "a cell of this kind keeps no states"
        """Why cells cannot go back to a state they were in; empty where they can."""

    def stands(self, wall: str) -> bool:
        """Whether a wall is to be raised."""
        return wall not in self.missing

    def own_namespaces(self) -> list[str]:
        """The namespaces that each cell is to have for itself."""
        return [wall for wall in namespaces.FLAGS if self.stands(wall) and wall not in self.common]


class Order(NamedTuple):
    """What the host asks of one cell."""

    memory: int
    disk: int
    processes: int
    baseline: int
    open_files: int = 256
    file_size: int = 0
    """Bytes of one file, also of one in memory; 0: as `disk`."""
    folder: str = ""
    """Where no private root exists: this cell's own folder, with work and tmp in it."""
    probe: bool = False
    keeps: bool = False
    """Whether its first process is to watch over the states of a session, which is another one."""


def enter(plan: Plan, order: Order, channel: int, status: int) -> None:
    """Raise every wall of `plan` around this process, once and for good. Raises OSError when one does not stand."""
    if plan.stands("parent_death"):
        privileges.die_with_parent()
        # Had the zygote died before the line above, no signal would ever come.
        if plan.zygote >= 0 and waiting.ready(plan.zygote, 0):
            os._exit(1)
    if plan.stands("user_namespace"):
        namespaces.map_ids(plan.proc, UID, UID, *plan.outer)
    if plan.proc >= 0:
        with contextlib.suppress(OSError):  # no wall: should the host itself run out of memory, cells go first
            _write(plan.proc, "self/oom_score_adj", b"1000")
    if plan.stands("mount_namespace"):
        mounts.storage(order.disk, plan.covered)
        work, temporary = mounts.WORK, mounts.TEMPORARY
    else:
        work, temporary = f"{order.folder}/work", f"{order.folder}/tmp"
    if plan.stands("uts_namespace"):
        namespaces.hostname("sandbox")
    if os.getpid() != os.getsid(0):
        os.setsid()
    os.chdir(work)
    os.umask(0o077)
    kept = [channel, status]
    if order.probe and libc.READY:
        # A probe keeps these to look at itself from the outside; it never runs anyone's code. Opened now: Landlock will refuse it.
        own = [os.open(f"self/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=plan.proc) for name in ("status", "fd")]
        kept += [plan.proc, *own]
    own_files: dict[int, int] = {}
    if libc.READY and plan.stands("user_namespace"):
        for number, name in _own_files(plan, order).items():
            with contextlib.suppress(OSError):  # who wants it does without
                own_files[number] = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=plan.proc)
    descriptors.keep([*kept, *plan.pinned, *own_files.values()])
    for place, number in enumerate([*plan.pinned, *own_files], 3 + len(kept)):
        os.dup2(place, number, inheritable=False)
        os.close(place)
    os.environ.clear()
    rlimits.apply(limits(plan, order))
    if libc.READY:
        _lock(plan, order, work, temporary)


def _own_files(plan: Plan, order: Order) -> dict[int, str]:
    return {**plan.own_files, CHILDREN: "thread-self/children"} if order.keeps else plan.own_files


def _write(proc: int, name: str, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def limits(plan: Plan, order: Order) -> dict[str, int]:
    """The resource limits of a cell."""
    return rlimits.plan(
        address_space=order.baseline + order.memory if order.baseline else None,
        file_size=order.file_size or order.disk,
        # The kernel counts by user: without a namespace of its own a cell would share the count with everything that user runs.
        # One that keeps its state has two processes more, the one that watches over it and its checkpoint, and one for each of its branches: the
        # one that watches sets the exact limit.
        processes=order.processes + (2 + BRANCHES if order.keeps else 0) if plan.stands("user_namespace") else None,
        open_files=order.open_files,
    )


def _lock(plan: Plan, order: Order, work: str, temporary: str) -> None:
    privileges.drop_capabilities()
    privileges.no_new_privileges()
    privileges.undumpable()
    if plan.stands("landlock"):
        readable = ["/"] if plan.stands("mount_namespace") else list(plan.readable)
        landlock.apply(readable, [work, temporary, os.devnull])
    if plan.stands("seccomp"):
        own = os.getpid()
        if order.keeps:
            seccomp.apply(plan.keepers_filter)
        else:
            seccomp.apply(plan.filter if own == 1 and plan.filter else strict(plan, own))


def strict(plan: Plan, own: int) -> bytes:
    """The seccomp filter of a cell with the process id `own` that runs its session itself."""
    # A descriptor is enough to change a file's mode and times, for a process of its owner's: what is pinned is the host's.
    return seccomp.build(own, plan.allow, private_files=plan.stands("mount_namespace") and not plan.pinned)


def cannot_keep(plan: Plan) -> str:
    """Why a cell cannot go back to a state it was in, as far as its walls say; empty when it can."""
    for wall in ("seccomp", "user_namespace", "pid_namespace", "mount_namespace"):
        if not plan.stands(wall):
            return f"it takes copies of its process, which nothing would hold together without the wall {wall} ({plan.missing[wall]})"
    return ""


def run(plan: Plan, order: Order, channel: int, status: int, serve: Any) -> None:
    """Become a cell and run `serve(descriptor of the channel)`; never returns."""
    code = 1
    try:
        # No handler yet: an interrupt that comes before the guest is ready must not break the set-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            enter(plan, order, channel, status)
            status = _STATUS
            if order.probe:
                walls = examine(plan, order)
                unkept = copies.probe() if order.keeps else plan.cannot_keep
                os.write(status, json.dumps({"walls": walls, "rollback": unkept}).encode() + b"\n")
                os._exit(0)
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
            os.write(status if _is_open(status) else _STATUS, json.dumps({"setup": text}).encode() + b"\n")
            os._exit(1)
        os.close(_STATUS)
        gc.enable()
        reseed()
        if order.folder:
            import tempfile

            tempfile.tempdir = f"{order.folder}/tmp"
        serve(_CHANNEL)
        code = 0
    finally:
        os._exit(code)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def reseed() -> None:
    """Fresh randomness: what the zygote drew must not repeat in every session."""
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def examine(plan: Plan, order: Order) -> dict[str, str]:
    """Which walls really stand around this process: wall to "" or the reason why not. By effect wherever there is one to see."""
    found: dict[str, str] = {}
    fields = privileges.status(_PROC_STATUS) if libc.READY else {}
    inside = namespaces.identities(_PROC) if libc.READY else {}
    for wall in WALLS:
        if not plan.stands(wall):
            found[wall] = plan.missing[wall]
            continue
        try:
            found[wall] = _check(wall, plan, order, fields, inside)
        except OSError as error:
            found[wall] = f"could not be verified ({error})"
    return found


def _check(wall: str, plan: Plan, order: Order, fields: Mapping[str, str], inside: Mapping[str, str]) -> str:
    bad = "it was raised but does not hold"
    if wall in namespaces.FLAGS:
        if wall not in namespaces.differing(inside, plan.namespaces):
            return bad
        if wall == "pid_namespace" and os.getpid() != 1:
            return bad
        if wall == "mount_namespace" and (os.path.exists("/proc/self") or os.path.exists("/etc/passwd")):
            return bad
        return ""
    if wall == "seccomp":
        return "" if fields["Seccomp"] == "2" and _refused(errno.EPERM, os.execv, "/nowhere", ["x"]) else bad
    if wall == "landlock":
        return "" if _refused(errno.EACCES, os.open, "/dev/zero", os.O_WRONLY) else bad
    if wall == "unprivileged_uid":
        return "" if plan.outer[0] != 0 and os.getuid() != 0 else bad
    if wall == "capabilities":
        return "" if privileges.holds_no_capability(dict(fields)) else bad
    if wall == "no_new_privs":
        return "" if privileges.has_no_new_privileges() else bad
    if wall == "not_dumpable":
        return "" if privileges.is_undumpable() else bad
    if wall == "rlimits":
        return rlimits.standing(limits(plan, order))
    if wall == "closed_fds":
        fds = (
            {int(name) for name in os.listdir(_PROC_FDS)} if libc.READY else {fd for fd in range(1024) if _is_open(fd)}
        )
        return "" if fds <= {*range(_PROC_FDS + 2), *plan.pinned, *_own_files(plan, order)} else bad
    if wall == "empty_environment":
        return "" if not os.environ else bad
    if wall == "parent_death":
        return "" if privileges.dies_with_parent() else bad
    return bad


def _refused(code: int, call: Any, *arguments: Any) -> bool:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno == code
    return False
