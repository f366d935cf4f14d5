"""The interface to databases of byte strings, over the one kind there is here: SQLite's.

https://docs.python.org/3/library/dbm.html says what each function does.
"""

from __future__ import annotations

import io
import os

from . import sqlite3 as _sqlite3

__all__ = ["error", "open", "whichdb"]


class error(Exception):
    """A database whose kind is not known, or that is not there."""


_Own = error
error = (error, OSError)  # type: ignore[assignment,misc]  # as documented: a tuple whose first item is the class above
_MAGIC = b"SQLite format 3\0"


def whichdb(filename: str | bytes | os.PathLike[str]) -> str | None:
    """The module that can open a file: ``"dbm.sqlite3"``, an empty string for an unknown kind, None if it cannot be read."""
    try:
        with io.open(os.fsencode(filename), "rb") as file:  # noqa: UP020  # `open` is another here
            start = file.read(len(_MAGIC))
    except OSError:
        return None
    return "dbm.sqlite3" if start in (_MAGIC, b"") else ""


def open(file: str | bytes | os.PathLike[str], flag: str = "r", mode: int = 0o666) -> _sqlite3.Database:
    """Open a database: `flag` is r (read), w (write), c (make it if it is not there) or n (a new one always). Raises dbm.error."""
    if "n" not in flag:
        kind = whichdb(file)
        if kind is None and "c" not in flag:
            raise _Own("db file doesn't exist; use 'c' or 'n' flag to create a new db")
        if kind == "":
            raise _Own("db type could not be determined")
    return _sqlite3.open(file, flag, mode)
