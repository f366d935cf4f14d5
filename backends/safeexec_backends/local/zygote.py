"""The zygote: a process that has everything imported and forks a cell per session.

Started by the host with an empty environment and one socket. It builds what all cells share (the private root), gives up its privileges, and
then serves orders. It runs nobody's code: what it imports is the interpreter's library and the packages the host's policy names. It ends when
the host does, and its cells end with it.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from safeexec_backends._hardening import landlock, libc, mounts, namespaces, privileges, seccomp
from safeexec_backends._hardening.folders import remove_tree
from safeexec_backends.local import cell, control
from safeexec_backends.local.cell import Order, Plan

_PORTABLE = {"rlimits", "closed_fds", "empty_environment"}
"""The walls that stand on every POSIX system."""

_EXTRA_IMPORTS = {
    "matplotlib": ("matplotlib.pyplot", "matplotlib.backends.backend_agg"),
    "PIL": ("PIL.Image", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"),
}
"""What a package's users always want, and what is slow to import in every session."""


class Cell(NamedTuple):
    """A live cell."""

    pid: int
    pidfd: int
    status: int
    """Where its end is reported."""
    folder: str
    order: control.Message
    """What it was made for."""
    generation: int
    """How many modules had been imported when it was forked."""
    ends: list[int]
    """The host's ends of its channel and status pipe, until the host has them."""


