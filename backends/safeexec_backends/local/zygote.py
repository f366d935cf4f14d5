"""The zygote: a process that has everything imported and forks a cell per session.

Started by the host with an empty environment and one socket. It builds what all cells share (the private root), gives up its privileges, and
then serves orders. It runs nobody's code: what it imports is the interpreter's library and the packages the host's policy names. It ends when
the host does, and its cells end with it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import types
from typing import Any, NamedTuple

from safeexec_backends._hardening import copies, libc, mounts, namespaces, waiting
from safeexec_backends._hardening.folders import remove_tree
from safeexec_backends.local import cell, control
from safeexec_backends.local.cell import Order
from safeexec_backends.local.ground import Ground
from safeexec_backends.local.imports import LANGUAGE, Imports
from safeexec_backends.local.rehearsal import Rehearsals
from safeexec_backends.local.settling import Settling

_PAUSE = 20
"""Milliseconds without an order after which there is time for imports."""
_IMPATIENT = 10
"""Cells in a row without such a pause after which there is one import all the same: where sessions never stop coming, each would do it for itself."""


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
    """What had been got ready when it was forked."""
    ends: list[int]
    """The host's ends of its channel and status pipe, until the host has them."""


class Zygote:
    """The state of the one process."""

    keeps = True
    """Whether its cells are sessions, whose steps can be undone."""

    def __init__(self, sock: socket.socket, setup: control.Message) -> None:
        self._sock = sock
        self._setup = setup
        self._host = os.getppid()
        self._host_pidfd = -1
        self._statm = -1
        self._ground = Ground(setup, self.keeps)
        self._plan = self._ground.plan
        self._cells: dict[int, Cell] = {}
        """Live cells by pidfd (by pid where there are none)."""
        self._spares: dict[bool, Cell] = {}
        """One that nobody has asked for yet, with and without a process that watches over it."""
        self._wanted: dict[bool, control.Message] = {}
        """The last order of either kind: what a spare is made for."""
        self._folder = ""
        self._made = 0
        self._cleaners: list[int] = []
        self._quiet = True
        """Whether nobody has wanted anything for a while."""
        self._in_a_row = 0
        """Cells that were made ahead since the last import."""
        self._imports = Imports(setup, self._ground)
        self._poll = select.poll()
        self._thread_id: int | None = None

    # -- once --------------------------------------------------------------------------------------------------------------

    @classmethod
    def warm(cls) -> None:
        """What can be done before the host says what it wants."""

    def prepare(self) -> control.Message:
        """Import what every cell needs, build the private root, give up privileges; the answer to the host."""
        sys.path += [folder for folder, _ in self._setup["extra"] if folder not in sys.path]
        self._guest = importlib.import_module("safeexec.guest")
        self._wire = importlib.import_module("safeexec.wire")
        # Not at the top: the safeexec package exists only once `main` has made its stand-in.
        self._keeper: Any = importlib.import_module("safeexec_backends.local.keeper") if self.keeps else None
        self._runner: Any = importlib.import_module("safeexec_backends.local.runner") if self.keeps else None
        self._rehearsals = Rehearsals(self._guest, self._wire)
        self._settling = Settling(lambda: self._rehearsals.here(list(self._imports.languages)))
        self._imports.language(())
        language = sys.modules.get(LANGUAGE)
        if language is not None:
            # It imports parts of itself when programs ask for them: in cells, or here while nobody waits.
            self._setup["readable"] += language.__path__
        if libc.READY:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            self._thread_id = copies.thread_id_address()
            self._host_pidfd = os.pidfd_open(self._host)
            if os.getppid() != self._host:
                os._exit(0)  # the host died meanwhile, and its id may be another's by now
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # every live cell takes two descriptors here
        self._ground.prepare()
        self._folder = self._ground.folder
        sys.dont_write_bytecode = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return self._probe()

    def _probe(self) -> control.Message:
        """Let one cell look around itself: which walls really stand."""
        order = {"memory": 2**28, "disk": 2**20, "processes": 8, "imports": [], "preload": [], "probe": True}
        report: dict[str, Any] = {}
        for _ in range(2):
            try:
                probe = self._make({**order, "keeps": not self._plan.cannot_keep})
            except OSError as error:
                report = {"setup": str(error)}
            else:
                os.close(probe.ends[0])
                with open(probe.ends[1], "rb") as pipe:
                    report = json.loads(pipe.readline() or b"{}")
            if "walls" in report:
                cannot = report["rollback"]
                if not cannot and not self._thread_id:
                    cannot = "the kernel does not tell where the C library keeps a thread's id"
                self._plan.cannot_keep = cannot
                if not cannot:
                    self._keeper.prepare()
                return {
                    "walls": report["walls"],
                    "rollback": cannot,
                    "folder": self._folder,
                    "portable": not libc.READY,
                }
            private_root = self._plan.stands("mount_namespace")
            if libc.READY:
                self._ground.find_grantable()
                if not self._plan.cannot_keep:
                    self._plan.cannot_keep = cell.cannot_keep(self._plan)
            if private_root and not self._plan.stands("mount_namespace"):
                # This process sits in a private root that its cells cannot have. Another one must start without.
                return {"retry": self._plan.missing, "folder": self._folder, "portable": not libc.READY}
        raise RuntimeError(f"a sandbox process cannot be set up: {report.get('setup', 'it died')}")

    # -- for every cell ----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer orders until the host hangs up or dies."""
        self._poll.register(self._sock, select.POLLIN)
        if self._host_pidfd >= 0:
            self._poll.register(self._host_pidfd, select.POLLIN)
        self._expect(self._setup)
        busy = True
        while True:
            events = self._poll.poll(self._patience(busy))
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
            self._cleaners = [pid for pid in self._cleaners if os.waitpid(pid, os.WNOHANG)[0] == 0]
            # Quiet is what nothing came in: a poll that waited for it, or one that follows.
            self._quiet = not events and (self._quiet or self._lacking() is None)
            busy = bool(events) or self._use_idle_time()
            if self._host_pidfd < 0:
                for live in list(self._cells.values()):
                    self._reap(live)
                if os.getppid() != self._host:
                    return

    def _patience(self, busy: bool) -> int | None:
        """Milliseconds to wait for an order: the next cell is made at once, all else when nobody has wanted anything for a while."""
        if not busy:
            return None if self._host_pidfd >= 0 else 1000
        return 0 if self._quiet or self._lacking() is not None else _PAUSE

    def _expect(self, message: control.Message) -> None:
        first = message.get("first")
        self._wanted = {} if first is None else {_keeps(first): first}
        self._imports.expect(message.get("idle", []))

    def _use_idle_time(self) -> bool:
        """Get one thing ready that the next session will want; whether there was one."""
        try:
            kind = self._lacking()
            if kind is not None:
                self._spares[kind] = self._make(self._wanted[kind])
                self._in_a_row += 1
                if self._quiet or self._in_a_row < _IMPATIENT:
                    return True
            self._in_a_row = 0
            if self._imports.one_ahead() or (self.keeps and self._settling.one(self._imports.generation)):
                return True
            for kind, spare in self._spares.items():
                if spare.generation != self._generation:
                    self._end(self._spares.pop(kind))  # it lacks what was got ready since
                    return True
        except Exception:
            self._wanted.clear()  # the next order meets the same trouble and reports it
        return False

    @property
    def _generation(self) -> int:
        return self._imports.generation + self._settling.times

    def _lacking(self) -> bool | None:
        """The kind of spare that is wanted and not there."""
        return next((kind for kind in self._wanted if kind not in self._spares), None)

    def _answer(self, message: control.Message) -> None:
        if message["op"] == "expect":
            self._expect(message)
            return
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
            reply = {"error": f"{type(error).__name__}: {error}", "module": self._imports.threads_from}
        try:
            control.send(self._sock, reply, fds)
        except OSError:
            pass  # the host is gone: the next poll says so
        for fd in fds[:2]:
            os.close(fd)

    def _take(self, message: control.Message) -> Cell:
        self._wanted[_keeps(message)] = message
        spare = self._spares.pop(_keeps(message), None)
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
        language = self._imports.of_policy(message)
        folder = self._cell_folder()
        order = Order(
            memory=message["memory"],
            disk=message["disk"],
            processes=message["processes"],
            baseline=self._address_space(),
            open_files=message.get("open_files", 256),
            file_size=message.get("file_size", 0),
            folder=folder,
            probe=message.get("probe", False),
            keeps=message.get("keeps", False),
        )
        try:
            live = self._started(order, message, language)
        except OSError:  # no descriptors, or no processes: nothing of it stays
            for path in (f"{folder}/work", f"{folder}/tmp", folder) if folder else ():
                os.rmdir(path)
            raise
        self._cells[live.pidfd if live.pidfd >= 0 else live.pid] = live
        if live.pidfd >= 0:
            self._poll.register(live.pidfd, select.POLLIN)
        return live

    def _started(self, order: Order, message: control.Message, language: Any) -> Cell:
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
                cell.run(self._plan, order, channel.fileno(), status, lambda fd: self._serve_guest(fd, language, order))
            return Cell(pid, pidfd, status, order.folder, message, self._generation, [ours.detach(), report])

    def _fork(self) -> tuple[int, int]:
        gc.freeze()  # what the zygote has is never garbage: collections in cells would only copy its pages
        if libc.READY:
            # The handlers of the standard library renew locks that one thread has not taken, and seeds that `cell.reseed` renews; they touch hundreds
            # of pages. Packages may have their own.
            return namespaces.clone(
                namespaces.flags(self._plan.own_namespaces()),
                handlers=not self.keeps or bool(self._imports.packages),
            )
        return os.fork(), -1

    def _serve_guest(self, fd: int, language: Any, order: Order) -> None:
        wire: Any = self._wire
        wire.may_load = getattr(language, "may_load", wire.may_load)
        if not order.keeps:
            self._rehearsals.one_unless_wanted(language, fd)
            self._guest.Guest(self._guest.FdChannel(fd), language).serve()
            return
        roots = (mounts.WORK, mounts.TEMPORARY)
        keeper = self._keeper.Keeper(self._keeper.Terms(self._thread_id, order.processes, order.disk, roots))
        keeper.serve()
        # From here on in a process of its own, and in another one whenever the session goes back to where it began.
        if keeper.first:
            self._rehearsals.one_unless_wanted(language, self._keeper.CHANNEL)
        self._runner.CellGuest(language, self._thread_id).serve()

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
        kind = _keeps(live.order)
        if self._spares.get(kind) is live:
            for fd in live.ends:
                os.close(fd)
            del self._spares[kind]
            self._wanted.pop(kind, None)  # whatever ended it, another would end the same way
        self._forget(live)

    def _forget(self, live: Cell) -> None:
        if live.pidfd >= 0:
            self._poll.unregister(live.pidfd)
            os.close(live.pidfd)
        del self._cells[live.pidfd if live.pidfd >= 0 else live.pid]
        os.close(live.status)
        if live.folder:
            self._clean(live.folder)

    def _clean(self, folder: str) -> None:
        # In a process of its own: a session that made a million files must not keep others waiting. Where there is none to be had they wait.
        try:
            pid = os.fork()
        except OSError:
            remove_tree(folder)
            return
        if pid == 0:
            try:
                remove_tree(folder)
            finally:
                os._exit(0)
        self._cleaners.append(pid)

    def close(self) -> None:
        """End every cell and leave nothing behind."""
        for live in self._cells.values():
            os.kill(live.pid, signal.SIGKILL)
        for live in self._cells.values():
            os.waitpid(live.pid, 0)
        for pid in self._cleaners:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if self._ground.folder:
            remove_tree(self._ground.folder)


