"""The host's side of the ``local`` sandbox: one zygote per executor, one cell per session."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar

from safeexec.backend import Backend, Wall
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.policy import DEFAULT_IMPORTS, Policy
from safeexec_backends.local import control, launch, library
from safeexec_backends.local.process import LocalGuest, NoRoom, Threaded, ZygoteDied, ZygoteProcess
from safeexec_backends.local.returning import ReturningGuest

_ENDS = "a step that runs out of a limit ends its session: "
_MINIMUM = "seccomp and one of landlock or mount_namespace"
_WEAKER = "Policy(require=()), or --allow-weak on the command line, runs it with fewer walls"


class LocalBackend(Backend):
    """CPython in hardened processes of the host, behind a language wall.

    Raises BackendUnavailable where the walls asked for do not stand, PolicyError for what this sandbox cannot honour.
    """

    name: ClassVar[str] = "local"

    def __init__(
        self,
        policy: Policy,
        *,
        _language: str = "restricted",
        _deny: Iterable[str] = (),
        _portable: bool = False,
    ) -> None:
        if os.name != "posix":
            raise BackendUnavailable(
                "the local sandbox needs Linux (or, with fewer walls, macOS); use another sandbox here"
            )
        self._language = _language
        self._deny = dict.fromkeys(_deny, "switched off")
        self._portable = _portable
        self._policy = policy
        self._lock = threading.Lock()
        self._closed = False
        self._owner = os.getpid()
        self._skip: set[str] = set()
        self._extra = set(library.own_packages(library.third_party(policy)))
        self._zygote: ZygoteProcess | None = None
        self._guests: set[LocalGuest] = set()
        try:
            self._launch()
            self._check(policy)
        except BaseException:
            self.close()
            raise

    @property
    def isolation(self) -> Mapping[str, Wall]:
        """What a cell found standing around itself when this backend started."""
        return MappingProxyType(
            {
                **self._walls,
                "language": self._language_wall(self._policy),
                "rollback": self._rollback_wall(self._policy),
            }
        )

    def start(self, policy: Policy) -> LocalGuest:
        if os.getpid() != self._owner:
            raise BackendUnavailable("an executor does not survive a fork: make one in this process")
        self._check(policy)
        with self._lock:
            if self._closed:
                raise BackendUnavailable("the backend is closed")
            guest = self._start(policy)
            self._guests.add(guest)
        return guest

    def start_once(self, policy: Policy) -> LocalGuest:
        # Whoever asks for rollback by name hears of it where it cannot be.
        return self.start(policy if policy.rollback else policy.replace(rollback="never"))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            guests, zygote = list(self._guests), self._zygote
            self._zygote = None
        for guest in guests:
            guest.close()
        if zygote is not None:
            zygote.close()

    # -- the zygote --------------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        for _ in range(3):
            zygote = ZygoteProcess(
                launch.setup(
                    deny=self._deny,
                    extra=self._extra,
                    language=self._language,
                    skip=self._skip,
                    portable=self._portable,
                )
            )
            if not zygote.retry:
                break
            self._deny |= zygote.retry
            zygote.close()
        self._zygote = zygote
        self._portable = zygote.portable
        self._no_rollback = zygote.rollback
        zygote.expect(self._order(self._policy), [m for m in DEFAULT_IMPORTS if m != "os"])
        self._walls = {name: Wall(not reason, reason) for name, reason in zygote.walls.items()}

    def _start(self, policy: Policy) -> LocalGuest:
        extra = set(library.own_packages(library.third_party(policy)))
        if not extra <= self._extra:
            self._extra |= extra
            self._retire()
        for _ in range(8):
            if self._zygote is None:
                self._launch()
                self._check_walls(policy)
            assert self._zygote is not None
            order = self._order(policy)
            try:
                pid, (stream, status, *pidfd) = self._zygote.spawn(order)
            except ZygoteDied:
                # Killed from outside. Its cells died with it; sessions to come get a new one.
                self._zygote.close()
                self._zygote = None
            except Threaded as error:
                self._skip.add(error.module)
                self._retire()
            except NoRoom:
                raise
            except BaseException:
                self._retire()  # interrupted amid an answer, or without one: what comes next on that socket is not known
                raise
            else:
                sock = socket.socket(fileno=stream)
                cell = (sock, policy, self._zygote, pid, [*pidfd, -1][0], status, self._guests.discard)
                if order["keeps"]:
                    return ReturningGuest(*cell, self._join)
                guest = LocalGuest(*cell)
                guest.cannot_fork = (
                    self._rollback_wall(policy).reason or "Policy.rollback is 'never', so no state of it is kept"
                )
                return guest
        raise BackendUnavailable("the local sandbox's zygote dies as soon as it is started")

    def _join(self, guest: LocalGuest) -> None:
        """A branch is a guest as well."""
        with self._lock:
            if self._closed:
                raise BackendUnavailable("the backend is closed")
            self._guests.add(guest)

    def _retire(self) -> None:
        """Let the zygote end with its last cell; the next session gets a new one."""
        old, self._zygote = self._zygote, None
        if old is not None:
            old.retire()

    # -- what can be honoured ----------------------------------------------------------------------------------------------

    def _check(self, policy: Policy) -> None:
        if policy.packages:
            raise PolicyError("the local sandbox installs nothing: leave Policy.packages empty, or use docker or wasm")
        changed = policy.limits.changed()
        if "disk" in changed and not self._walls["mount_namespace"].active:
            raise PolicyError(
                "Limits.disk cannot be held here without a mount namespace: " + self._walls["mount_namespace"].reason
            )
        if "processes" in changed and not self._walls["user_namespace"].active:
            raise PolicyError(
                "Limits.processes cannot be held here without a user namespace: " + self._walls["user_namespace"].reason
            )
        if "memory" in changed and self._portable:
            raise PolicyError("Limits.memory cannot be held on this system, which does not tell how much a process has")
        rollback = self._rollback_wall(policy)
        if policy.rollback in ("limits", "errors") and not rollback.active:
            raise PolicyError(f"Policy.rollback={policy.rollback!r}: {rollback.reason}; leave it None, or set 'never'")
        self._check_walls(policy)

    def _check_walls(self, policy: Policy) -> None:
        walls = {**self._walls, "language": self._language_wall(policy), "rollback": self._rollback_wall(policy)}
        if policy.require is None or policy.require:
            seccomp, files = walls["seccomp"], (walls["landlock"], walls["mount_namespace"])
            if not seccomp.active:
                raise BackendUnavailable(
                    f"the local sandbox needs {_MINIMUM}; seccomp is missing: {seccomp.reason}. {_WEAKER}"
                )
            if not any(wall.active for wall in files):
                raise BackendUnavailable(
                    f"the local sandbox needs {_MINIMUM}; landlock is missing: {files[0].reason}; "
                    f"mount_namespace is missing: {files[1].reason}. {_WEAKER}"
                )
        for name in policy.require or ():
            if name not in walls:
                raise PolicyError(f"Policy.require: the local sandbox has no wall {name!r}; it has {', '.join(walls)}")
            if not walls[name].active:
                raise BackendUnavailable(f"the wall {name!r} is required and missing: {walls[name].reason}")

    def _rollback_wall(self, policy: Policy) -> Wall:
        if self._no_rollback:
            return Wall(False, _ENDS + self._no_rollback)
        if policy.network:
            return Wall(False, _ENDS + "the threads that carry its network would not be in a copy of its process")
        return Wall(True)

    def _order(self, policy: Policy) -> control.Message:
        limits = policy.limits
        return {
            "op": "cell",
            "imports": list(policy.allowed_imports()),
            "preload": library.third_party(policy),
            "memory": limits.memory,
            "disk": limits.disk,
            # Two threads carry the network between the guest's sockets and its channel.
            "processes": limits.processes + (2 if policy.network else 0),
            "keeps": policy.rollback != "never" and self._rollback_wall(policy).active,
        }

    def _language_wall(self, policy: Policy) -> Wall:
        if self._language == "full":
            return Wall(False, "switched off; the operating system's walls are what holds")
        reviewed = set(DEFAULT_IMPORTS)
        beyond = [p for p in policy.allowed_imports() if p not in reviewed]
        if beyond:
            return Wall(
                False,
                f"{', '.join(beyond[:5])}: imported at your word and not reviewed, so code may leave the language's "
                "limits; the operating system's walls are what holds",
            )
        return Wall(True)
