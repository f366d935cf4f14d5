"""What a step leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safeexec.errors import ExecutionError

ERROR_KINDS = ("exception", "exit", "time", "memory", "output", "policy", "crash", "protocol")
MOST_FILES = 2_000
"""So many files are looked at after a step; ``session.files`` knows all."""


@dataclass(frozen=True)
class GuestError:
    """Why a step failed. All text is the guest's and has not been neutralised; ``safeexec.text`` does that."""

    kind: str
    """One of ``ERROR_KINDS``."""
    type: str
    """Name of the exception's class."""
    message: str
    traceback: str = ""
    """As Python prints it, with the user's frames only."""
    line: int | None = None
    """Line of the step in which it happened, from 1."""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True)
class Display:
    """One rich display: MIME type to data; ``bytes`` for pictures, ``str`` for text. Hostile: show HTML and SVG in a sandboxed iframe only."""

    data: Mapping[str, str | bytes]

    def __getitem__(self, mime: str) -> str | bytes:
        return self.data[mime]

    def __contains__(self, mime: object) -> bool:
        return mime in self.data


@dataclass(frozen=True)
class Usage:
    """What a step cost. `cpu_time` and `peak_memory` are the guest's own report where the sandbox has nothing better."""

    duration: float = 0.0
    """Seconds from request to answer, tools included."""
    cpu_time: float = 0.0
    """Seconds of processor time."""
    peak_memory: int = 0
    """Bytes, the session's high-water mark."""
    tool_calls: int = 0


@dataclass(frozen=True)
class ToolCall:
    """A call of a host tool that was really made. No rollback undoes it."""

    tool: str
    arguments: Mapping[str, Any]
    error: str | None = None
    """``Type: message`` when it failed."""
    duration: float = 0.0


@dataclass(frozen=True)
class NetworkRequest:
    """A request for the network that the host made for the guest, or refused. The texts are the guest's and have not been neutralised."""

    method: str
    """As the guest wrote it; "CONNECT" for a connection without requests, and for one whose inside the host does not see."""
    url: str
    """The address asked for, or host and port of a connection."""
    host: str
    port: int
    status: int | None = None
    """Of the server's answer; None when there was none, or the host does not see it."""
    sent: int = 0
    """Bytes to the server."""
    received: int = 0
    """Bytes from it."""
    refused: bool = False
    """The policy or a limit did not let it through, or cut it off."""
    error: str | None = None
    """Why it was refused or failed."""
    duration: float = 0.0


@dataclass(frozen=True)
class FileInfo:
    """A file in the working directory."""

    name: str
    size: int


@dataclass(frozen=True)
class Result:
    """The outcome of one step."""

    value: Any = None
    """Value of the last expression, as plain data."""
    stdout: str = ""
    stderr: str = ""
    error: GuestError | None = None
    displays: tuple[Display, ...] = ()
    files: tuple[FileInfo, ...] = ()
    """Files the step made or changed, as far as they are among the first 2,000 of the working directory; read them through ``session.files``."""
    usage: Usage = field(default_factory=Usage)
    tool_calls: tuple[ToolCall, ...] = ()
    network: tuple[NetworkRequest, ...] = ()
    """Every request for the network, refused ones included, in the order in which they began."""
    truncated: bool = False
    """Output, displays or the value were cut at a limit."""
    rolled_back: bool = False
    """The session is as it was before the step."""
    ended: bool = False
    """A tool ended the step (EndStep)."""

    @property
    def ok(self) -> bool:
        """Whether the step ended without an error."""
        return self.error is None

    def raise_for_error(self) -> Result:
        """Return the result itself, or raise ExecutionError when the step failed."""
        if self.error is not None:
            raise ExecutionError(self.error)
        return self
