"""The backend: instances in this process (`workers=0`)."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

from safeexec.backend import Backend, Guest, Wall
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.policy import Policy

from . import abi, image
from .image.cache import Damaged
from .instance import Runtime, WasmGuest

_runtimes: dict[str, Runtime] = {}
_runtimes_lock = threading.Lock()


def runtime(progress: image.Progress | None = None) -> Runtime:
    """This process's runtime; builds the image if it is not there yet. Raises BackendUnavailable."""
    with _runtimes_lock:
        found = _runtimes.get("")
        if found is None:
            try:
                found = _runtimes[""] = Runtime(image.ensure(progress))
            except (abi.EngineError, Damaged, OSError) as error:
                raise BackendUnavailable(f"the wasm sandbox cannot start: {error}") from error
            except Exception as error:
                if type(error).__module__.startswith("safeexec_backends.wasm.image"):
                    raise BackendUnavailable(f"the wasm sandbox cannot start: {error}") from error
                raise
        return found


class WasmBackend(Backend):
    """CPython 3.14 compiled to WebAssembly, frozen after its start, in instances of its own.

    `workers` is the number of worker processes; 0 runs guests in the caller's process and thread.
    """

    name: ClassVar[str] = "wasm"

    def __init__(self, policy: Policy, *, workers: int = 0, progress: Any = None) -> None:
        self._check(policy)
        if workers:
            raise PolicyError("worker processes are not there yet: workers=0")
        self._runtime = runtime(progress)
        self._guests: weakref.WeakSet[WasmGuest] = weakref.WeakSet()
        self._lock = threading.Lock()

    def _check(self, policy: Policy) -> None:
        for field in ("packages", "network"):
            if getattr(policy, field):
                raise PolicyError(f"the wasm sandbox does not support Policy.{field} yet")
        if policy.rollback not in (None, "never"):
            raise PolicyError("the wasm sandbox does not support Policy.rollback yet")
        walls = self.isolation
        for name in policy.require or ():
            if name not in walls:
                raise PolicyError(f"require: there is no wall {name!r}; there are {', '.join(walls)}")
            if not walls[name].active:
                raise PolicyError(f"require: the wall {name!r} does not stand: {walls[name].reason}")

    def start(self, policy: Policy) -> Guest:
        self._check(policy)
        try:
            guest = WasmGuest(self._runtime, policy)
        except abi.EngineError as error:
            raise BackendUnavailable(f"no room for another sandbox: {error}") from error
        with self._lock:
            self._guests.add(guest)
        return guest

    @property
    def isolation(self) -> Mapping[str, Wall]:
        return {
            "wasm": Wall(True),
            "process": Wall(False, "workers=0: guests run in the caller's process, behind WebAssembly alone"),
        }

    def close(self) -> None:
        with self._lock:
            guests = list(self._guests)
        for guest in guests:
            guest.close()
