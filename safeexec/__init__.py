"""Run Python that nobody trusts, and get back its value, output, errors, plots and files.

>>> import safeexec
>>> safeexec.run("print('hi'); 40 + 2", sandbox="local").value
42
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeexec.errors import (
    BackendUnavailable,
    ExecutionError,
    LimitExceeded,
    NotSupported,
    PolicyError,
    ProtocolError,
    SafeExecError,
    SessionBusy,
    SessionClosed,
    StepTimeout,
    ToolError,
)
from safeexec.executor import Executor, run
from safeexec.names import UnsafeName
from safeexec.policy import DEFAULT_IMPORTS, Limits, Policy
from safeexec.result import Display, FileInfo, GuestError, Result, ToolCall, Usage
from safeexec.session import Session
from safeexec.step import Output
from safeexec.wire import Array, Image, Opaque, Table

if TYPE_CHECKING:
    from safeexec.aio import AsyncExecutor, AsyncSession

__version__ = "0.1.0.dev0"

__all__ = [
    "DEFAULT_IMPORTS",
    "Array",
    "AsyncExecutor",
    "AsyncSession",
    "BackendUnavailable",
    "Display",
    "ExecutionError",
    "Executor",
    "FileInfo",
    "GuestError",
    "Image",
    "LimitExceeded",
    "Limits",
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
    "StepTimeout",
    "Table",
    "ToolCall",
    "ToolError",
    "UnsafeName",
    "Usage",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in ("AsyncExecutor", "AsyncSession"):  # asyncio costs 30 ms that synchronous users need not spend
        from safeexec import aio

        return getattr(aio, name)
    raise AttributeError(f"module 'safeexec' has no attribute {name!r}")
