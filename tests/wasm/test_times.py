"""The times of files, and the local time zone."""

from __future__ import annotations

import datetime
import random
import struct
import time
import zoneinfo

import pytest

from safeexec import Executor, Limits, Policy
from safeexec_backends.wasm import WasmBackend
from safeexec_backends.wasm.syscalls_time import _like
from tests.wasm.conftest import Run
from tests.wasm.hostile_guest import SIZE, Hostile

_NS = 10**9


def test_a_file_has_three_times(run: Run) -> None:
    code = """
import os, time
open("f", "w").close()
made = os.stat("f")
os.utime("f", (1.5, 2.5))
set_ = os.stat("f")
os.utime("f", ns=(-3_000, 7_001_000))
before = os.stat("f")
open("f", "a").write("x")
after = os.stat("f")
os.utime("f")
os.chmod("f", 0o600)
now = os.stat("f")
(
    made.st_atime_ns == made.st_mtime_ns == made.st_ctime_ns, abs(made.st_mtime - time.time()) < 60,
    (set_.st_atime, set_.st_mtime), set_.st_ctime_ns >= made.st_ctime_ns, (before.st_atime_ns, before.st_mtime_ns),
    after.st_atime_ns, after.st_mtime_ns == after.st_ctime_ns > made.st_ctime_ns,
    now.st_atime_ns == now.st_mtime_ns > after.st_mtime_ns, now.st_ctime_ns >= now.st_mtime_ns,
)
"""
    assert run(code).value == (True, True, (1.5, 2.5), True, (-3_000, 7_001_000), -3_000, True, True, True)


def test_a_time_that_was_read_can_be_set(run: Run) -> None:
    code = """
import filecmp, os, shutil
seen = []
for n in range(50):
    open("f", "w").close()
    one = os.stat("f")
    open("g", "w").close(); os.utime("g", (one.st_atime, one.st_mtime))
    two = os.stat("g")
    seen.append((two.st_atime_ns, two.st_mtime_ns) == (one.st_atime_ns, one.st_mtime_ns) and filecmp.cmp("f", "g"))
open("g", "w").close(); shutil.copystat("f", "g")
all(seen) and os.stat("g").st_mtime_ns == os.stat("f").st_mtime_ns
"""
    assert run(code).value is True


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("(1, 2), ns=(1, 2)", "ValueError"),
        ("(1.0, 2), ns=(1, 2)", "ValueError"),
        ("(1,)", "TypeError"),
        ("(1.0,)", "TypeError"),
        ("[1.0, 2.0]", "TypeError"),
        ("('a', 1.0)", "TypeError"),
        ("(float('nan'), 1.0)", "ValueError"),
        ("(float('inf'), 1.0)", "OverflowError"),
    ],
)
def test_what_is_no_time_is_refused(run: Run, arguments: str, error: str) -> None:
    result = run(f"import os\nopen('f', 'w').close()\nos.utime('f', {arguments})")
    assert result.error is not None and result.error.type == error


def test_modes_and_times_alone_are_kept(in_process: Executor) -> None:
    policy = Policy(limits=Limits(time=0.5))
    look = "import os\n(oct(os.stat('f').st_mode), os.stat('f').st_atime, os.stat('f').st_mtime)"
    with in_process.session(policy=policy) as session:
        session.run("import os\nopen('f', 'w').close()")
        session.run("1")
        session.run("os.chmod('f', 0o600); os.utime('f', (4, 5))")
        assert session.run("while True: pass").error.kind == "time"  # type: ignore[union-attr]
        assert session.run(look).value == ("0o100600", 4.0, 5.0)


@pytest.mark.parametrize(
    "change", ["chmod('f', 0o6755)", "mkdir('d'); os.chmod('d', 0o3777)", "utime('f', (-(2**40), -5))"]
)
def test_whatever_mode_and_time_a_guest_sets_travels(in_process: Executor, change: str) -> None:
    look = "{n: (oct(s.st_mode), s.st_atime, s.st_mtime) for n in os.listdir() for s in [os.stat(n)]}"
    with in_process.session() as session:
        seen = session.run(f"import os\nopen('f', 'w').close()\nos.{change}\n{look}").value
        assert seen
        with in_process.restore(session.snapshot()) as restored:
            assert restored.run(look).value == seen
        with session.fork() as branch:
            assert branch.run(look).value == seen


# -- the local time zone --------------------------------------------------------------------------------------------------------

