"""What programs find inside: a complete CPython, fresh, in UTC, without the outside."""

from __future__ import annotations

import pytest

from safeexec import Executor
from tests.wasm.conftest import Run

FILES = """
import mmap, os, pathlib, shutil, sqlite3, tempfile, zipfile
seen = []
path = pathlib.Path("a/b"); path.mkdir(parents=True); (path / "c.txt").write_text("hello")
seen.append(sorted(map(str, pathlib.Path(".").rglob("*"))))
shutil.copytree("a", "z"); shutil.move("z", "y"); seen.append(os.listdir("y/b")); shutil.rmtree("y")
with tempfile.NamedTemporaryFile() as file:
    file.write(b"1"); file.flush(); seen.append(os.stat(file.name).st_size)
db = sqlite3.connect("t.db"); db.execute("create table t(a)")
db.executemany("insert into t values(?)", [(i,) for i in range(100)]); db.commit(); db.close()
seen.append(sqlite3.connect("t.db").execute("select sum(a) from t").fetchone())
with zipfile.ZipFile("q.zip", "w") as archive:
    archive.writestr("n", "data")
seen.append(zipfile.ZipFile("q.zip").read("n"))
os.symlink("q.zip", "link"); seen.append((os.readlink("link"), os.path.realpath("link"), os.path.islink("link")))
gone = open("gone", "w+"); os.unlink("gone"); gone.write("x" * 10); gone.seek(0); seen.append((gone.read(), os.path.exists("gone")))
with open("sparse", "wb") as file:
    file.seek(100_000); file.write(b"e")
seen.append(os.path.getsize("sparse")); os.truncate("sparse", 5)
with open("sparse", "r+b") as file:
    view = mmap.mmap(file.fileno(), 0); view[0:2] = b"ab"; view.flush(); view.close()
seen.append(open("sparse", "rb").read())
os.rename("a", "d"); seen.append(os.path.exists("d/b/c.txt"))
os.chmod("sparse", 0o600); seen.append(oct(os.stat("sparse").st_mode))
os.utime("sparse", (1, 2)); seen.append(os.stat("sparse").st_mtime)
descriptor = os.open("d", os.O_RDONLY); seen.append(os.listdir(descriptor)); os.close(descriptor)
seen
"""


def test_files_behave_as_the_library_expects(run: Run) -> None:
    assert run(FILES).value == [
        ["a", "a/b", "a/b/c.txt"],
        ["c.txt"],
        1,
        (4950,),
        b"data",
        ("q.zip", "/sandbox/q.zip", True),
        ("x" * 10, False),
        100_001,
        b"ab\0\0\0",
        True,
        "0o100600",
        2.0,
        ["b"],
    ]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("open('/lib/new', 'w')", "OSError"),
        ("import os; os.remove('/lib/python314.zip')", "OSError"),
        ("import os; os.rename('/lib', '/old')", "OSError"),
        ("import os; os.mkdir('a'); os.rename('a', 'a/b')", "OSError"),
        ("import os; os.rmdir('/sandbox')", "OSError"),
        ("import os; os.symlink('x', 'x'); open('x')", "OSError"),
        ("open('a' * 256, 'w')", "OSError"),
        ("open('/dev/nothing', 'w').write('x'); open('/proc/self/maps')", "FileNotFoundError"),
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("import js", "ModuleNotFoundError"),
        ("import pyodide_js", "ModuleNotFoundError"),
        ("import _pyodide_core", "ModuleNotFoundError"),
        ("import _testcapi", "ModuleNotFoundError"),
        ("import threading; threading.Thread(target=print).start()", "RuntimeError"),
        ("import subprocess; subprocess.run(['ls'])", "OSError"),
        ("import os; os.fork()", "OSError"),
        ("import socket; socket.socket()", "OSError"),
        ("import socket; socket.getaddrinfo('example.com', 80)", "gaierror"),
        ("input()", "EOFError"),
        ("import asyncio; await asyncio.get_running_loop().create_future()", "RuntimeError"),
    ],
)
def test_what_is_not_there_says_so_as_python_does(run: Run, code: str, error: str) -> None:
    result = run(code)
    assert result.error is not None
    assert (result.error.kind, result.error.type) == ("exception", error)


def test_a_thread_that_cannot_start_says_what_to_do(run: Run) -> None:
    result = run("from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor().submit(abs, 1)")
    assert result.error is not None
    assert result.error.message.startswith("can't start new thread: this sandbox has none; ")


def test_what_asyncio_gives_to_threads_runs_in_its_loop(run: Run) -> None:
    code = """
import asyncio, contextvars, functools
from concurrent.futures import ThreadPoolExecutor
name = contextvars.ContextVar("name")
seen = []
def work(n):
    seen.append(n)
    return n * n, name.get()
def fail():
    raise LookupError("no")
async def main():
    name.set("mine")
    loop = asyncio.get_running_loop()
    found = [await asyncio.to_thread(work, 3)]
    found += await asyncio.gather(asyncio.to_thread(work, 4), asyncio.sleep(0, "beside"))
    name.set("other")
    with ThreadPoolExecutor() as pool:
        found.append(await loop.run_in_executor(pool, functools.partial(len, "four")))
    for attempt in (asyncio.to_thread(fail), loop.run_in_executor(None, fail)):
        try:
            await attempt
        except LookupError as error:
            found.append(str(error))
    late = loop.run_in_executor(None, seen.append, "never")
    late.cancel()
    await asyncio.sleep(0)
    try:
        loop.run_in_executor(pool, len, "")
    except RuntimeError as error:
        found.append(str(error))
    return found, seen
await main()
"""
    assert run(code).value == (
        [(9, "mine"), (16, "mine"), "beside", 4, "no", "no", "cannot schedule new futures after shutdown"],
        [3, 4],
    )


