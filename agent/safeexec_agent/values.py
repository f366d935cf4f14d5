"""Plain values as JSON and back, in the form of ``safeexec run --json``."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from safeexec import Array, Image, Opaque, Table
from safeexec.cli.document import value as to_plain
from safeexec.wire import MAX_REDUCING, check_keys, describe

__all__ = ["describe", "from_plain", "to_plain"]


def from_plain(data: Any) -> Any:
    """What :func:`to_plain` made such data of. Builds plain types only; raises ValueError, TypeError or KeyError for what is malformed."""
    if isinstance(data, list):
        return [from_plain(item) for item in data]
    if not isinstance(data, dict):
        return data
    if "$type" not in data:
        return {key: from_plain(item) for key, item in data.items()}
    kind = data["$type"]
    make = _MAKE.get(kind)
    if make is None:
        raise ValueError(f"there is no type {kind!r:.80}")
    try:
        return make(data)
    except ArithmeticError as error:  # a fraction of nothing, a Decimal that is no number, a time beyond all calendars
        raise ValueError(f"no {kind} is like this: {type(error).__name__}") from None


def _bytes(data: Any) -> bytes:
    return base64.b64decode(data["base64"], validate=True)


def _pairs(items: Any) -> dict[Any, Any]:
    pairs = [(from_plain(key), from_plain(item)) for key, item in items]
    # A file of a stranger's: thousands of numbers that hash alike would keep whoever reads it for hours.
    check_keys([key for key, _ in pairs])
    return dict(pairs)


def _items(kind: type) -> Callable[[Any], Any]:
    def make(data: Any) -> Any:
        items = [from_plain(item) for item in data["items"]]
        if kind is not tuple:
            check_keys(items)
        return kind(items)

    return make


def _fraction(data: Any) -> Fraction:
    parts = from_plain(data["numerator"]), from_plain(data["denominator"])
    # To reduce it is quadratic in its digits, of which a letter has four bits.
    if parts[0].bit_length() * parts[1].bit_length() > 16 * MAX_REDUCING:
        raise ValueError("a fraction of too many digits")
    return Fraction(*parts)


_MAKE: dict[str, Callable[[Any], Any]] = {
    "int": lambda d: int(d["hex"], 16),
    "float": lambda d: float(d["value"]),
    "complex": lambda d: complex(from_plain(d["real"]), from_plain(d["imag"])),
    "str": lambda d: _bytes(d).decode("utf-8", "surrogatepass"),
    "bytes": _bytes,
    "tuple": _items(tuple),
    "set": _items(set),
    "frozenset": _items(frozenset),
    "dict": lambda d: _pairs(d["items"]),
    "range": lambda d: range(from_plain(d["start"]), from_plain(d["stop"]), from_plain(d["step"])),
    "datetime": lambda d: datetime.fromisoformat(d["iso"]),
    "date": lambda d: date.fromisoformat(d["iso"]),
    "time": lambda d: time.fromisoformat(d["iso"]),
    "timedelta": lambda d: timedelta(d["days"], d["seconds"], d["microseconds"]),
    "timezone": lambda d: timezone(timedelta(seconds=d["seconds"]), d["name"]),
    "Decimal": lambda d: Decimal(d["value"]),
    "UUID": lambda d: UUID(d["value"]),
    "Fraction": _fraction,
    "Array": lambda d: Array(d["dtype"], tuple(d["shape"]), _bytes(d)),
    "Image": lambda d: Image(d["mime"], _bytes(d)),
    "Table": lambda d: Table(_pairs(d["columns"]), from_plain(d["index"])),
    "Opaque": lambda d: Opaque(d["type"], d["repr"]),
}
