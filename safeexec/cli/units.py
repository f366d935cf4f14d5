"""Amounts as people write them."""

from __future__ import annotations

import math
import re

import click

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
MIN_MEMORY = 2**20
"""Bytes: less was meant with a unit."""
_FACTOR = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def size(value: object, minimum: int = 1) -> int:
    """Bytes: a whole number, or text such as "512K", "256M", "1.5G" (binary units). `minimum` catches a forgotten unit. Raises ValueError."""
    match = (
        _SIZE.fullmatch(str(value).strip()) if isinstance(value, str | int) and not isinstance(value, bool) else None
    )
    if match is None or len(match[1]) > 20:
        raise ValueError(f"{value!r:.80} is not a size; write bytes, or a number with K, M or G such as 256M")
    number = float(match[1]) * _FACTOR[match[2].upper()]
    if not 1 <= number < 2**63:
        raise ValueError(f"{value!r:.80} is not a possible size")
    if number < minimum:
        raise ValueError(f"{value} is {int(number)} bytes, less than {human(minimum)}; write e.g. 256M")
    return int(number)


def seconds(value: object) -> float:
    """Seconds, more than 0. Raises ValueError."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not 1e-3 <= number < 1e9:
        raise ValueError(f"{value!r:.80} is not a number of seconds such as 5 or 0.5")
    return number


def human(count: int) -> str:
    """A number of bytes for people."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return ("1 byte" if count == 1 else f"{count} bytes") if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


class Size(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic in new versions only
    """An option's size in bytes."""

    name = "size"

    def __init__(self, minimum: int = 1) -> None:
        self._minimum = minimum

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return size(value, self._minimum)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Seconds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """An option's number of seconds."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
