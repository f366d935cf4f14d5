"""The first request of a session, which is sent only if there is something to say.

The image is frozen with a session already begun: default limits, no environment of its own, no tools. What another session has beyond that travels with
the request that comes next.
"""

from __future__ import annotations

from typing import Any, Final

from safeexec import wire
from safeexec.policy import Limits, Policy

_DEFAULTS: Final = {"output": Limits().output, "value": Limits().value}


class First:
    """Holds what the guest has yet to be told."""

    def __init__(self, policy: Policy) -> None:
        imports = policy.imports
        self._imports = None if imports is None or "*" in imports else list(imports)
        self.held: dict[str, Any] | None = None
        """What goes with the next request; part of the session's state as much as its memory is."""

    def answers(self, header: wire.Header) -> wire.Header | None:
        """The answer to a first request that need not be sent now; None for any other request.

        One with an environment is sent: the guest may refuse it, and whoever makes the session must hear of that; so is one with a network,
        whose code travels with it.
        """
        if header.get("t") != "init" or header.get("env") or header.get("network"):
            return None
        more: dict[str, Any] = {}
        if header.get("limits") != _DEFAULTS:
            more["limits"] = header.get("limits", {})
        if header.get("tools"):
            more["tools"] = header["tools"]
        if self._imports is not None:
            more["imports"] = self._imports
        self.held = more or None
        return {"t": "done", "id": header["id"]}

    def completes(self, header: wire.Header) -> wire.Header:
        """The request that is to be sent, with what was held back."""
        if self.held is not None:
            header = {**header, "init": self.held}
            self.held = None
        elif self._imports is not None and header.get("t") == "init":
            header = {**header, "imports": self._imports}
        return header
