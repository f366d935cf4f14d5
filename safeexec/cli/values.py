"""A step's value as text for people."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

from safeexec.text import neutralise_line
from safeexec.wire import Array, Opaque, Table

_MAX_ITEMS = 1000
_MAX_ROWS = 20
_MAX_COLUMNS = 20
_FORMATS = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


def text(value: Any) -> str:
    """What Python's prompt would show. Not neutralised: the repr of an opaque value is the guest's own text."""
    if type(value) is Array:
        return _array(value)
    if type(value) is Opaque:
        return value.repr
    if type(value) is Table:
        return _table(value)
    return shown(value)


def shown(value: Any) -> str:
    """``repr(value)`` of a result's value, whatever ints are in it."""
    try:
        return repr(value)
    except ValueError:  # an int of more than 4300 digits somewhere in it
        return _repr(value)


def _repr(value: Any) -> str:
    kind = type(value)
    if kind is int:
        try:
            return repr(value)
        except ValueError:
            return hex(value)  # takes linear time; decimal digits would take minutes for an int of megabytes
    if kind is list:
        return f"[{', '.join(map(_repr, value))}]"
    if kind is tuple:
        return f"({_repr(value[0])},)" if len(value) == 1 else f"({', '.join(map(_repr, value))})"
    if kind is dict:
        return f"{{{', '.join(f'{_repr(k)}: {_repr(v)}' for k, v in value.items())}}}"
    if kind is set and value:
        return f"{{{', '.join(map(_repr, value))}}}"
    if kind is frozenset and value:
        return f"frozenset({{{', '.join(map(_repr, value))}}})"
    if kind is Fraction:
        return f"Fraction({_repr(value.numerator)}, {_repr(value.denominator)})"
    if kind is range:
        return f"range({_repr(value.start)}, {_repr(value.stop)}, {_repr(value.step)})"
    if kind is Table:
        return f"Table(columns={_repr(value.columns)}, index={_repr(value.index)})"
    return repr(value)


def _array(array: Array) -> str:
    # numpy is not imported for this: the guest would decide when the host imports it, and from where.
    if 0 in array.shape:  # the other lengths are the guest's word alone, and could be astronomical
        return f"array([], shape={array.shape}, dtype={array.dtype!r})"
    items = _items(array)
    if items is None:
        return f"array of shape {array.shape}, dtype {array.dtype!r} ({len(array.data)} bytes)"
    return f"array({_nest(items, array.shape)}, dtype={array.dtype!r})"


def _items(array: Array) -> list[Any] | None:
    """The elements, or None when there are too many or they are of a kind that is not shown."""
    order, code = array.dtype[:1], _FORMATS.get(array.dtype[1:])
    count = math.prod(array.shape)
    if (
        code is None
        or order not in "<>|="
        or count > _MAX_ITEMS
        or struct.calcsize(f"<{code}") * count != len(array.data)
    ):
        return None
    return list(struct.unpack(f"{'>' if order == '>' else '<'}{count}{code}", array.data))


def _nest(items: Sequence[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return items[0]
    if len(shape) == 1:
        return list(items)
    step = len(items) // shape[0]
    return [_nest(items[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _table(table: Table) -> str:
    columns = {name: _column(values) for name, values in islice(table.columns.items(), _MAX_COLUMNS)}
    rows = max((len(values) for values in columns.values()), default=0)
    more = ", not all shown" if rows > _MAX_ROWS or len(table.columns) > _MAX_COLUMNS else ""
    labels = table.index if isinstance(table.index, list) else range(rows)
    lines = [["", *(_cell(name) for name in columns)]]
    for i in range(min(rows, _MAX_ROWS)):
        cells = (_cell(values[i]) if i < len(values) else "" for values in columns.values())
        lines.append([_cell(labels[i]) if i < len(labels) else "", *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*shown, f"[{rows} rows x {len(table.columns)} columns{more}]"])


def _column(values: Any) -> Sequence[Any]:
    if type(values) is Array:
        if len(values.shape) != 1:
            return []
        head = min(values.shape[0], _MAX_ROWS)
        size = len(values.data) // values.shape[0] if values.shape[0] else 0
        found = _items(Array(values.dtype, (head,), values.data[: head * size]))
        return _Padded(found if found is not None else ["?"] * head, values.shape[0])
    return values if isinstance(values, list) else []


class _Padded(Sequence[Any]):
    """The first items of a longer column."""

    def __init__(self, items: list[Any], length: int) -> None:
        self._items = items
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]


def _cell(value: Any) -> str:
    return neutralise_line(value if type(value) is str else _repr(value), 40)
