"""The processes of local's cells, seen from outside."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from safeexec import Session
from safeexec.testing.base import eventually
from safeexec_backends.local.returning import ReturningGuest


def ended(pidfd: int, timeout: float = 10.0) -> bool:
    return bool(select.select([pidfd], [], [], timeout)[0])


def children(pid: int) -> set[int]:
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.add(int(entry))
    return found


def guest_of(session: Session) -> ReturningGuest:
    guest = session._guest
    assert isinstance(guest, ReturningGuest)
    return guest


def family(session: Session) -> dict[int, tuple[int, str]]:
    """The processes of a cell: their ids inside to their ids outside and states."""
    first = guest_of(session).pid
    found = {}
    for entry in os.listdir("/proc"):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            inside = Path(f"/proc/{entry}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()
        except (OSError, ValueError):
            continue
        if entry.isdigit() and (int(entry) == first or fields[1] == str(first)):
            found[int(inside[-1])] = (int(entry), fields[0])
    return found


def settled(session: Session) -> dict[int, tuple[int, str]]:
    """Those of `family`, once the checkpoint was taken and the one before is gone."""
    guest_of(session)._await_checkpoint()
    assert eventually(lambda: len(family(session)) <= 3)
    return family(session)


def end_keeper(session: Session) -> None:
    """Kill the process that watches, and with it all others."""
    pidfd = os.pidfd_open(guest_of(session).pid)
    os.kill(guest_of(session).pid, signal.SIGKILL)
    assert ended(pidfd)
    os.close(pidfd)
