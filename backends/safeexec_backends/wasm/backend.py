"""The backend: sessions in worker processes, or in the caller's own."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from safeexec.backend import Backend, Guest, Wall
from safeexec.errors import BackendUnavailable, PolicyError, SnapshotError
from safeexec.policy import Policy

from . import image, launch
from .agreed import KEEP_BYTES, engine
from .image.cache import Damaged, Loaded
from .native import EngineError

if TYPE_CHECKING:
    from .instance import Runtime, WasmGuest
    from .pool import Pool

_runtimes: dict[tuple[object, ...], Runtime] = {}
_runtime_lock = threading.Lock()


def load_image(progress: image.Progress | None, packages: Sequence[str] = (), preimport: bool = True) -> Loaded:
    """The image, with packages if there are any, built if it is not there. Raises BackendUnavailable, PolicyError."""
    report = _announce() if progress is None else progress
    try:
        if not packages:
            return image.ensure(report)
        from .packages import prepare  # pip's ways are not needed otherwise

        return prepare.ensure(packages, preimport=preimport, progress=report)
    except (Damaged, OSError) as error:
        raise BackendUnavailable(
            f"the wasm sandbox cannot start: {error}; its image needs a directory that belongs to you, that only you can write to and that has "
            "200 MB free: SAFEEXEC_CACHE names another one"
        ) from error
    except EngineError as error:
        raise BackendUnavailable(f"the wasm sandbox cannot start: {error}") from error
    except Exception as error:
        if type(error).__module__.startswith("safeexec_backends.wasm.image"):
            raise BackendUnavailable(f"the wasm sandbox cannot start: {error}") from error
        raise


def _announce() -> image.Progress:
    """Says once, by logging, why the first use takes half a minute."""
    said: list[str] = []

    def progress(stage: str, number: int, of: int) -> None:
        if not said:
            import logging  # 2 ms that a start with a ready image does without

            said.append(stage)
            logging.getLogger("safeexec.wasm").warning(
                "building the wasm sandbox's image, once for this user: it takes about half a minute "
                "(safeexec setup wasm does it ahead of time)"
            )

    return progress


def own_runtime(
    progress: image.Progress | None = None, packages: Sequence[str] = (), preimport: bool = True
) -> Runtime:
    """This process's runtime for a set of packages, loaded once. Raises BackendUnavailable, PolicyError."""
    from .instance import Runtime  # and wasmtime with it, which a host of workers does without

    key = (preimport, *sorted(set(packages))) if packages else ()
    with _runtime_lock:
        if key not in _runtimes:
            _runtimes[key] = Runtime(load_image(progress, packages, preimport))
        return _runtimes[key]


