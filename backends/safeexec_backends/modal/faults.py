"""Modal's exceptions in our words."""

from __future__ import annotations

from grpclib.exceptions import GRPCError, StreamTerminatedError
from modal import exception

from safeexec_backends._remote.faults import Fault, Gone, Passing, Secret, raising


def translate(error: Exception, key: Secret) -> Fault:
    """The fault that an exception of the SDK stands for."""
    text = key.hide(str(error))[:500] or type(error).__name__
    if isinstance(error, exception.AuthError | exception.PermissionDeniedError):
        return Fault(f"Modal refused the token; check MODAL_TOKEN_ID and MODAL_TOKEN_SECRET ({text})")
    if isinstance(
        error,
        exception.NotFoundError
        | exception.ClientClosed
        | exception.SandboxTerminatedError
        | exception.SandboxTimeoutError
        | exception.ConflictError,
    ):
        return Gone(f"it expired or was ended ({text})")
    if isinstance(error, exception.ResourceExhaustedError | exception.ServiceError | exception.InternalError):
        return Passing(text)
    # exception.ConnectionError and TimeoutError are not the built-in ones.
    if isinstance(error, exception.ConnectionError | exception.TimeoutError | StreamTerminatedError | OSError):
        return Passing(text)
    if isinstance(error, GRPCError):
        return Passing(f"{type(error).__name__}: {text}")
    return Fault(f"{type(error).__name__}: {text}")


translated = raising(translate)
