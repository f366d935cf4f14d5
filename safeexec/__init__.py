"""Run Python that nobody trusts, and get back its value, output, errors, plots and files.

>>> import safeexec
>>> safeexec.run("print('hi'); 40 + 2", sandbox="local").value
42
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; importing `typing` for it costs a start-up 3 ms
if TYPE_CHECKING:
    from typing import Any

    from safeexec.aio import AsyncExecutor, AsyncSession
    from safeexec.errors import (
        BackendUnavailable,
        EndStep,
        ExecutionError,
        LimitExceeded,
        NotSupported,
        PolicyError,
        ProtocolError,
        SafeExecError,
        SessionBusy,
        SessionClosed,
        SnapshotError,
        StepTimeout,
        ToolError,
    )
    from safeexec.executor import Executor
    from safeexec.names import UnsafeName
    from safeexec.policy import DEFAULT_IMPORTS, Limits, Policy
    from safeexec.result import Display, FileInfo, GuestError, NetworkRequest, Result, ToolCall, Usage
    from safeexec.session import Session
    from safeexec.shared import run
    from safeexec.snapshot import Snapshot
    from safeexec.step import Output
    from safeexec.wire import Array, Image, Opaque, Table

__version__ = "0.1.0.dev0"

__all__ = [
    "DEFAULT_IMPORTS",
    "Array",
    "AsyncExecutor",
    "AsyncSession",
    "BackendUnavailable",
    "Display",
    "EndStep",
    "ExecutionError",
    "Executor",
    "FileInfo",
    "GuestError",
    "Image",
    "LimitExceeded",
    "Limits",
    "NetworkRequest",
    "NotSupported",
    "Opaque",
    "Output",
    "Policy",
    "PolicyError",
    "ProtocolError",
    "Result",
    "SafeExecError",
    "Session",
    "SessionBusy",
    "SessionClosed",
    "Snapshot",
    "SnapshotError",
    "StepTimeout",
    "Table",
    "ToolCall",
    "ToolError",
    "UnsafeName",
    "Usage",
    "run",
]


_HOME = {
    "Array": "wire",
    "AsyncExecutor": "aio",
    "AsyncSession": "aio",
    "BackendUnavailable": "errors",
    "DEFAULT_IMPORTS": "policy",
    "Display": "result",
    "EndStep": "errors",
    "ExecutionError": "errors",
    "Executor": "executor",
    "FileInfo": "result",
    "GuestError": "result",
    "Image": "wire",
    "LimitExceeded": "errors",
    "Limits": "policy",
    "NetworkRequest": "result",
    "NotSupported": "errors",
    "Opaque": "wire",
    "Output": "step",
    "Policy": "policy",
    "PolicyError": "errors",
    "ProtocolError": "errors",
    "Result": "result",
    "SafeExecError": "errors",
    "Session": "session",
    "SessionBusy": "errors",
    "SessionClosed": "errors",
    "Snapshot": "snapshot",
    "SnapshotError": "errors",
    "StepTimeout": "errors",
    "Table": "wire",
    "ToolCall": "result",
    "ToolError": "errors",
    "UnsafeName": "names",
    "Usage": "result",
    "run": "shared",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: a sandbox's processes import safeexec.guest alone, and should not pay for the host's half of the package.
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'safeexec' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"safeexec.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
