"""The ground all cells of a zygote stand on: found out, built and sealed once, before the first of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from safeexec_backends._hardening import landlock, libc, mounts, namespaces, privileges, seccomp
from safeexec_backends.local import cell, control
from safeexec_backends.local.cell import Plan

_PORTABLE = {"rlimits", "closed_fds", "empty_environment"}
"""The walls that stand on every POSIX system."""

_SCRATCH = 16 * 2**20
"""Bytes of the zygote's own writable folder."""


class Ground:
    """Prepares `plan`; `folder` is what it made on a real file system, if it had to."""

    def __init__(self, setup: control.Message, keeps: bool = False) -> None:
        """`keeps`: whether cells are to go back to states they were in, where they can."""
        self._setup = setup
        self._keeps = keeps
        self.plan = Plan()
        self.plan.missing = dict(setup["deny"])
        self.folder = ""
        self.scratch = mounts.WORK
        """Where the zygote may write."""

    def prepare(self) -> None:
        """Build the private root where possible, and give up every privilege. Raises OSError."""
        missing = self.plan.missing
        if libc.READY:
            self._look()
            self._build()
            self._empty_network()
        else:
            for wall in cell.WALLS:
                if wall not in _PORTABLE:
                    missing.setdefault(wall, f"not available on this system: {libc.supported()}")
        if "mount_namespace" in missing:
            missing["mount_namespace"] += (
                "; instead, files lie in a private folder below the host's temporary directory, Limits.disk bounds each of them and not "
                "their sum, and changes of their modes and times have no effect"
            )
        if libc.READY:
            self._choose_identity()
        if not self.plan.stands("mount_namespace"):
            self._make_folder()
        if libc.READY:
            self._drop()

    def _look(self) -> None:
        plan, missing = self.plan, self.plan.missing
        plan.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        plan.namespaces = namespaces.identities(plan.proc)
        plan.zygote = os.pidfd_open(os.getpid())
        for wall, reason in (("seccomp", seccomp.probe()), ("landlock", landlock.probe())):
            if reason:
                missing.setdefault(wall, reason)
        if not plan.namespaces:
            for wall in namespaces.FLAGS:
                missing.setdefault(wall, "/proc is not mounted")
        if "user_namespace" in missing:
            missing.setdefault("mount_namespace", "cells have no user namespace to mount in")
        plan.outer = (os.geteuid(), os.getegid())
        if os.geteuid() == 0:
            spare = privileges.spare_uid(plan.proc)
            plan.outer = (spare, spare)

    def _build(self) -> None:
        missing = self.plan.missing
        if "mount_namespace" in missing:
            return
        root = os.geteuid() == 0
        reason = self._try_private_root() if root else _attempt(self._private_root_as_user)
        if reason:
            missing["mount_namespace"] = reason
        elif not root:
            self._private_root_as_user()

    def _try_private_root(self) -> str:
        """Build the private root as root; why that failed, everything being as before then, or empty."""
        before = os.open("self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.plan.proc)
        try:
            libc.syscall("unshare", namespaces.FLAGS["mount_namespace"])
            self._private_root()
            return ""
        except OSError as error:
            libc.syscall("setns", before, namespaces.FLAGS["mount_namespace"])
            return f"{namespaces.explain(error)}: {error}"
        finally:
            os.close(before)

    def _private_root_as_user(self) -> None:
        plan = self.plan
        libc.syscall("unshare", namespaces.flags(["user_namespace", "mount_namespace"]))
        namespaces.map_ids(plan.proc, *plan.outer, *plan.outer)
        self._private_root()

    def _private_root(self) -> None:
        self.plan.covered = tuple(mounts.private_root(self._readable()))
        mounts.scratch(_SCRATCH, self.plan.outer)

    def _empty_network(self) -> None:
        """One network without anything for all cells: making and ending one for each takes as long as all else that the kernel does for a session.

        It belongs to a user namespace in which no cell has any capability; one of a cell's own would be a cell's to set up, had it got its
        capabilities back. Cells could meet in it by abstract sockets alone, which Landlock keeps apart, and which they cannot make behind seccomp.
        """
        if not (
            self.plan.stands("network_namespace") and self.plan.stands("landlock") and landlock.keeps_sockets_apart()
        ):
            return
        try:
            libc.syscall("unshare", namespaces.FLAGS["network_namespace"])
        except OSError:  # it takes privileges; then each makes one of its own
            return
        self.plan.common = frozenset({"network_namespace"})

    def _readable(self) -> list[str]:
        readable = [p for p in self._setup["readable"] if os.path.exists(p)]
        readable += [path for _, path in self._setup["extra"] if os.path.exists(path)]
        return readable

    def _choose_identity(self) -> None:
        plan, missing = self.plan, self.plan.missing
        if os.geteuid() == 0 and not plan.stands("mount_namespace"):
            closed = next((p for p in self._readable() if not _public(p)), None)
            if closed is not None:
                # Without a private root an unprivileged uid could not reach the interpreter's own library.
                missing.setdefault("unprivileged_uid", f"{closed} is in a folder that only root may enter")
        if not plan.stands("unprivileged_uid"):
            plan.outer = (os.geteuid(), os.getegid())

    def _drop(self) -> None:
        plan, missing = self.plan, self.plan.missing
        if os.geteuid() == 0:
            privileges.drop_bounding_set()
            if plan.stands("unprivileged_uid"):
                privileges.become(*plan.outer)
        privileges.no_new_privileges()
        if not plan.stands("mount_namespace"):
            plan.readable = (*self._readable(), *mounts.DEVICES)
        privileges.drop_capabilities()
        # A change of uid made this process undumpable, and /proc/self/uid_map of its children root's. No one else has this uid.
        privileges.undumpable(False)
        if plan.stands("seccomp"):
            plan.cannot_keep = cell.cannot_keep(plan) if self._keeps else plan.cannot_keep
            plan.filter = cell.strict(plan, 1)
            if not plan.cannot_keep:
                plan.keepers_filter = seccomp.build(1, plan.allow, plan.stands("mount_namespace"), keeper=True)
        if not plan.stands("user_namespace"):
            for wall in plan.own_namespaces():
                missing[wall] = "cells have no user namespace, which an unprivileged process needs for it"

    def find_grantable(self) -> None:
        """Not every namespace was granted: find out which are."""
        plan, missing = self.plan, self.plan.missing
        if not plan.stands("user_namespace"):
            return
        wanted = plan.own_namespaces()
        if not _trial(plan, wanted):
            return
        reason = _trial(plan, ["user_namespace"])
        if reason:
            for wall in wanted:
                missing[wall] = reason
            return
        for wall in wanted[1:]:
            reason = _trial(plan, ["user_namespace", wall])
            if reason:
                missing[wall] = reason

    def _make_folder(self) -> None:
        import tempfile

        self.folder = tempfile.mkdtemp(prefix="safeexec-")
        self.scratch = f"{self.folder}/zygote"
        os.mkdir(self.scratch, 0o700)
        if libc.READY:
            for path in (self.folder, self.scratch):
                os.chown(path, *self.plan.outer)


def _attempt(action: Callable[[], None]) -> str:
    """Why `action` fails, tried in a child that is thrown away: a half-built root cannot be taken back."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        reason = ""
        try:
            action()
        except OSError as error:
            reason = f"{namespaces.explain(error)}: {error}"
        except BaseException as error:
            reason = repr(error)
        finally:
            os.write(write, reason.encode()[:4000])
            os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8", errors="replace") as pipe:
        reason = pipe.read()
    _, status = os.waitpid(pid, 0)
    return reason or ("" if status == 0 else f"the attempt ended with status {status}")


def _trial(plan: Plan, walls: Sequence[str]) -> str:
    """Why a child in these namespaces cannot be made; empty when it can."""
    try:
        pid, pidfd = namespaces.clone(namespaces.flags(walls))
    except OSError as error:
        return namespaces.explain(error)
    if pid == 0:
        code = 1
        try:
            namespaces.map_ids(plan.proc, cell.UID, cell.UID, *plan.outer)
            if "mount_namespace" in walls:
                mounts.storage(2**20)
            code = 0
        finally:
            os._exit(code)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    return "" if status == 0 else "the kernel grants it without the privileges that belong to it"


def _public(path: str) -> bool:
    """Whether any user may reach `path`."""
    real = os.path.realpath(path)
    while real != "/":
        real = os.path.dirname(real)
        if not os.stat(real).st_mode & 0o001:
            return False
    return True