LOCAL = """
import os, time
os.environ["TZ"] = zone
time.tzset()
seen = []
for t in times:
    at = time.localtime(t)
    seen.append((tuple(at)[:6], at.tm_isdst, at.tm_gmtoff, at.tm_zone, int(time.mktime(at)) == t))
seen
"""


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia", "Africa/Monrovia"]
)
def test_local_time_is_the_zones(in_process: Executor, zone: str) -> None:
    rules = zoneinfo.ZoneInfo(zone)
    chosen = random.Random(5)
    times = [chosen.randrange(-2 * _NS, 20 * _NS) for _ in range(60)]
    with in_process.session(variables={"zone": zone, "times": times}) as session:
        seen = session.run(LOCAL).value
    for second, (fields, summer, offset, name, back) in zip(times, seen, strict=True):
        at = datetime.datetime.fromtimestamp(second, rules)
        assert fields == tuple(at.timetuple())[:6] and back, second
        assert (offset, name) == (at.utcoffset().total_seconds(), at.tzname()), second  # type: ignore[union-attr]
        assert summer == bool(at.dst()), second


def test_zones_by_rule_and_unknown_ones(run: Run) -> None:
    code = """
import os, time
seen = []
for zone in ("EST5EDT,M3.2.0,M11.1.0", "<-03>3", ":Europe/Berlin", "Nowhere/At_All", "../../sandbox/f", "", "EST5EDT,M99.2.0"):
    os.environ["TZ"] = zone
    time.tzset()
    seen.append((time.tzname, time.timezone, time.altzone, time.daylight, time.localtime(1720000000).tm_hour))
del os.environ["TZ"]; time.tzset(); seen.append(time.tzname)
seen
"""
    utc = (("UTC", "UTC"), 0, 0, 0, 9)
    assert run(code).value == [
        (("EST", "EDT"), 18000, 14400, 1, 5),
        (("-03", "-03"), 10800, 10800, 0, 6),
        (("CET", "CEST"), -3600, -7200, 1, 11),
        utc,
        utc,
        utc,
        utc,
        ("UTC", "UTC"),
    ]


def test_the_hours_of_a_change(run: Run) -> None:
    code = """
import os, time, datetime
os.environ["TZ"] = "America/New_York"; time.tzset()
twice = [time.mktime((2024, 11, 3, 1, 30, 0, 0, 0, summer)) for summer in (1, 0, -1)]
never = [time.mktime((2024, 3, 10, 2, 30, 0, 0, 0, -1)), time.mktime((2024, 7, 1, 12, 0, 0, 0, 0, 0))]
(twice, never, str(datetime.datetime(2024, 7, 1, 12).astimezone()), time.strftime("%Z%z", time.localtime(0)), time.ctime(0))
"""
    assert run(code).value == (
        [1730611800.0, 1730615400.0, 1730611800.0],
        [1710055800.0, 1719853200.0],
        "2024-07-01 12:00:00-04:00",
        "EST-0500",
        "Wed Dec 31 19:00:00 1969",
    )


def test_the_zone_of_the_policy_is_there_from_the_start_and_travels() -> None:
    policy = Policy(env={"TZ": "Asia/Tokyo"})
    look = "import time, datetime\n(time.tzname, time.localtime(0).tm_hour, datetime.datetime.fromtimestamp(0).hour)"
    expected = (("JST", "JST"), 9, 9)
    with Executor(WasmBackend(policy, workers=0), policy=policy) as executor:
        with executor.session() as session:
            assert session.run(look).value == expected
            with session.fork() as branch:
                assert branch.run(look).value == expected
            image = session.snapshot()
        with executor.restore(image) as restored:
            assert restored.run(look).value == expected
        with executor.session(policy=Policy()) as other:
            assert other.run(look).value == (("UTC", "UTC"), 0, 0)


def test_a_table_that_a_guest_made_up_is_read_with_bounds() -> None:
    guest = Hostile()
    try:
        memory = guest.host.memory
        for address, size in (
            (SIZE - 10, 48),
            (SIZE, 24),
            (0xFFFFFFFF, 0xFFFFFFFF),
            (64, 24 * 30),
            (0, SIZE),
            (SIZE + 1, 0),
        ):
            memory.write(64, bytes(range(256)) * 10)
            memory.write(72, struct.pack("<2I", address, size))
            for seconds in (0, 2**31, 2**63 - 1, 2**63, 2**64 - 1):
                guest.call("_localtime_js", seconds & 0xFFFFFFFF, seconds >> 32, 4000)
            guest.call("_mktime_js", 4000)
            assert guest.host.failure is None
    finally:
        guest.close()


def test_a_year_beyond_the_table_is_like_one_in_it() -> None:
    for year in (2066, 2100, 2399, 2400, 9999):
        at = datetime.datetime(year, 5, 6, 7, 8, tzinfo=datetime.UTC)
        like = datetime.datetime.fromtimestamp(_like(int(at.timestamp())), datetime.UTC)
        assert like.year < 2066 and at.strftime("%m-%d %H:%M %a") == like.strftime("%m-%d %H:%M %a")
    assert _like(int(time.time())) == int(time.time())
