# mypy: ignore-errors
# It is written against the CPython inside the image, whose private names a checker on the host does not know.
"""Runs inside the sandbox: what `os` and `time` have on other systems and lack, or have in a poorer form, in Pyodide."""

import bisect
import errno
import io
import math
import operator
import os
import re
import struct
import time
import zoneinfo
from datetime import datetime, timedelta

import _safeexec_device as device  # type: ignore[import-not-found]

_utime = os.utime
_get_clock_info = time.get_clock_info


def complete():
    """Put them in place."""
    os.utime = utime
    for kept in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks):
        if _utime in kept:
            kept.discard(_utime)
            kept.add(utime)
    os.times = times
    os.getlogin = getlogin
    os.system = system
    os.sched_getaffinity = sched_getaffinity
    os.__all__ += ["sched_getaffinity"]
    # Of the one thread that there is.
    time.thread_time, time.thread_time_ns = time.process_time, time.process_time_ns
    time.get_clock_info = get_clock_info
    time.tzset = tzset
    for module, functions in (
        ("os", (utime, times, getlogin, system, sched_getaffinity)),
        ("time", (get_clock_info, tzset)),
    ):
        for function in functions:
            function.__module__ = module


def utime(path, times=None, *, ns=None, dir_fd=None, follow_symlinks=True):
    """Set the access and modified time of path."""
    # The C library under it takes microseconds, and CPython cuts off what is below: a time that stat() gave came out a microsecond earlier.
    if type(times) is tuple and ns is None and any(type(t) is float for t in times) and all(map(math.isfinite, times)):
        times, ns = None, tuple(round(t * 10**6) * 1000 for t in times)
    if ns is None:
        return _utime(path, times, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    if times is not None:
        raise ValueError("utime: you may specify either 'times' or 'ns' but not both")
    return _utime(path, ns=ns, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


def times():
    """Return a collection containing process timing information."""
    return os.times_result((time.process_time(), 0.0, 0.0, 0.0, time.monotonic()))


def getlogin():
    """Return the actual login name."""
    return "sandbox"


def system(command):
    """Execute the command in a subshell."""
    # The C library answers -1 and nothing else, which a program that does not look takes for done. As subprocess says it here.
    os.fsencode(command)
    raise OSError(errno.ENOTSUP, "no program can be started in this sandbox; do it in Python")


def sched_getaffinity(pid, /):
    """Return the affinity of the process identified by pid (or the current process if zero)."""
    if operator.index(pid) not in (0, os.getpid()):
        raise ProcessLookupError(71, os.strerror(71))  # ESRCH
    return {0}


def get_clock_info(name, /):
    """Get information of the specified clock."""
    return _get_clock_info("process_time" if name == "thread_time" else name)


# -- the local time zone ----------------------------------------------------------------------------------------------------
# The host's localtime and mktime read a table in this memory (syscalls_time.py), which is part of what is kept, copied and restored.

_YEARS = range(1901, 2066)
"""Where the table ends, all that is left is a rule that says the same for all years that begin on the same day of the week: the host looks there."""
_HOUR, _SECOND = 3600, timedelta(seconds=1)
_POSIX = re.compile(
    r"(?:[A-Za-z]{3,10}|<[A-Za-z0-9+-]{3,10}>)[+-]?[0-9]{1,3}(?::[0-9]{1,2}){0,2}[A-Za-z0-9<>+:,./-]{0,80}"
)
_table = b""


def tzset():
    """Initialize, or reinitialize, the local timezone to the value stored in os.environ['TZ']."""
    zone = _zone(os.environ.get("TZ", "").removeprefix(":"))
    steps = []
    if zone is not None:
        start = _seconds(_YEARS[0])
        before = _state(zone, start)
        steps.append((-(1 << 62), *before))
        # Changes are further apart than that, but for a handful in which the outcome is the same.
        for end in range(start, _seconds(_YEARS[-1] + 1), 21 * 24 * _HOUR):
            after = _state(zone, end)
            if after != before:
                steps.append((_change(zone, start, end, after), *after))
                before = after
            start = end
    _install(steps)


def _zone(name):
    """The zone that a value of TZ means; None for UTC, which a name that nobody knows means, too."""
    if not name or name in ("UTC", "UTC0", "GMT0"):
        return None
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    if not _POSIX.fullmatch(name):
        return None
    try:  # a file without transitions, whose last line is the rule (RFC 9636, 3.3)
        head = struct.pack(">4sc15x6l", b"TZif", b"2", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb4s", 0, 0, 0, b"UTC\0")
        return zoneinfo.ZoneInfo.from_file(io.BytesIO(head * 2 + b"\n" + name.encode() + b"\n"))
    except ValueError:
        return None


def _seconds(year):
    return int((datetime(year, 1, 1) - datetime(1970, 1, 1)).total_seconds())


def _state(zone, seconds):
    """(Time east of Greenwich, summer time's part of it, name) at a time."""
    at = datetime.fromtimestamp(seconds, zone)
    return at.utcoffset(), at.dst(), at.tzname()


def _change(zone, start, end, after):
    """The second at which `after` began."""
    return bisect.bisect_left(range(start + 1, end), True, key=lambda t: _state(zone, t) == after) + start + 1


def _install(steps):
    global _table
    # i64 from when, i32 offset, u8 summer time, name padded with NUL; for each
    _table = b"".join(
        struct.pack("<qiB11s", at, offset // _SECOND, bool(summer), name.encode()[:10])
        for at, offset, summer, name in steps
    )
    device.zone(_table)
    year = time.gmtime().tm_year
    halves = [time.localtime(_seconds(year)), time.localtime(_seconds(year) + 181 * 24 * _HOUR)]
    winter, summer = sorted(halves, key=lambda at: at.tm_gmtoff)
    time.timezone, time.altzone = -winter.tm_gmtoff, -summer.tm_gmtoff
    time.daylight = int(winter.tm_gmtoff != summer.tm_gmtoff)
    time.tzname = (winter.tm_zone, summer.tm_zone)
