"""One call of a tool under way, and whose turn it is."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from safeexec.tools import HostTool


class Call:
    """One call under way."""

    __slots__ = (
        "arguments", "cancel", "context", "deadline", "named", "number", "positional", "running", "settled", "size", "started", "tool",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        tool: HostTool,
        positional: list[Any],
        named: dict[str, Any],
        arguments: Mapping[str, Any],
        size: int,
    ) -> None:
        self.number = number
        self.tool = tool
        self.positional = positional
        self.named = named
        self.arguments = arguments
        """All by name, for the log."""
        self.size = size
        self.context = contextvars.copy_context()
        self.started = 0.0
        self.deadline = float("inf")
        self.running = self.settled = False
        self.cancel: Callable[[], object] | None = None


class Turns:
    """So many calls at once; those beyond wait for their turn, first come, first served. For whoever holds the broker's lock."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[Call] = deque()

    def take(self, call: Call) -> bool:
        """Whether it is its turn already."""
        if self._free:
            self._free -= 1
            return True
        self._waiting.append(call)
        return False

    def over(self) -> Call | None:
        """One whose turn it was is over: whose turn it is now."""
        if self._waiting:
            return self._waiting.popleft()
        self._free += 1
        return None

    def nobody(self) -> None:
        """Those that wait wait in vain."""
        self._waiting.clear()
