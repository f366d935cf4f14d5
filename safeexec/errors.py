"""Everything safeexec raises on the host. What goes wrong inside a sandbox is a result, not an exception."""

from __future__ import annotations


class SafeExecError(Exception):
    """Base of all errors raised by safeexec."""


class BackendUnavailable(SafeExecError):
    """A sandbox cannot run here; the message says what to install, start or permit."""


class PolicyError(SafeExecError, ValueError):
    """A policy is malformed, or asks for something the sandbox cannot honour."""


class ProtocolError(SafeExecError):
    """A guest sent something that is not the protocol. Its session is over."""


class SessionClosed(SafeExecError):
    """The session has ended: closed by its owner, or lost with its guest. The message says which."""


class SessionBusy(SafeExecError, RuntimeError):
    """The session is running a step already; it runs one at a time."""


class LimitExceeded(SafeExecError):
    """A value or file is larger than the policy's limit."""


class StepTimeout(LimitExceeded, TimeoutError):
    """A step or a request ran past its time limit."""


class ToolError(SafeExecError):
    """A tool is malformed, or the guest called it in a way it does not accept."""


class EndStep(SafeExecError):
    """For a tool to raise: the step is over, successfully, and ``Result.ended`` says so.

    The host has what the tool was called with and takes no further call of this step; nothing that code in the sandbox catches or raises afterwards
    changes that. The guest unwinds; where it goes on instead it is interrupted, and ended if that does not help.
    """


class NotSupported(SafeExecError, NotImplementedError):
    """This sandbox lacks the capability."""


class SnapshotError(SafeExecError, ValueError):
    """A snapshot is damaged, forged, of another version or engine, or does not fit the policy. Nothing of it was loaded."""


class ExecutionError(SafeExecError):
    """What :meth:`Result.raise_for_error` raises: the guest's failure as an exception of the host. `error` is the GuestError.

    The message is made harmless for a terminal: that is where Python writes what nobody catches.
    """

    def __init__(self, error: object) -> None:
        from safeexec.text import neutralise

        super().__init__(neutralise(str(error)))
        self.error = error