def _keeps(order: control.Message) -> bool:
    return bool(order.get("keeps"))


def _ended(live: Cell) -> bool:
    return live.pidfd >= 0 and waiting.ready(live.pidfd, 0)


class _Leave(BaseException):
    """The host is done."""


def _leave(*_: object) -> None:
    raise _Leave


def _bare(name: str, folder: str) -> None:
    module = types.ModuleType(name)
    module.__path__ = [folder]
    sys.modules[name] = module


def main(descriptor: int, package: str, kind: type[Zygote] = Zygote) -> None:
    """Serve the host at the other end of `descriptor`. `package` is the folder of the safeexec package."""
    # What the host ignores or blocks would be ignored and blocked here: children never to be waited for, interrupts never to arrive.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    sys.argv, sys.orig_argv = [""], []  # cells have no use for the host's paths in them
    gc.disable()  # nothing here is garbage yet; cells turn it on again
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    # Packages without their __init__: a zygote needs the guest and the wire, not the executor that stands on them, and of RestrictedPython
    # the transformer alone.
    _bare("safeexec", package)
    for folder in sys.path:
        if os.path.isfile(f"{folder}/RestrictedPython/transformer.py"):
            _bare("RestrictedPython", f"{folder}/RestrictedPython")
            break
    kind.warm()
    setup, _ = control.receive(sock)
    if setup["portable"]:
        libc.READY = False
    zygote = kind(sock, setup)
    try:
        reply = zygote.prepare()
    except Exception as error:
        zygote.close()  # before the host hears of it, and ends this process
        control.send(sock, {"error": f"{type(error).__name__}: {error}"})
        return
    control.send(sock, reply)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # nobody reads the pipe any more: what an import says there must not block
    os.close(null)
    try:
        # The host says good-bye by a signal, too: it does not wait for an import to end.
        signal.signal(signal.SIGTERM, _leave)
        zygote.serve()
    except _Leave:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        zygote.close()
    os._exit(0)  # taking the interpreter apart would keep the host waiting for nothing
