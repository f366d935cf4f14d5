"""What Pyodide's library lacks, or has for JavaScript only, and programs expect all the same."""

from __future__ import annotations

import hashlib
import time

import pytest

from safeexec import Executor, Limits, Policy
from tests.wasm.conftest import Run


@pytest.mark.parametrize(
    ("name", "password", "salt", "iterations", "length"),
    [
        ("sha256", b"secret", b"salt", 1000, None),
        ("SHA256", b"", b"", 1, None),
        ("sha512", b"p" * 200, b"s" * 99, 7, 150),  # a password longer than a block, a key of several
        ("sha1", b"\0\xff", b"\0", 2, 20),
        ("md5", b"p", b"s", 3, 1),
        ("sha3_256", b"p" * 136, b"s", 2, 64),
        ("blake2b", b"\0\xff" * 100, bytes(range(70)), 7, 200),
        ("blake2s", b"p" * 65, b"s", 3, None),
    ],
)
def test_keys_are_derived_as_openssl_does(
    run: Run, name: str, password: bytes, salt: bytes, iterations: int, length: int | None
) -> None:
    result = run(f"import hashlib\nhashlib.pbkdf2_hmac({name!r}, {password!r}, {salt!r}, {iterations}, dklen={length})")
    known = {"blake2b": "blake2b512", "blake2s": "blake2s256", "sha3_256": "sha3-256"}.get(
        name, name.lower()
    )  # OpenSSL's names
    assert result.value == hashlib.pbkdf2_hmac(known, password, salt, iterations, length)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("'sha256', 'text', b'', 1", "TypeError"),
        ("b'sha256', b'', b'', 1", "TypeError"),
        ("'sha256', b'', b'', 1.0", "TypeError"),
        ("'sha256', b'', b'', 0", "ValueError"),
        ("'sha256', b'', b'', 1, 0", "ValueError"),
        ("'none', b'', b'', 1", "ValueError"),
        ("'shake_128', b'', b'', 1", "ValueError"),
    ],
)
def test_what_cannot_be_derived_is_refused(run: Run, arguments: str, error: str) -> None:
    result = run(f"import hashlib\nhashlib.pbkdf2_hmac({arguments})")
    assert result.error is not None and result.error.type == error


def test_deriving_a_key_ends_with_its_step() -> None:
    started = time.monotonic()
    with Executor("wasm", policy=Policy(limits=Limits(time=0.3))) as executor:
        result = executor.run("import hashlib\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10**12)")
    assert result.error is not None and result.error.kind == "time"
    assert time.monotonic() - started < 60


def test_shelves_and_databases(run: Run) -> None:
    code = """
import dbm, shelve
seen = []
with shelve.open("shelf") as shelf:
    shelf["a"] = {"k": [1, (2, None)]}
with shelve.open("shelf", flag="r") as shelf:
    seen.append((dict(shelf), "b" in shelf, len(shelf)))
with dbm.open("data", "c") as data:
    data["k"] = "v"; data[b"\\xff\\0"] = b"\\0"; data["n"] = "1"; data["n"] = "2"; del data["k"]
    seen.append(sorted(data.keys())); seen.append(data.setdefault("x", b"y"))
for flag, act in (("r", lambda d: d.__setitem__("a", "b")), ("w", lambda d: d["gone"]), ("w", lambda d: d.pop("gone"))):
    with dbm.open("data", flag) as data:
        try:
            act(data)
        except (*dbm.error, KeyError) as error:
            seen.append(type(error).__name__)
try:
    data["n"]
except dbm.error as error:
    seen.append(str(error))
with dbm.open("data", "n") as data:
    seen.append(len(data))
open("text", "w").write("no database")
seen.append([dbm.whichdb(name) for name in ("data", "text", "nothing")])
for name in ("text", "nothing"):
    try:
        dbm.open(name)
    except dbm.error as error:
        seen.append(type(error) is dbm.error[0])
import os
seen.append(sorted(os.listdir()))
seen
"""
    assert run(code).value == [
        ({"a": {"k": [1, (2, None)]}}, False, 1),
        [b"n", b"\xff\0"],
        b"y",
        "error",
        "KeyError",
        "KeyError",
        "DBM object has already been closed",
        0,
        ["dbm.sqlite3", "", None],
        True,
        True,
        ["data", "shelf", "text"],
    ]


def test_the_only_user_has_a_name(run: Run) -> None:
    code = """
import getpass, grp, os, pathlib, pwd
here = pathlib.Path("a"); here.touch()
user = pwd.getpwuid(os.getuid())
try:
    pwd.getpwnam("root")
except KeyError as error:
    missing = error.args[0]
(getpass.getuser(), here.owner(), here.group(), user.pw_dir == os.getcwd(), grp.getgrgid(user.pw_gid).gr_name, missing)
"""
    assert run(code).value == ("sandbox", "sandbox", "sandbox", True, "sandbox", "getpwnam(): name not found: 'root'")


def test_there_is_no_browser_and_no_error(run: Run) -> None:
    code = "import webbrowser, antigravity\n(webbrowser.open('https://example.com'), issubclass(webbrowser.Error, Exception))"
    assert run(code).value == (False, True)


def test_the_one_thread_has_a_clock(run: Run) -> None:
    code = "import time\nstart = time.thread_time()\nsum(range(10**6))\n(time.thread_time() > start, time.thread_time_ns() > 0)"
    assert run(code).value == (True, True)