def _after_fork() -> None:
    global _runtime_lock
    _runtime_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class WasmBackend(Backend):
    """CPython 3.14 compiled to WebAssembly, frozen after its start, in instances of its own.

    `workers` is the number of worker processes (default: one per core); 0 runs guests in the caller's process and thread, behind WebAssembly
    alone. `isolation="session"` gives every session a worker of its own. `keep_bytes` is how much of the host's memory may hold states of sessions
    that wait, so that they go on in another worker when theirs dies (0: they are lost with it; sessions with a worker of their own always
    are). `progress(stage, number, of)` hears of the image being built.
    `preimport=False` leaves the policy's packages to be imported by each session; otherwise their modules are imported once, when the image is
    made, unless an import draws random numbers or fails. Raises BackendUnavailable, PolicyError.
    """

    name: ClassVar[str] = "wasm"

    def __init__(
        self,
        policy: Policy,
        *,
        workers: int | None = None,
        isolation: str = "shared",
        keep_bytes: int = KEEP_BYTES,
        preimport: bool = True,
        progress: image.Progress | None = None,
    ) -> None:
        if isolation not in ("shared", "session"):
            raise PolicyError(f"isolation must be 'shared' or 'session', not {isolation!r}")
        if workers is not None and (type(workers) is not int or workers < 0):
            raise PolicyError(f"workers must be None or a whole number from 0, not {workers!r}")
        if isolation == "session" and workers == 0:
            raise PolicyError("isolation='session' needs worker processes, and workers=0 has none")
        if type(keep_bytes) is not int or keep_bytes < 0:
            raise PolicyError(f"keep_bytes must be a whole number from 0, not {keep_bytes!r}")
        self._packages = frozenset(policy.packages)
        self._pool: Pool | None = None
        self._guests: weakref.WeakSet[WasmGuest] = weakref.WeakSet()
        self._lost: list[WasmGuest] = []
        self._lock = threading.Lock()
        self.survives_fork = workers == 0
        if workers == 0:
            self._runtime = own_runtime(progress, policy.packages, preimport)
            self._engine = engine(self._runtime.identity)
            walls = {"process": Wall(False, "workers=0: guests run in the caller's process, behind WebAssembly alone")}
        else:
            loaded = load_image(progress, policy.packages, preimport)
            launch.tell_ahead(loaded.compiled.parent)
            from .pool import Pool  # sockets, subprocess: a start in process does without

            self._engine = engine(loaded.facts["identity"])
            alone = isolation == "session"
            self._pool = Pool(loaded, workers or os.cpu_count() or 1, alone, 0 if alone else keep_bytes)
            walls = dict(self._pool.walls)
            shared = "sessions share workers; isolation='session' gives each its own"
            walls["process"] = Wall(isolation == "session", "" if isolation == "session" else shared)
        self._walls = MappingProxyType({"wasm": Wall(True), **walls, "rollback": Wall(True)})
        try:
            self._check(policy)
        except BaseException:
            self.close()
            raise

    def _check(self, policy: Policy) -> None:
        if not self._packages.issuperset(policy.packages):
            have = ", ".join(sorted(self._packages)) or "none"
            raise PolicyError(
                f"packages are part of the executor's image: make an Executor for {', '.join(policy.packages) or 'no packages'} "
                f"(this one has {have})"
            )
        walls = self._walls
        for name in policy.require or ():
            if name not in walls:
                raise PolicyError(f"Policy.require: the wasm sandbox has no wall {name!r}; it has {', '.join(walls)}")
            if not walls[name].active:
                raise BackendUnavailable(f"the wall {name!r} is required and missing: {walls[name].reason}")
        if self._pool is not None and policy.require is None and not walls["seccomp"].active:
            raise BackendUnavailable(
                f"the wasm sandbox's workers need seccomp, which is missing: {walls['seccomp'].reason}. "
                "Policy(require=()) runs them without"
            )

    def start(self, policy: Policy) -> Guest:
        self._check(policy)
        if self._pool is not None:
            return self._pool.start(policy)
        return self._start(policy, None)

    def start_once(self, policy: Policy) -> Guest:
        self._check(policy)
        if self._pool is not None:
            return self._pool.start(policy, once=True)
        return self._start(policy, None)

    def restore(self, engine: str, state: bytes, policy: Policy) -> Guest:
        """See `safeexec.backend.SupportsRestore`."""
        self._check(policy)
        if engine != self._engine:
            raise SnapshotError("the snapshot was made by another version of the wasm sandbox")
        if self._pool is not None:
            return self._pool.start(policy, state)
        return self._start(policy, state)

    def _start(self, policy: Policy, written: bytes | None) -> Guest:
        from .instance import WasmGuest

        try:
            guest = WasmGuest(self._runtime, policy, written=written)
        except EngineError as error:
            raise BackendUnavailable(f"no room for another sandbox: {error}") from error
        return self._own(guest)

    def _own(self, guest: WasmGuest) -> WasmGuest:
        guest.on_fork = self._own
        with self._lock:
            self._guests.add(guest)
        return guest

    @property
    def isolation(self) -> Mapping[str, Wall]:
        return self._walls

    def disown(self) -> None:
        self._lock = threading.Lock()
        if self._pool is None:
            # Kept, not freed: they were left in the middle of something, and whoever closes one waits for it to end.
            lost = [guest for guest in self._guests if guest.runs_elsewhere()]
            self._lost += lost
            self._guests.difference_update(lost)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        with self._lock:
            guests = list(self._guests)
        for guest in guests:
            guest.close()
