"""What backends at a vendor share: which fields they honour, starting, ending."""

from __future__ import annotations

import atexit
import importlib.util
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from safeexec.backend import Backend, Guest, GuestDied, Wall
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.policy import Policy
from safeexec.wire import MAX_HEADER
from safeexec_backends._remote.faults import Fault
from safeexec_backends._remote.guest import RemoteGuest, Transport, destroy


class RemoteBackend(Backend):
    """A backend whose guests run in sandboxes of a vendor. Subclasses open transports and say what holds."""

    vendor: ClassVar[str]

    def __init__(self, policy: Policy, start_timeout: float) -> None:
        self._start_timeout = start_timeout
        self._guests: set[Guest] = set()
        self._closed = False
        self.check(policy)
        # A process that ends without close() must not leave sandboxes that cost money. The hook holds the guests, not this backend.
        self._at_exit = partial(_end_all, self._guests)
        weakref.finalize(self, atexit.unregister, self._at_exit).atexit = False

    @abstractmethod
    def open(self, policy: Policy) -> Transport:
        """A sandbox with the relay started in it. Raises Fault, BackendUnavailable; leaves nothing behind then."""

    def check(self, policy: Policy) -> None:
        """Refuse what cannot be honoured. Raises PolicyError."""
        changed = policy.limits.changed()
        for name in ("disk", "processes"):
            if name in changed:
                raise PolicyError(
                    f"Limits.{name} cannot be set in the {self.name} sandbox: {self.isolation[name].reason}"
                )
        if policy.network and getattr(self, "_internet", False):
            raise PolicyError(
                "Policy.network names the hosts that may be reached, and internet=True opens the sandbox to all: choose one"
            )
        if policy.rollback in ("limits", "errors"):
            raise PolicyError(
                f"the {self.name} sandbox cannot undo a failed step: leave Policy.rollback None, or 'never'"
            )
        for wall in policy.require or ():
            if wall not in self.isolation:
                raise PolicyError(f"Policy.require: there is no wall {wall!r} in the {self.name} sandbox")
            if not self.isolation[wall].active:
                raise PolicyError(f"Policy.require: {wall} does not stand: {self.isolation[wall].reason}")

    def start(self, policy: Policy) -> Guest:
        self.check(policy)
        if self._closed:
            raise BackendUnavailable(f"the {self.name} sandbox is closed")
        try:
            transport = self.open(policy)
        except Fault as error:
            raise BackendUnavailable(f"{self.vendor} did not start a sandbox: {error}") from None
        try:
            guest = RemoteGuest(transport, policy.limits.value + MAX_HEADER, self._guests.discard)
        except BaseException:
            # There is no thread to be had: a sandbox that nobody has would be paid for until it expires.
            destroy(transport)
            raise
        self.keep(guest)
        try:
            guest.wait_ready(self._start_timeout)
        except GuestDied as death:
            guest.close()
            raise BackendUnavailable(f"the {self.name} sandbox started, but {death.message}") from None
        except BaseException:
            guest.close()
            raise
        return guest

    def keep(self, guest: Guest) -> None:
        """Take a new guest into account; it takes itself out when it is closed."""
        self._guests.add(guest)
        # Anew for each: hooks run last in, first out, and the SDK's own, which end its connections, come while it is used.
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)

    def disown(self) -> None:
        # The hook holds the set, and would end the parent's sandboxes when this process ends.
        self._guests.clear()
        atexit.unregister(self._at_exit)

    def close(self) -> None:
        self._closed = True
        atexit.unregister(self._at_exit)
        _end_all(self._guests)


def need_sdk(module: str, extra: str) -> None:
    """Raise BackendUnavailable unless the vendor's SDK is installed. Does not import it: that takes a second."""
    if importlib.util.find_spec(module) is None:
        raise BackendUnavailable(f"the {extra} sandbox needs its vendor's SDK: pip install 'safeexec[{extra}]'")


def _end_all(guests: set[Guest]) -> None:
    ending = list(guests)
    for guest in ending:
        guest.kill()
    for guest in ending:
        guest.close()


def common_walls(machine: str) -> Mapping[str, Wall]:
    """The walls that are the same at every vendor; `machine` says what runs the code."""
    return {
        "machine": Wall(True, f"{machine}: the vendor's statement, which cannot be verified from here"),
        "memory": Wall(True, "of each process, set inside the sandbox; for all together what the vendor's machine has"),
        "disk": Wall(False, "the vendor fixes the size of the disk"),
        "processes": Wall(False, "the vendor's machine bounds them"),
        "imports": Wall(False, "a rule for the program, kept inside the sandbox; the machine is the wall"),
        "rollback": Wall(False, "the vendor cannot take a step back: one that runs out of a limit ends its session"),
    }
