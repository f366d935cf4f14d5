"""E2B's exceptions in our words."""

from __future__ import annotations

import e2b
import httpx
from connectrpc.errors import ConnectError
from e2b.exceptions import SandboxNotFoundException, ServiceBusyException

from safeexec_backends._remote.faults import Fault, Gone, Passing, Secret, raising


def translate(error: Exception, key: Secret) -> Fault:
    """The fault that an exception of the SDK stands for."""
    text = key.hide(str(error))[:500] or type(error).__name__
    if isinstance(error, e2b.AuthenticationException):
        return Fault(f"E2B refused the key; check E2B_API_KEY or api_key= ({text})")
    if isinstance(error, e2b.exceptions.SandboxNotRunningException | SandboxNotFoundException | e2b.NotFoundException):
        return Gone(f"it expired or was ended ({text})")
    # TimeoutException is also what a lost connection and an unreachable sandbox arrive as.
    if isinstance(error, e2b.RateLimitException | ServiceBusyException | e2b.TimeoutException):
        return Passing(text)
    if isinstance(error, ConnectError | httpx.TransportError | OSError):
        return Passing(text)
    status = getattr(error, "status_code", None)
    # The SDK gives envd's errors no status, only their code in the text.
    if (isinstance(status, int) and status >= 500) or text.startswith(("Code.INTERNAL", "Code.UNKNOWN", "5")):
        return Passing(text)
    return Fault(f"{type(error).__name__}: {text}")


translated = raising(translate)
