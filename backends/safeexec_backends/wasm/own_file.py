"""What the kernel tells a process of itself."""

from __future__ import annotations

import os
import sys


class OwnFile:
    """A file of /proc/self. It shows the process that opened it, so a child of a fork opens one of its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._owner = 0
        self.descriptor = -1

    def ready(self) -> bool:
        """Whether this kernel has it, and it is open."""
        if self._owner != os.getpid():
            self.adopt(-1)
            if sys.platform == "linux":
                try:
                    self.adopt(os.open(f"/proc/self/{self._name}", os.O_RDONLY | os.O_CLOEXEC))
                except OSError:
                    pass
        return self.descriptor >= 0

    def adopt(self, descriptor: int) -> None:
        """Use one of this process that was opened before its walls went up."""
        self._owner, self.descriptor = os.getpid(), descriptor
