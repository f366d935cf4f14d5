"""The result of a step in the form in which a framework shows it: text for its model, pictures, values for the libraries of its host."""

from __future__ import annotations

from typing import Any, NamedTuple

from safeexec.aio import AsyncSession
from safeexec.cli.values import shown
from safeexec.integrations._attachments import Attachment, pictures
from safeexec.result import Result
from safeexec.session import Session
from safeexec.text import neutralise, neutralise_line
from safeexec.wire import Array, Image, Table

_MAX_VALUE = 20_000


class Shown(NamedTuple):
    """A step as a model is to see it: `text` is all of it, made harmless for a terminal."""

    result: Result
    text: str
    pictures: list[Attachment]

    @classmethod
    def of(cls, result: Result, session: Session | AsyncSession) -> Shown:
        """The step of `session` that had this result."""
        return cls(result, observation(result, session), pictures(result))


def observation(result: Result, session: Session | AsyncSession) -> str:
    """Output, value, error with its lines, and the names of files."""
    parts = []
    for name, text in (("", result.stdout), ("stderr: ", result.stderr)):
        if text:
            parts.append(name + neutralise(text).rstrip("\n"))
    if result.truncated:
        parts.append("(the output was cut at its limit)")
    if result.value is not None:
        parts.append("value: " + clip(neutralise(shown(result.value))))
    if result.error is not None:
        parts.append(failure(result))
    if result.files:
        parts.append("files: " + ", ".join(f"{neutralise_line(f.name)} ({f.size} bytes)" for f in result.files))
    if session.closed:
        parts.append("(the session ended; its variables and files are gone, the next step starts afresh)")
    return "\n".join(parts) or "(no output)"


def failure(result: Result) -> str:
    """The error of a failed step: the traceback where there is one, else type and message."""
    error = result.error
    if error is None:
        return ""
    text = neutralise(error.traceback).rstrip("\n")
    said = neutralise(str(error))
    # A step that a limit ended shows where it was interrupted; that it was the limit, and which, says the error itself.
    return clip(text if said in text else f"{text}\n{said}".lstrip("\n"))


def clip(text: str, length: int = _MAX_VALUE) -> str:
    """`text`, without its middle when it has more than `length` characters."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half} characters left out) ...\n{text[-half:]}"


def native(value: Any) -> Any:
    """An Array, Image or Table as numpy's, PIL's or pandas' own object where that library is installed here, and makes one of it; anything else as it is.

    The guest chose the bytes and the columns: what those libraries say of them must not end the host's run.
    """
    for kind, name in ((Array, "to_numpy"), (Image, "to_pil"), (Table, "to_pandas")):
        if isinstance(value, kind):
            try:
                return getattr(value, name)()
            except Exception:
                return value
    return value
