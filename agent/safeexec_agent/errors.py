"""What an agent raises. What goes wrong in a step is an observation of the model's, not an exception."""

from __future__ import annotations

from safeexec import SafeExecError


class AgentError(SafeExecError):
    """Base of the agent's errors."""


class ModelError(AgentError):
    """The model could not be reached, or what it answered is no answer."""


class NotInstalled(AgentError, ImportError):
    """A library that this needs is not installed; the message says how to install it."""


class AgentInterrupted(AgentError):
    """Somebody called ``interrupt()``; the memory holds what was done until then."""


class AgentBusy(AgentError, RuntimeError):
    """The agent is running a task already; it runs one at a time."""
