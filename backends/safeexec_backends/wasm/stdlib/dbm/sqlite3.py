"""A database of byte strings in an SQLite file, with the table that CPython's own `dbm.sqlite3` has."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, MutableMapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["error", "open"]
_TABLE = "CREATE TABLE IF NOT EXISTS Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)"


class error(OSError):
    """SQLite refused, or the database is closed."""


def _bytes(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if isinstance(item, int | float):  # as SQLite would cast them
        return str(item).encode()
    raise TypeError(f"keys and values are bytes or strings, not {type(item).__name__}")


class Database(MutableMapping[bytes, bytes]):
    """What :func:`open` returns: a mapping of bytes, which takes strings as well."""

    def __init__(self, path: str, flag: str, mode: int) -> None:
        self._connection: sqlite3.Connection | None = None
        if flag == "n":
            Path(path).unlink(missing_ok=True)
        if flag in "cn" and not os.path.exists(path):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, mode))
        uri = Path(path).absolute().as_uri() + "?mode=" + ("ro" if flag == "r" else "rw")
        try:
            self._connection = sqlite3.connect(uri, isolation_level=None, uri=True)
            if flag != "r":
                self._do(_TABLE)
        except sqlite3.Error as trouble:
            self.close()
            raise error(str(trouble)) from trouble

    def _do(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        if self._connection is None:
            raise error("DBM object has already been closed")
        try:
            with closing(self._connection.execute(statement, values)) as cursor:
                return cursor.fetchall()
        except sqlite3.Error as trouble:
            raise error(str(trouble)) from trouble

    def __len__(self) -> int:
        return int(self._do("SELECT count(*) FROM Dict")[0][0])

    def __getitem__(self, key: bytes | str) -> bytes:
        rows = self._do("SELECT value FROM Dict WHERE key = CAST(? AS BLOB)", _bytes(key))
        if not rows:
            raise KeyError(key)
        return bytes(rows[0][0])

    def __setitem__(self, key: bytes | str, value: bytes | str) -> None:
        self._do("REPLACE INTO Dict (key, value) VALUES (CAST(? AS BLOB), CAST(? AS BLOB))", _bytes(key), _bytes(value))

    def __delitem__(self, key: bytes | str) -> None:
        if not self._do("DELETE FROM Dict WHERE key = CAST(? AS BLOB) RETURNING 1", _bytes(key)):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return bool(self._do("SELECT 1 FROM Dict WHERE key = CAST(? AS BLOB)", _bytes(key)))

    def __iter__(self) -> Iterator[bytes]:
        return iter([bytes(row[0]) for row in self._do("SELECT key FROM Dict")])

    def keys(self) -> list[bytes]:  # type: ignore[override]  # a list, as documented
        """All keys."""
        return list(self)

    def close(self) -> None:
        """Close the file. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open(filename: str | bytes | os.PathLike[str], /, flag: str = "r", mode: int = 0o666) -> Database:
    """Open a database: `flag` is r, w, c or n, as for :func:`dbm.open`. Raises error."""
    if flag not in ("r", "w", "c", "n"):
        raise ValueError(f"Flag must be one of 'r', 'w', 'c', or 'n', not {flag!r}")
    return Database(os.fsdecode(filename), flag, mode)