class Zygote:
    """The state of the one process."""

    def __init__(self, sock: socket.socket, setup: control.Message) -> None:
        self._sock = sock
        self._setup = setup
        self._host = os.getppid()
        self._host_pidfd = -1
        self._statm = -1
        self._plan = Plan()
        self._cells: dict[int, Cell] = {}
        """Live cells by pidfd (by pid where there are none)."""
        self._spare: Cell | None = None
        self._wanted: control.Message | None = None
        """The last order: what a spare is made for."""
        self._folder = ""
        self._made = 0
        self._idle = list(setup["idle"])
        self._imported: set[str] = set()
        self._languages: dict[tuple[str, ...], Any] = {}
        self._generation = 0
        self._threads_from = ""
        self._poll = select.poll()

    # -- once --------------------------------------------------------------------------------------------------------------

    def prepare(self) -> control.Message:
        """Import what every cell needs, build the private root, give up privileges; the answer to the host."""
        self._guest = importlib.import_module("safeexec.guest")
        self._language(())
        missing = dict(self._setup["deny"])
        if libc.READY:
            self._prepare_linux(missing)
        else:
            for wall in cell.WALLS:
                if wall not in _PORTABLE:
                    missing.setdefault(wall, f"not available on this system: {libc.supported()}")
        self._plan.missing = missing
        if "mount_namespace" in missing:
            missing["mount_namespace"] += (
                "; instead, files lie in a private folder below the host's temporary directory, Limits.disk bounds each of them and not "
                "their sum, and changes of their modes and times have no effect"
            )
        if libc.READY:
            self._choose_identity()
        if not self._plan.stands("mount_namespace"):
            self._make_folder()
        if libc.READY:
            self._drop()
        sys.dont_write_bytecode = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return {"walls": self._probe(), "folder": self._folder}

    def _probe(self) -> dict[str, str]:
        """Let one cell look around itself: which walls really stand."""
        order = {"memory": 2**28, "disk": 2**20, "processes": 8, "imports": [], "preload": [], "probe": True}
        report: dict[str, Any] = {}
        for attempt in range(2):
            try:
                probe = self._make(order)
            except OSError as error:
                report = {"setup": str(error)}
            else:
                os.close(probe.ends[0])
                with open(probe.ends[1], "rb") as pipe:
                    report = json.loads(pipe.readline() or b"{}")
            if "walls" in report:
                walls: dict[str, str] = report["walls"]
                return walls
            if attempt == 0 and libc.READY:
                self._grantable()
        raise RuntimeError(f"a sandbox process cannot be set up: {report.get('setup', 'it died')}")

    def _prepare_linux(self, missing: dict[str, str]) -> None:
        plan = self._plan
        plan.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        plan.namespaces = namespaces.identities(plan.proc)
        self._statm = os.open("self/statm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=plan.proc)
        self._host_pidfd = os.pidfd_open(self._host)
        if os.getppid() != self._host:
            os._exit(0)  # the host died meanwhile, and its id may be another's by now
        plan.zygote = os.pidfd_open(os.getpid())
        for wall, reason in (("seccomp", seccomp.probe()), ("landlock", landlock.probe())):
            if reason:
                missing.setdefault(wall, reason)
        if not plan.namespaces:
            for wall in namespaces.FLAGS:
                missing.setdefault(wall, "/proc is not mounted")
        root = os.geteuid() == 0
        plan.outer = (os.geteuid(), os.getegid())
        if root:
            spare = privileges.spare_uid(plan.proc)
            plan.outer = (spare, spare)
        if "user_namespace" in missing:
            missing.setdefault("mount_namespace", "cells have no user namespace to mount in")
        if "mount_namespace" not in missing:
            reason = self._try_private_root() if root else _attempt(self._private_root_as_user)
            if reason:
                missing["mount_namespace"] = reason
            elif not root:
                self._private_root_as_user()

    def _try_private_root(self) -> str:
        """Build the private root as root; why that failed, everything being as before then, or empty."""
        before = os.open("self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._plan.proc)
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
        plan = self._plan
        libc.syscall("unshare", namespaces.flags(["user_namespace", "mount_namespace"]))
        namespaces.map_ids(plan.proc, *plan.outer, *plan.outer)
        self._private_root()

    def _private_root(self) -> None:
        self._plan.covered = tuple(mounts.private_root(self._readable()))
        mounts.scratch(16 * 2**20, self._plan.outer)

    def _readable(self) -> list[str]:
        readable = [p for p in self._setup["readable"] if os.path.exists(p)]
        for name in self._setup["imports"]:
            readable += _package_files(name, readable)
        return readable

    def _choose_identity(self) -> None:
        plan, missing = self._plan, self._plan.missing
        if os.geteuid() == 0 and not plan.stands("mount_namespace"):
            closed = next((p for p in self._readable() if not _public(p)), None)
            if closed is not None:
                # Without a private root an unprivileged uid could not reach the interpreter's own library.
                missing.setdefault("unprivileged_uid", f"{closed} is in a folder that only root may enter")
        if not plan.stands("unprivileged_uid"):
            plan.outer = (os.geteuid(), os.getegid())

    def _drop(self) -> None:
        plan, missing = self._plan, self._plan.missing
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
            plan.filter = seccomp.build(1, private_files=plan.stands("mount_namespace"))
        if not plan.stands("user_namespace"):
            for wall in namespaces.FLAGS:
                missing.setdefault(wall, "cells have no user namespace, which an unprivileged process needs for it")

    def _grantable(self) -> None:
        """Not every namespace was granted: find out which are."""
        plan, missing = self._plan, self._plan.missing
        if not plan.stands("user_namespace"):
            return
        wanted = [wall for wall in namespaces.FLAGS if plan.stands(wall)]
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

        self._folder = tempfile.mkdtemp(prefix="safeexec-")
        os.mkdir(f"{self._folder}/zygote", 0o700)
        if libc.READY:
            for path in (self._folder, f"{self._folder}/zygote"):
                os.chown(path, *self._plan.outer)

    # -- for every cell ----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer orders until the host hangs up or dies."""
        self._poll.register(self._sock, select.POLLIN)
        if self._host_pidfd >= 0:
            self._poll.register(self._host_pidfd, select.POLLIN)
        self._wanted = self._setup["first"]
        busy = True
        while True:
            events = self._poll.poll(0 if busy else None if self._host_pidfd >= 0 else 1000)
            for fd, _ in events:
                if fd == self._host_pidfd:
                    return
                if fd == self._sock.fileno():
                    try:
                        message, _ = control.receive(self._sock)
                    except (EOFError, OSError):
                        return
                    self._answer(message)
                else:
                    self._reap(self._cells[fd])
            busy = bool(events) or self._use_idle_time()
            if self._host_pidfd < 0:
                for live in list(self._cells.values()):
                    self._reap(live)
                if os.getppid() != self._host:
                    return

    def _use_idle_time(self) -> bool:
        """Get one thing ready that the next session will want; whether there was one."""
        try:
            if self._spare is None and self._wanted is not None:
                self._spare = self._make(self._wanted)
                return True
            if self._idle:
                self._preload(self._idle.pop(0))
                return True
            if self._spare is not None and self._spare.generation != self._generation:
                old, self._spare = self._spare, None  # it lacks what was imported since
                self._end(old)
                return True
        except Exception:
            self._wanted = None  # the next order meets the same trouble and reports it
        return False

    def _answer(self, message: control.Message) -> None:
        fds: list[int] = []
        try:
            if message["op"] == "signal":
                self._signal(message["pid"], message["signal"])
                reply: control.Message = {"ok": True}
            else:
                live = self._take(message)
                fds = [*live.ends, *([live.pidfd] if live.pidfd >= 0 else [])]
                reply = {"pid": live.pid}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}", "module": self._threads_from}
        try:
            control.send(self._sock, reply, fds)
        except OSError:
            pass  # the host is gone: the next poll says so
        for fd in fds[:2]:
            os.close(fd)

    def _take(self, message: control.Message) -> Cell:
        self._wanted = message
        spare, self._spare = self._spare, None
        if spare is not None:
            if spare.order == message and not _ended(spare):
                return spare
            self._end(spare)
        return self._make(message)

    def _end(self, live: Cell) -> None:
        os.kill(live.pid, signal.SIGKILL)  # a child not yet waited for: the id is its own
        for fd in live.ends:
            os.close(fd)

    def _make(self, message: control.Message) -> Cell:
        for name in message["preload"]:
            for module in (name, *_EXTRA_IMPORTS.get(name, ())):
                self._preload(module)
        language = self._language(tuple(message["imports"]))
        self._check_threads()
        folder = self._cell_folder()
        order = Order(
            memory=message["memory"],
            disk=message["disk"],
            processes=message["processes"],
            baseline=self._address_space(),
            folder=folder,
            probe=message.get("probe", False),
        )
        ours, channel = socket.socketpair()
        with ours, channel:
            report, status = os.pipe()
            try:
                pid, pidfd = self._fork()
            except OSError:
                os.close(report)
                os.close(status)
                raise
            if pid == 0:
                cell.run(self._plan, order, channel.fileno(), status, lambda fd: self._serve_guest(fd, language))
            live = Cell(pid, pidfd, status, folder, message, self._generation, [ours.detach(), report])
        self._cells[pidfd if pidfd >= 0 else pid] = live
        if pidfd >= 0:
            self._poll.register(pidfd, select.POLLIN)
        return live

    def _fork(self) -> tuple[int, int]:
        gc.freeze()  # what the zygote has is never garbage: collections in cells would only copy its pages
        if libc.READY:
            return namespaces.clone(namespaces.flags(w for w in namespaces.FLAGS if self._plan.stands(w)))
        return os.fork(), -1

    def _serve_guest(self, fd: int, language: Any) -> None:
        self._guest.Guest(self._guest.FdChannel(fd), language).serve()

    def _check_threads(self) -> None:
        if libc.READY and _threads(self._plan.proc) != 1:
            raise RuntimeError(f"importing {self._threads_from or 'a module'} started threads; a zygote must have none")

    def _language(self, imports: tuple[str, ...]) -> Any:
        if imports not in self._languages:
            if len(self._languages) > 64:
                self._languages.clear()
            if self._setup["language"] == "full":
                self._languages[imports] = importlib.import_module("safeexec.guest").Python()
            else:
                module = importlib.import_module("safeexec_backends.local.language")
                self._languages[imports] = module.RestrictedLanguage(imports=imports)
        return self._languages[imports]

    def _preload(self, name: str) -> None:
        if name in self._imported or name in self._setup["skip"]:
            return
        self._imported.add(name)
        if name.partition(".")[0] == "matplotlib":
            # Its settings and font cache go to a folder of the zygote's own; cells inherit what was read.
            os.environ["MPLBACKEND"] = "Agg"
            os.environ["MPLCONFIGDIR"] = f"{self._folder}/zygote" if self._folder else mounts.WORK
        self._generation += 1
        try:
            importlib.import_module(name)
        except Exception:
            return  # the session that wants it gets the error, with its own traceback
        if libc.READY and not self._threads_from and _threads(self._plan.proc) != 1:
            self._threads_from = name

    def _address_space(self) -> int:
        if self._statm < 0:
            return 0
        pages = int(os.pread(self._statm, 256, 0).split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _cell_folder(self) -> str:
        if not self._folder:
            return ""
        self._made += 1
        folder = f"{self._folder}/{self._made}"
        for path in (folder, f"{folder}/work", f"{folder}/tmp"):
            os.mkdir(path, 0o700)
        return folder

    # -- ends --------------------------------------------------------------------------------------------------------------

    def _signal(self, pid: int, number: int) -> None:
        # Only of a child that was not yet waited for: its id cannot be another process's.
        if any(live.pid == pid for live in self._cells.values()):
            os.kill(pid, number)

    def _reap(self, live: Cell) -> None:
        ended, code = os.waitpid(live.pid, os.WNOHANG)
        if ended == 0:
            return
        number = os.waitstatus_to_exitcode(code)
        report = {"signal": -number} if number < 0 else {"code": number}
        try:
            os.write(live.status, json.dumps(report).encode() + b"\n")
        except OSError:
            pass  # nobody listens any more
        if live is self._spare:
            for fd in live.ends:
                os.close(fd)
            self._spare = self._wanted = None  # whatever ended it, another would end the same way
        self._forget(live)

    def _forget(self, live: Cell) -> None:
        if live.pidfd >= 0:
            self._poll.unregister(live.pidfd)
            os.close(live.pidfd)
        del self._cells[live.pidfd if live.pidfd >= 0 else live.pid]
        os.close(live.status)
        if live.folder:
            remove_tree(live.folder)

    def close(self) -> None:
        """End every cell and leave nothing behind."""
        for live in self._cells.values():
            os.kill(live.pid, signal.SIGKILL)
        for live in self._cells.values():
            os.waitpid(live.pid, 0)
        if self._folder:
            remove_tree(self._folder)


def _ended(live: Cell) -> bool:
    return live.pidfd >= 0 and bool(select.select([live.pidfd], [], [], 0)[0])


def _threads(proc: int) -> int:
    return os.stat("self/task", dir_fd=proc).st_nlink - 2


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


def _package_files(name: str, known: Sequence[str]) -> list[str]:
    """Where a package that is not in the usual folders lies (a development install)."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    places = list(spec.submodule_search_locations or [])
    if not places and spec.origin and spec.has_location:
        places = [spec.origin]
    return [p for p in places if os.path.exists(p) and not any(mounts.within(os.path.realpath(p), k) for k in known)]


def main(descriptor: int, package: str) -> None:
    """Serve the host at the other end of `descriptor`. `package` is the folder of the safeexec package."""
    gc.disable()  # nothing here is garbage yet; cells turn it on again
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    # The package without its __init__: a zygote needs the guest and the wire, not the executor that stands on them.
    module = types.ModuleType("safeexec")
    module.__path__ = [package]
    sys.modules["safeexec"] = module
    setup, _ = control.receive(sock)
    zygote = Zygote(sock, setup)
    try:
        reply = zygote.prepare()
    except Exception as error:
        control.send(sock, {"error": f"{type(error).__name__}: {error}"})
        zygote.close()
        return
    control.send(sock, reply)
    try:
        # The host says good-bye by a signal, too: it does not wait for an import to end.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        zygote.serve()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        zygote.close()
