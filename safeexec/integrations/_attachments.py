"""Pictures and files that a step made, in the forms in which frameworks take them. What a guest calls a picture is not looked into here."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterable
from time import monotonic
from typing import NamedTuple

from safeexec.errors import LimitExceeded, SafeExecError
from safeexec.files import deadline, most_entries
from safeexec.result import FileInfo, Result
from safeexec.session import Session
from safeexec.text import neutralise, neutralise_line

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What a viewer renders without running anything; SVG may hold scripts."""


class Attachment(NamedTuple):
    """A picture or a file."""

    name: str
    mime: str
    data: bytes

    @classmethod
    def named(cls, name: str, data: bytes) -> Attachment:
        """A file, of the kind that its name says."""
        return cls(name, mimetypes.guess_type(name)[0] or "application/octet-stream", data)

    @property
    def base64(self) -> str:
        """The bytes in base64."""
        return base64.b64encode(self.data).decode()

    @property
    def url(self) -> str:
        """The bytes as a data URL."""
        return f"data:{self.mime};base64,{self.base64}"

    @property
    def text(self) -> str | None:
        """The bytes as text, made harmless for a terminal; None for pictures, and for what is no text."""
        try:
            return None if self.mime in PICTURES else neutralise(self.data.decode())
        except UnicodeDecodeError:
            return None


def pictures(result: Result) -> list[Attachment]:
    """The pictures that a step displayed."""
    found: list[Attachment] = []
    for display in result.displays:
        mime = next((mime for mime in PICTURES if isinstance(display.data.get(mime), bytes)), None)
        if mime is not None:
            name = f"display-{len(found) + 1}.{mime.partition('/')[2]}"
            found.append(Attachment(name, mime, display.data[mime]))  # type: ignore[arg-type]
    return found


def files(session: Session, named: Iterable[FileInfo]) -> tuple[list[Attachment], str]:
    """Files of a session, and what there is to say about those that cannot be passed on."""
    found: list[Attachment] = []
    trouble, left = "", session.policy.limits.disk
    most, late = most_entries(session.policy.limits), deadline(session.policy.limits)
    for number, info in enumerate(named):
        if number == most:  # it may name millions, each of which is asked for
            return found, f"{trouble}other files are not passed on: there are more than Limits.disk has room for\n"
        if monotonic() > late:  # and each may take it as long as a step
            return (
                found,
                f"{trouble}other files are not passed on: reading them took longer than one step may (Limits.wall)\n",
            )
        try:
            data = session.files.read(info.name)
            left -= len(data)
            if left < 0:  # the guest names the files, and may name more than it could ever hold
                raise LimitExceeded("the files together are larger than Limits.disk")
            found.append(Attachment.named(info.name, data))
        # The guest chose the name and may have made anything of that name meanwhile: that must not end the host's run.
        except (SafeExecError, OSError) as error:
            trouble += f"file {neutralise_line(info.name)} is not passed on: {neutralise_line(str(error))}\n"
    return found, trouble