def test_clocks_are_described_and_add_up(run: Run) -> None:
    code = """
import os, time
info = time.get_clock_info("thread_time")
spent = os.times()
(info.monotonic, info == time.get_clock_info("process_time"), 0 < spent.user <= time.process_time(), spent.elapsed > 0)
"""
    assert run(code).value == (True, True, True, True)
    result = run("import time\ntime.get_clock_info('none')")
    assert result.error is not None and result.error.type == "ValueError"


def test_added_functions_are_their_modules(run: Run) -> None:
    code = """
import os, pickle, time
added = [os.utime, os.times, os.getlogin, os.system, os.sched_getaffinity, time.get_clock_info, time.tzset]
([f"{f.__module__}.{f.__name__}" for f in added], [pickle.loads(pickle.dumps(f)) is f for f in added], os.utime in os.supports_fd)
"""
    names = [
        "os.utime",
        "os.times",
        "os.getlogin",
        "os.system",
        "os.sched_getaffinity",
        "time.get_clock_info",
        "time.tzset",
    ]
    assert run(code).value == (names, [True] * 7, True)


def test_a_command_is_refused_as_a_process_is(run: Run) -> None:
    """Not answered with a number that looks like a command's own failure, or that nobody looks at."""
    for call in ("os.system('ls')", "subprocess.run(['ls'])"):
        error = run(f"import os, subprocess\n{call}").error
        assert error is not None and error.type == "OSError"
        assert "process" in error.message or "program" in error.message
    error = run("import os\nos.system(5)").error
    assert error is not None and error.type == "TypeError"


def test_what_a_program_uses_can_be_asked(run: Run) -> None:
    code = """
import os, resource
before = resource.getrusage(resource.RUSAGE_SELF)
data = bytearray(20 << 20)
after = resource.getrusage(resource.RUSAGE_SELF)
limit = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, limit)
errors = []
for act in (
    lambda: resource.getrusage(5), lambda: resource.getrlimit(99), lambda: resource.setrlimit(resource.RLIMIT_AS, (1, 1)),
):
    try:
        act()
    except (ValueError, OSError) as error:
        errors.append(type(error).__name__)
(
    10 << 10 < after.ru_maxrss - before.ru_maxrss < 25 << 10, after.ru_utime >= before.ru_utime > 0, len(after), limit[0] > 64 << 20,
    resource.getpagesize() == os.sysconf("SC_PAGESIZE"), errors, os.getlogin(), os.sched_getaffinity(0),
)
"""
    assert run(code).value == (
        True, True, 16, True, True, ["ValueError", "ValueError", "PermissionError"], "sandbox", {0},
    )  # fmt: skip


def test_ctypes_looks_at_its_own_memory(run: Run) -> None:
    code = """
import ctypes
here, there = ctypes.create_string_buffer(b"hello", 10), ctypes.create_string_buffer(10)
ctypes.memmove(there, here, 4)
ctypes.memset(ctypes.addressof(there) + 1, 65, 1)
numbers = (ctypes.c_int * 3)(1, 2, 3)
(
    there.value, ctypes.string_at(here, 3), ctypes.wstring_at(ctypes.create_unicode_buffer("ab")),
    ctypes.cast(numbers, ctypes.POINTER(ctypes.c_int))[2],
)
"""
    assert run(code).value == (b"hAll", b"hel", "ab", 3)


@pytest.mark.parametrize(
    "function",
    [
        "F(lambda x: x)",
        "F(0)",
        "F(1)",
        "F(2**31)",
        "F(2**32 - 1)",
        "ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(7)",
    ],
)
def test_a_foreign_function_is_an_error_and_no_end(in_process: Executor, function: str) -> None:
    with in_process.session() as session:
        session.run("import ctypes\nF = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)")
        result = session.run(
            f"try:\n    ({function})(3)\nexcept SystemError as error:\n    said = repr(error.__cause__)\nsaid"
        )
        assert result.value == "NotImplementedError('there are no foreign functions in this sandbox')"
        assert session.run("1 + 1").value == 2


def test_devices_without_an_end_have_a_place(run: Run) -> None:
    code = """
import io, os
seen = []
with open(os.devnull, "a") as file:
    seen.append((file.write("text"), file.seek(0, io.SEEK_END), file.tell()))
with open("/dev/zero", "rb") as file:
    seen.append((file.read(3), file.seekable()))
try:
    os.lseek(1, 0, 0)
except OSError as error:
    seen.append(error.strerror)
seen
"""
    assert run(code).value == [(4, 0, 0), (b"\0\0\0", True), "Illegal seek"]


def test_input_reads_what_the_program_puts_there(run: Run) -> None:
    code = """
import io, sys
from unittest import mock
sys.stdin = io.StringIO("5\\nlast")
seen = [int(input("number? ")), input()]
try:
    input()
except EOFError as error:
    seen.append(str(error))
with mock.patch("sys.stdin", io.StringIO("inner\\n")):
    seen.append(input())
sys.stdin = sys.__stdin__
try:
    input()
except RuntimeError as error:
    seen.append(str(error)[:24])
seen
"""
    result = run(code)
    assert result.value == [5, "last", "EOF when reading a line", "inner", "input() is not available"]
    assert result.stdout == "number? "