def test_a_name_that_asyncio_looks_up_is_not_found(run: Run) -> None:
    result = run("import asyncio\nawait asyncio.open_connection('example.com', 80)")
    assert result.error is not None and result.error.type == "gaierror"


def test_help_is_there(run: Run) -> None:
    result = run("def f(x):\n    'What f does.'\nhelp(f)\nhelp(len)\nhelp()")
    assert result.error is None
    assert result.stdout.startswith("Help on function f in module __main__:\n\nf(x)\n")
    assert "What f does." in result.stdout and "len(obj, /)" in result.stdout
    assert result.stdout.endswith("help(object) describes an object.\n")


@pytest.mark.parametrize(
    "code", ["import os; os._exit(3)", "import os; os.abort()", "import ctypes; ctypes.string_at(0xFFFFFFF0)"]
)
def test_what_ends_the_interpreter_ends_the_session_alone(in_process: Executor, code: str) -> None:
    with in_process.session() as other:
        other.run("x = 1")
        result = in_process.run(code)
        assert result.error is not None and result.error.kind == "crash"
        assert other.run("x").value == 1


def test_every_sandbox_draws_its_own_random_numbers(run: Run) -> None:
    code = "import random, secrets, uuid, tempfile\n(random.random(), secrets.token_hex(8), str(uuid.uuid4()), tempfile.mktemp())"
    drawn = [run(code).value for _ in range(4)]
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == 4


def test_time_is_utc_and_zones_are_known(run: Run) -> None:
    code = """
import datetime, time, zoneinfo
summer = datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
(time.tzname, time.timezone, summer.utcoffset().total_seconds(), time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, 0)),
 time.localtime(951782400)[:8], str(datetime.datetime.fromtimestamp(-2208988800)))
"""
    assert run(code).value == (
        ("UTC", "UTC"), 0, 7200.0, 1767225600.0, (2000, 2, 29, 0, 0, 0, 1, 60), "1900-01-01 00:00:00",
    )  # fmt: skip


def test_an_unknown_zone_is_not_there(run: Run) -> None:
    error = run("import zoneinfo\nzoneinfo.ZoneInfo('No/Where')").error
    assert error is not None and error.type == "ZoneInfoNotFoundError"
    assert error.message == "'No time zone found with key No/Where'"


def test_the_event_loop_is_made_when_it_is_asked_for(run: Run) -> None:
    code = """
import asyncio
async def answer(): return 42
loop = asyncio.get_event_loop()
first = loop.run_until_complete(answer()), asyncio.get_event_loop() is loop
first + (asyncio.run(answer()), asyncio.get_event_loop().run_until_complete(answer()))
"""
    assert run(code).value == (42, True, 42, 42)


def test_sleep_takes_its_time_and_no_processor(run: Run) -> None:
    result = run("import time\nstart = time.monotonic()\ntime.sleep(0.2)\ntime.monotonic() - start")
    assert 0.2 <= result.value
    assert result.usage.cpu_time < 0.1


def test_asyncio_runs_tasks_side_by_side(run: Run) -> None:
    code = """
import asyncio
begun, seen = [], []
async def wait(n):
    begun.append(n)
    await asyncio.sleep(0.1)
    seen.append(len(begun))
    return n
found = await asyncio.gather(*map(wait, range(5)))
(found, seen)
"""
    assert run(code).value == ([0, 1, 2, 3, 4], [5] * 5)
    assert (
        run("import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    return 5\nasyncio.run(main())").value
        == 5
    )


def test_nothing_of_the_host_is_in_the_environment(run: Run) -> None:
    assert run("import os\ndict(os.environ)").value == {"HOME": "/sandbox", "LANG": "C.UTF-8", "TZ": "UTC"}


@pytest.mark.parametrize(
    "module", ["sqlite3", "ssl", "ctypes", "lzma", "bz2", "decimal", "xml.etree.ElementTree", "tomllib"]
)
def test_the_library_is_complete(run: Run, module: str) -> None:
    assert run(f"import {module}").error is None


def test_raw_output_arrives_in_order(run: Run) -> None:
    assert run("import os\nprint(1)\nos.write(1, b'2\\n')\nprint(3)").stdout == "1\n2\n3\n"


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("import requests", "Policy(packages=('requests',))"),
        ("import requests.sessions", "Policy(packages=('requests',))"),
        ("from PIL import Image", "Policy(packages=('pillow',))"),
        ("import tkinter", "this sandbox's Python is without it"),
        ("import os.nothing", "'os' is not a package"),
        ("raise ModuleNotFoundError('mine')", "mine"),
    ],
)
def test_a_missing_module_says_what_to_do(run: Run, code: str, hint: str) -> None:
    error = run(code).error
    assert error is not None and error.type == "ModuleNotFoundError" and hint in error.message
    assert error.message.count("No module") == (hint != "mine")
