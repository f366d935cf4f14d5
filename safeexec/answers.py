"""What a guest answers, read by a host that does not trust it."""

from __future__ import annotations

from typing import Any

from safeexec import wire
from safeexec.errors import LimitExceeded, ProtocolError
from safeexec.result import ERROR_KINDS, FileInfo, GuestError
from safeexec.step import text_field
from safeexec.text import neutralise


def guest_error(data: Any) -> GuestError | None:
    """The error of a step, if it had one. Raises ProtocolError."""
    if data is None:
        return None
    if type(data) is not dict or data.get("kind") not in ERROR_KINDS:
        raise ProtocolError("a malformed error")
    line = data.get("line")
    if line is not None and (type(line) is not int or not 0 <= line < 2**31):
        raise ProtocolError("a malformed line number")
    return GuestError(
        data["kind"], text_field(data, "type", 400), text_field(data, "message"), text_field(data, "traceback"), line
    )


def own_failure(answer: wire.Header) -> GuestError | None:
    """The guest program itself failed at the step, over an exception that cannot even be described, say: that is no success."""
    fail = answer.get("fail")
    if fail is None:
        return None
    if type(fail) is not dict:
        raise ProtocolError("a malformed failure")
    return GuestError("exception", text_field(fail, "type", 400), text_field(fail, "message"))


def file_list(data: Any) -> tuple[FileInfo, ...]:
    """The files that a step wrote. Raises ProtocolError."""
    if type(data) is not list or len(data) > 10_000:
        raise ProtocolError("a malformed list of files")
    files = []
    for item in data:
        if type(item) is not list or len(item) != 2 or type(item[0]) is not str or type(item[1]) is not int:
            raise ProtocolError("a malformed list of files")
        files.append(FileInfo(item[0][:4096], max(0, item[1])))
    return tuple(files)


def raise_failure(fail: Any) -> None:
    """The host's exception for a request that the guest refused; ProtocolError for what is none of those it may refuse with."""
    if type(fail) is not dict:
        raise ProtocolError("a malformed failure")
    # Made harmless for a terminal, where Python writes what nobody catches.
    kind, message = (neutralise(text_field(fail, name, most)) for name, most in (("type", 200), ("message", 5000)))
    if kind == "KeyError":
        raise KeyError(message.strip("'"))
    if kind == "TooLarge":
        raise LimitExceeded(f"{message} (Limits.value)")
    for known in (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
        if kind == known.__name__:
            raise known(message)
    if kind == "OSError":
        raise OSError(message)
    raise ProtocolError(f"the guest refused a request: {kind}: {message}")
