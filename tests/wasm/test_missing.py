"""What needs a second process, a thread, a network or OpenSSL: refused, with a text that says why and what to do instead."""

from __future__ import annotations

import time

import pytest

from safeexec import Executor
from tests.wasm.conftest import Run

_ONE = "one process with one thread"
_PROGRAM = "no program can be started"
_HOST = "Policy.network"


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("os.fork()", "OSError", _ONE),
        ("os.pipe()", "OSError", _ONE),
        ("os.execv('/bin/ls', ['ls'])", "OSError", _PROGRAM),
        ("os.execlp('ls', 'ls')", "OSError", _PROGRAM),
        ("os.spawnl(os.P_WAIT, '/bin/ls', 'ls')", "OSError", _ONE),
        ("os.popen('ls')", "OSError", _PROGRAM),
        ("os.wait()", "ChildProcessError", "No child processes"),
        ("os.posix_spawn('/bin/ls', ['ls'], {})", "AttributeError", _PROGRAM),
        ("import subprocess; subprocess.Popen(['ls'])", "OSError", _PROGRAM),
        ("import subprocess; subprocess.check_output('ls', shell=True)", "OSError", _PROGRAM),
        ("import asyncio; await asyncio.create_subprocess_exec('ls')", "OSError", _PROGRAM),
        ("import multiprocessing; multiprocessing.Process(target=print).start()", "OSError", _ONE),
        ("import multiprocessing; multiprocessing.Pool(2)", "OSError", _ONE),
        ("import multiprocessing; multiprocessing.Lock()", "OSError", _ONE),
        ("from multiprocessing.pool import ThreadPool; ThreadPool(2)", "OSError", _ONE),
        ("from multiprocessing.shared_memory import SharedMemory; SharedMemory(create=True, size=9)", "OSError", _ONE),
        ("from concurrent.futures import ProcessPoolExecutor as P; P()", "OSError", _ONE),
        ("import socket; socket.socket()", "OSError", _HOST),
        ("import socket; socket.socketpair()", "OSError", _ONE),
        ("import socket; socket.gethostbyname('example.com')", "gaierror", _HOST),
        ("import urllib.request; urllib.request.urlopen('http://example.com')", "URLError", _HOST),
        ("import asyncio; await asyncio.start_server(print, '127.0.0.1', 0)", "OSError", _HOST),
        ("import asyncio; await asyncio.open_connection('127.0.0.1', 80)", "OSError", _HOST),
        ("import hashlib; hashlib.scrypt(b'a', salt=b'b', n=2, r=1, p=1)", "AttributeError", "pbkdf2_hmac"),
        ("import select; select.epoll()", "AttributeError", "asyncio"),
        ("os.link('a', 'b')", "AttributeError", "os.symlink"),
        ("os.sendfile(1, 2, 0, 3)", "AttributeError", "shutil.copyfileobj"),
        ("os.mkfifo('a')", "AttributeError", "files, directories"),
        ("import dbm.gnu", "ModuleNotFoundError", "this sandbox's Python is without it"),
        ("import pdb; pdb.set_trace()", "RuntimeError", "print what you want to see"),
        ("import pdb; pdb.run('1 + 1')", "RuntimeError", "print what you want to see"),
    ],
)
def test_what_is_missing_says_so(run: Run, code: str, kind: str, says: str) -> None:
    error = run(f"import os\n{code}").error
    assert error is not None and (error.kind, error.type) == ("exception", kind) and says in error.message


@pytest.mark.parametrize("code", ["os.fork()", "os.pipe()", "__import__('socket').socket()"])
def test_the_number_is_that_of_a_call_that_is_not_there(run: Run, code: str) -> None:
    """Libraries go by it."""
    asked = (
        f"import errno, os\ntry:\n    {code}\nexcept OSError as error:\n    found = error.errno == errno.ENOSYS\nfound"
    )
    assert run(asked).value is True


def test_whoever_asks_what_is_there_gets_the_truth(run: Run) -> None:
    """Libraries choose another way by it."""
    code = """
import hashlib, os, select
try:
    from os import link
except ImportError:
    said = True
(hasattr(os, "link"), hasattr(os, "sendfile"), hasattr(hashlib, "scrypt"), hasattr(select, "epoll"), said, hasattr(os, "none_such"))
"""
    assert run(code).value == (False, False, False, False, True, False)


def test_a_debugger_obeys_the_input_that_a_program_gives_it(run: Run) -> None:
    code = """
import io, pdb, sys
sys.stdin = io.StringIO("p 6 * 7\\nc\\n")
out = io.StringIO()
pdb.Pdb(stdin=sys.stdin, stdout=out).run("x = 1")
"42" in out.getvalue()
"""
    assert run(code).value is True


def test_a_pause_ends_with_the_alarm(in_process: Executor) -> None:
    code = """
import signal, time
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.1)
before = time.monotonic()
signal.pause()
(seen, time.monotonic() - before >= 0.09)
"""
    started = time.monotonic()
    with in_process.session() as session:
        assert session.run(code).value == ([1], True)
    assert time.monotonic() - started < 60
