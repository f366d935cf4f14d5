"""Methods of ``sqlite3.Connection`` that do what statements may not: the database's authorizer is not asked of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from safeexec_backends.local.language.identity import WriteRefused, exact_name

_SETTINGS = """DEFENSIVE DQS_DDL DQS_DML ENABLE_FKEY ENABLE_QPSG ENABLE_TRIGGER ENABLE_VIEW LEGACY_ALTER_TABLE LEGACY_FILE_FORMAT NO_CKPT_ON_CLOSE
    TRIGGER_EQP TRUSTED_SCHEMA""".split()
"""Neither native extensions nor tokenizers by their address, nor the tables in which a database describes itself."""


def _setconfig(found: Callable[..., Any]) -> Callable[..., Any]:
    import sqlite3

    allowed = {getattr(sqlite3, f"SQLITE_DBCONFIG_{name}", None) for name in _SETTINGS}

    def setconfig(op: Any, enable: Any = True, /) -> None:
        """As `sqlite3.Connection.setconfig`."""
        op = int(operator.index(op))
        if op not in allowed:
            raise WriteRefused(f"the setting {op} of a database cannot be changed in this sandbox")
        found(op, bool(enable))

    return setconfig


def _blobopen(found: Callable[..., Any]) -> Callable[..., Any]:
    def blobopen(table: Any, column: Any, row: Any, /, *, readonly: Any = False, name: Any = "main") -> Any:
        """As `sqlite3.Connection.blobopen`."""
        table, readonly = exact_name(table), bool(readonly)
        if not readonly and table.lower().startswith("sqlite_"):
            raise WriteRefused(f"the table {table!r} cannot be written to in this sandbox")
        return found(table, exact_name(column), int(operator.index(row)), readonly=readonly, name=exact_name(name))

    return blobopen


CHECKED: Mapping[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "setconfig": _setconfig,
    "blobopen": _blobopen,
}
"""By name, what takes the place of a connection's method."""
