"""``--save-files``: what a step made, copied to the host under safe names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from safeexec import whole
from safeexec.cli.exits import Failure
from safeexec.errors import SafeExecError, SessionClosed
from safeexec.names import check_collisions
from safeexec.result import MOST_FILES, Display, Result
from safeexec.session import Session
from safeexec.text import iframe

_PICTURES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
}
_PAGES = {"text/html": ".html", "image/svg+xml": ".svg.html"}


def make_saver(directory: str | None) -> Saver | None:
    """A Saver for ``--save-files``. Raises Failure, before anything ran, for a directory that cannot be made."""
    if directory is None:
        return None
    try:
        return Saver(directory)
    except OSError as error:
        raise Failure(f"--save-files: {directory}: {error.strerror}; give a directory that can be made") from None


def check_writable(name: str, what: str) -> None:
    """Refuse a file that cannot be written, before anything long is done for it. Raises Failure, whose message calls it `what`."""
    path = Path(name)
    why = ""
    if path.is_dir():
        why = "it is a directory"
    elif not path.parent.is_dir():
        why = f"there is no directory {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "it may not be written here"
    if why:
        raise Failure(f"{what} {name} cannot be written: {why}")


class Saver:
    """Saves the files and displays of one step after the other below `directory`. Displays are numbered through."""

    def __init__(self, directory: str) -> None:
        """Make `directory` if it is missing. Raises OSError."""
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._number = 0

    def save(self, session: Session, result: Result) -> tuple[tuple[Path, ...], str | None]:
        """The paths written, and what went wrong if anything did."""
        names = [info.name for info in result.files]
        displays = self._displays(result, {name.casefold() for name in names})
        paths: list[Path] = []
        try:
            # Pictures first: they are here already, whatever has become of the session.
            for name, data in displays.items():
                paths.append(_write(self.directory, name, data))
            if names:
                found = [info.name for info in session.files.list()]
                # Of so many the result does not know all; those that were placed there are nobody's news.
                if len(found) > MOST_FILES:
                    names += sorted({*found} - {*names, *session.policy.files})
                check_collisions([*names, *displays])
                paths += session.files.save(self.directory, names)
        except SessionClosed:
            return tuple(paths), "the files could not be saved: they were lost with the session"
        except (SafeExecError, OSError) as error:
            return tuple(paths), f"not everything could be saved: {error}"
        return tuple(paths), None

    def _displays(self, result: Result, taken: set[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for display in result.displays:
            self._number += 1
            for suffix, data in _contents(display):
                name, other = f"display-{self._number}{suffix}", 0
                while name in taken:  # the program has a file of that name
                    other += 1
                    name = f"display-{self._number}-{other}{suffix}"
                found[name] = data
        return found


def _contents(display: Display) -> Iterator[tuple[str, bytes]]:
    for mime, data in display.data.items():
        if mime in _PICTURES and isinstance(data, bytes):
            yield _PICTURES[mime], data
        elif mime in _PAGES and isinstance(data, str):
            # Never as it is: opened in a browser it would run scripts with the rights of a local file.
            page = (
                '<!doctype html><meta charset="utf-8"><title>display</title><style>iframe{height:95vh}</style>\n'
                f"{iframe(data)}\n"
            )
            yield _PAGES[mime], page.encode("utf-8", "replace")


def _write(directory: Path, name: str, data: bytes) -> Path:
    path = directory / name
    whole.write(path, data)
    return path
