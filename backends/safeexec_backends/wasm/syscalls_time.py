"""Calendar time: the local time zone, and what localtime and mktime make of it.

Plain arithmetic, because the guest may ask for any 64-bit year and the host's C library must not be asked about it. The zone is a table in the
guest's memory, where guest_system.py put it; without one it is UTC. What the table holds is the guest's word: it is read with bounds, and whatever it
says, numbers come of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from .host import Host
from .syscalls import plain

_TABLE: Final = 72  # see image/helpers.wat
_ENTRY: Final = struct.Struct("<qiB11s")
_MOST: Final = 1 << 16
_DAY: Final = 86400
_NAME_MAX: Final = 16  # TZNAME_MAX of emscripten's tzset.c, whose buffers have room for one NUL more


_END: Final = 2066  # guest_system._YEARS


class State(NamedTuple):
    """What holds from a time on: seconds east of Greenwich, summer time or not, the zone's name."""

    start: int
    offset: int
    summer: int
    name: bytes


_UTC: Final = State(-(1 << 63), 0, 0, b"UTC")


class Zone:
    """The table of a guest, as it is now."""

    def __init__(self, host: Host) -> None:
        address, size = struct.unpack("<2I", host.memory.read(_TABLE, 8))
        self._memory = host.memory
        self._address = address
        self.length = min(size // _ENTRY.size, _MOST)
        self._memory.check(address, self.length * _ENTRY.size)

    def __getitem__(self, number: int) -> State:
        start, offset, summer, name = _ENTRY.unpack(
            self._memory.read(self._address + number * _ENTRY.size, _ENTRY.size)
        )
        return State(start, offset, int(summer != 0), name.partition(b"\0")[0])

    def place(self, seconds: int) -> int:
        """The number of the state at a time."""
        seconds = _like(seconds)
        low, high = 0, self.length
        while low < high:
            middle = (low + high) // 2
            if self[middle].start <= seconds:
                low = middle + 1
            else:
                high = middle
        return max(low - 1, 0)

    def at(self, seconds: int) -> State:
        """The state at a time."""
        return self[self.place(seconds)] if self.length else _UTC

    def around(self, local: int) -> Iterator[State]:
        """The states that a local time may belong to, in order."""
        if not self.length:
            yield _UTC
            return
        first, last = self.place(local - 2 * _DAY), self.place(local + 2 * _DAY)
        for number in range(first, min(last, first + 8) + 1):
            yield self[number]

    def other(self, local: int, summer: int) -> State | None:
        """The state nearest to a local time that is summer time, or is not."""
        if self.length:
            middle = self.place(local)
            for distance in range(4):
                for number in (middle - distance, middle + distance):
                    if 0 <= number < self.length and self[number].summer == summer:
                        return self[number]
        return None


def _civil(days: int) -> tuple[int, int, int]:
    """(year, month 1..12, day) of a number of days since 1970-01-01 in the proleptic Gregorian calendar."""
    era, day = divmod(days + 719468, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    ordinal = day - (365 * year + year // 4 - year // 100)
    month = (5 * ordinal + 2) // 153
    return (
        year + era * 400 + (month >= 10),
        month + 3 if month < 10 else month - 9,
        ordinal - (153 * month + 2) // 5 + 1,
    )


def _days(year: int, month: int) -> int:
    """Days from 1970-01-01 to the first of a month (1..12)."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    ordinal = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + ordinal - 719468


def _i32(number: int) -> int:
    return max(-(1 << 31), min(number, (1 << 31) - 1))


_LIKE: Final = {(_days(year, 1) % 7, _days(year + 1, 1) - _days(year, 1)): year for year in range(_END - 28, _END)}
"""By the day of the week that a year begins with and its number of days, one at the end of the table."""


def _like(seconds: int) -> int:
    """The same time of a year that is in the table: beyond it the same rule holds for all years that begin on the same day of the week."""
    days = seconds // _DAY
    year = _civil(days)[0]
    if year < _END:
        return seconds
    first = _days(year, 1)
    return seconds - (first - _days(_LIKE[first % 7, _days(year + 1, 1) - first], 1)) * _DAY


def _write_tm(host: Host, seconds: int, buffer: int, state: State = _UTC) -> None:
    # struct tm: sec min hour mday mon year wday yday isdst gmtoff, then the zone's name
    days, rest = divmod(seconds + state.offset, _DAY)
    year, month, day = _civil(days)
    numbers = (
        rest % 60,
        rest // 60 % 60,
        rest // 3600,
        day,
        month - 1,
        _i32(year - 1900),
        (days + 4) % 7,
        days - _days(year, 1),
    )
    host.memory.write(buffer, struct.pack("<10i", *numbers, state.summer, state.offset))


def _name(host: Host, state: State) -> None:
    """Let the C library know the zone's name: it takes it from `tzname`, by whether it is summer time."""
    names = host.memory.u32(host.instance.global_value("tzname") + 4 * state.summer)
    if names:
        host.memory.write(names, state.name[:_NAME_MAX] + b"\0")


def _local_seconds(host: Host, buffer: int) -> tuple[int, int]:
    """(Seconds that a struct tm would mean if it were UTC, its isdst.)"""
    second, minute, hour, day, month, year, summer = struct.unpack("<6i8xi", host.memory.read(buffer, 36))
    years, month = divmod(month, 12)
    days = _days(year + 1900 + years, month + 1) + day - 1
    return days * _DAY + hour * 3600 + minute * 60 + second, summer


@plain("_gmtime_js", "li")
def gmtime(host: Host, seconds: int, buffer: int) -> None:
    _write_tm(host, seconds, buffer)


@plain("_localtime_js", "li")
def localtime(host: Host, seconds: int, buffer: int) -> None:
    state = Zone(host).at(seconds)
    _write_tm(host, seconds, buffer, state)
    _name(host, state)


@plain("_timegm_js", "i", "l")
def timegm(host: Host, buffer: int) -> int:
    seconds, _ = _local_seconds(host, buffer)
    _write_tm(host, seconds, buffer)
    return seconds


@plain("_mktime_js", "i", "l")
def mktime(host: Host, buffer: int) -> int:
    local, summer = _local_seconds(host, buffer)
    seconds, zone = _absolute(host, local, summer)
    state = zone.at(seconds)
    _write_tm(host, seconds, buffer, state)
    _name(host, state)
    return seconds


def _absolute(host: Host, local: int, summer: int) -> tuple[int, Zone]:
    zone = Zone(host)
    states = list(zone.around(local))
    fitting = [state for state in states if zone.at(local - state.offset) == state]
    wanted = [state for state in fitting if summer < 0 or state.summer == int(summer > 0)]
    if wanted:  # twice an hour at the end of summer: the first, unless it was said which
        return local - wanted[0].offset, zone
    if summer >= 0 and (other := zone.other(local, int(summer > 0))) is not None:
        return local - other.offset, zone
    return local - (fitting or states)[0].offset, zone  # an hour that there is not: as if the change had not been yet


@plain("_tzset_js", "iiii")
def tzset(host: Host, timezone: int, daylight: int, standard: int, summer: int) -> None:
    host.memory.set_u32(timezone, 0)
    host.memory.set_u32(daylight, 0)
    host.memory.write(standard, b"UTC\0")
    host.memory.write(summer, b"UTC\0")
