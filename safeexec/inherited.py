"""What a forked child has of its parent's sessions: nothing that it could use, or end.

Both processes have the descriptors. Whoever shuts a connection in one, asks a daemon to remove a container or a vendor to end a sandbox, does it to the
other; and of two that write to one guest neither gets its answers. So in the child all that there was is closed, without a word to any guest.
"""

from __future__ import annotations

from safeexec.backend import Guest, GuestDied, OnFrame
from safeexec.wire import Frame

WHY = "an executor does not survive a fork: make one in this process"


class Inherited(Guest):
    """Stands in the place of a guest of the parent's, and keeps it: one that is forgotten might end what is not the child's."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def exchange(self, frame: Frame, on_frame: OnFrame) -> None:
        """See the base class."""
        raise GuestDied("crash", WHY)

    def send(self, frame: Frame) -> None:
        """See the base class."""
        raise GuestDied("crash", WHY)

    def interrupt(self) -> None:
        """See the base class."""

    def kill(self) -> None:
        """See the base class."""

    def close(self) -> None:
        """See the base class."""
