"""What the sessions of a cell go back to, in the process that watches over them."""

from __future__ import annotations

import os
import signal

from safeexec_backends._hardening.kept_files import KeptFiles
from safeexec_backends.local import keeping

HERE = -1
"""The keeper itself, as a state: what the session was before its first step."""


class State:
    """What a session goes back to. Branches that have not gone on since share it with the session that they come from."""

    def __init__(self, pid: int, files: KeptFiles) -> None:
        self.pid = pid
        """The stopped copy; 0 when there is none."""
        self.files = files


class States:
    """The states of all sessions, by the numbers that the host has given them."""

    def __init__(self, first: State) -> None:
        self._all = {0: first}
        self.active = 0
        """The session that the runner is, or was last."""

    def mine(self) -> State:
        """The active session's."""
        return self._all[self.active]

    def get(self, session: int) -> State | None:
        return self._all.get(session)

    def of(self, pid: int) -> State | None:
        """The one that this process is."""
        return next((state for state in self._all.values() if state.pid == pid), None)

    def pids(self) -> set[int]:
        """Of all stopped copies."""
        return {state.pid for state in self._all.values() if state.pid > 0}

    def full(self) -> bool:
        return len(self._all) >= keeping.BRANCHES

    def processes(self) -> int:
        """How many there are beside those of the active session."""
        mine = self._all.get(self.active)
        return sum(state.pid > 0 for state in set(self._all.values()) if state is not mine)

    def fork(self, session: int, new: int) -> bool:
        """Give a new session the state of another one; whether that has one."""
        state = self._all.get(session)
        # Not the watching process itself: it keeps files of more sessions than one from here on, and what was made of it later would have them all.
        if state is None or state.pid <= 0:
            return False
        self._all[new] = state
        return True

    def release(self, session: int) -> None:
        """A session has ended."""
        state = self._all.pop(session, None)
        if state is not None and state.pid > 0 and state not in self._all.values():
            end(state.pid)

    def drop(self) -> None:
        """The active session has no way back; what branches share with it stays theirs."""
        state = self._all.get(self.active)
        self.release(self.active)
        if state is not None:
            self._all[self.active] = State(0, state.files.twin())

    def own(self, woken: bool) -> State:
        """What the next copy of the runner is kept in: a state of its own, unless all that share it are to have the new copy of what was `woken`."""
        state = self._all[self.active]
        if not woken and any(other is state for number, other in self._all.items() if number != self.active):
            state = self._all[self.active] = State(0, state.files.twin())
        return state


def end(pid: int, wait: bool = True) -> None:
    """End a child, which somebody else waits for unless `wait`. By a descriptor: sending signals by number is what this process is asked about."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return  # it is gone
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if wait:
            os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    finally:
        os.close(pidfd)
