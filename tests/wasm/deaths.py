"""What tests of dying workers share: whose worker is whose, what is kept, and how one dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from safeexec import Executor, Limits, Policy, Session
from safeexec.testing.base import eventually
from safeexec_backends.wasm.kept import Keeper
from safeexec_backends.wasm.worker_guest import WorkerGuest

PATIENT = Policy(limits=Limits(time=30))


def guest_of(session: Session) -> WorkerGuest:
    guest = session._guest
    assert isinstance(guest, WorkerGuest)
    return guest


def keeper_of(session: Session) -> Keeper:
    keeper = guest_of(session).keeper
    assert keeper is not None
    return keeper


def is_kept(session: Session) -> bool:
    """Whether the session's state is kept, waiting a little for it."""
    guest = guest_of(session)
    return eventually(lambda: guest._untouched or keeper_of(session).get(guest) is not None, 20)


def worker_of(session: Session) -> int:
    return guest_of(session).worker.pid


def kill_worker(session: Session) -> None:
    """And see it gone."""
    pid = worker_of(session)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists(), 10)


def pool_of(executor: Executor) -> Any:
    return executor._backend._pool  # type: ignore[attr-defined]


def keeper_of_pool(executor: Executor) -> Keeper:
    keeper = pool_of(executor).keeper
    assert isinstance(keeper, Keeper)
    return keeper
