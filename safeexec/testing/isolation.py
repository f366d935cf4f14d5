"""Judged by effect: nothing of the host or of another session is read, changed or reached."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from safeexec.testing.base import Base

POISON: list[tuple[str, str, object]] = [
    ("import json; json.dumps = lambda *a, **k: 'poisoned'", "import json; json.dumps(1)", "1"),
    ("import builtins; builtins.len = lambda x: 'poisoned'", "len([1])", 1),
    ("import math; math.pi = 'poisoned'", "import math; math.floor(math.pi)", 3),
    ("import sys; sys.modules['csv'] = 'poisoned'", "import csv; hasattr(csv, 'reader')", True),
    ("import collections; collections.OrderedDict.poison = 1", "import collections; hasattr(collections.OrderedDict, 'poison')", False),
    ("import os; os.environ['POISON'] = '1'", "import os; os.environ.get('POISON')", None),
    ("import random; random.seed(1); random.random = None", "import random; 0 <= random.random() < 1", True),
    ("import decimal; decimal.getcontext().prec = 3", "import decimal; decimal.getcontext().prec", 28),
    ("import sys; sys.setrecursionlimit(50)", "def f(n):\n    return n and f(n - 1)\nf(150)", 0),
]  # fmt: skip
"""What one session does, what another one asks, and what it must hear."""


class Isolation(Base):
    def test_sessions_share_no_names(self) -> None:
        with self.session() as one, self.session() as two:
            one.run("secret = 'canary-one'")
            error = two.run("secret").error
            assert error is not None and error.type == "NameError"
            assert one.run("secret").value == "canary-one"

    def test_sessions_share_no_files(self) -> None:
        with self.session() as one, self.session() as two:
            one.run("with open('mine.txt', 'w') as f:\n    _ = f.write('canary-one')")
            assert [f.name for f in one.files.list()] == ["mine.txt"]
            assert two.files.list() == ()
            assert two.run("open('mine.txt').read()").error is not None
        with self.session() as three:
            assert three.files.list() == ()

    def test_sessions_share_no_temporary_files(self) -> None:
        path = Path("/tmp") / f"safeexec-{uuid4()}"  # another run's file must not be taken for this one's
        try:
            with self.session() as one, self.session() as two:
                write = f"with open({str(path)!r}, 'w') as f:\n        _ = f.write('canary-tmp')"
                one.run(f"try:\n    {write}\nexcept OSError:\n    pass")
                result = two.run(f"open({str(path)!r}).read()")
                assert result.error is not None and result.value is None
            assert not path.exists()
        finally:
            path.unlink(missing_ok=True)  # of a sandbox that does not pass

    def test_sessions_do_not_poison_each_other(self) -> None:
        with self.session() as live:
            for poison, _, _ in POISON:
                self.run(poison)
            with self.session() as later:
                for poison, probe, expected in POISON:
                    assert live.run(probe).value == expected, poison
                    assert later.run(probe).value == expected, poison

    def test_sessions_draw_different_random_numbers(self) -> None:
        code = "import random, secrets, uuid\n(random.random(), secrets.token_hex(8), str(uuid.uuid4()), hash('x'))"
        draws = [self.value(code) for _ in range(3)]
        for position in range(3):
            assert len({d[position] for d in draws}) == 3

    def test_environment_of_the_host_does_not_leak(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SAFEEXEC_CONFORMANCE_CANARY", "canary-environment")
        code = "import os\nfound = repr(dict(os.environ))\ntry:\n    found += open('/proc/self/environ').read()\nexcept Exception:\n    pass\nfound"
        with self.make() as executor:
            result = executor.run(code)
            assert result.error is not None or "canary-environment" not in result.value

    def test_host_file_is_not_read(self, tmp_path: Path) -> None:
        canary = tmp_path / "canary.txt"
        canary.write_text("canary-host-file")
        for folder in (tmp_path, *tmp_path.parents):
            if folder == Path("/tmp") or folder == Path("/"):
                break
            folder.chmod(0o755)
        code = f"""
found = []
import os
def attempt(f):
    try:
        found.append(repr(f()))
    except Exception as e:
        found.append(type(e).__name__)
path = {str(canary)!r}
attempt(lambda: open(path).read())
attempt(lambda: os.listdir(os.path.dirname(path)))
attempt(lambda: os.symlink(path, 'link'))
attempt(lambda: open('link').read())
attempt(lambda: os.link(path, 'hard'))
attempt(lambda: open('hard').read())
attempt(lambda: open('/proc/1/root' + path).read())
attempt(lambda: open('../' * 30 + path[1:]).read())
import pathlib, shutil
attempt(lambda: pathlib.Path(path).read_text())
attempt(lambda: shutil.copy(path, 'copied') and open('copied').read())
attempt(lambda: shutil.copytree(os.path.dirname(path), 'tree') and open('tree/canary.txt').read())
found
"""
        with self.session() as session:
            result = session.run(code)
            assert "canary-host-file" not in repr(result), result.value
            if not session.closed:
                for info in session.files.list():
                    assert b"canary-host-file" not in session.files.read(info.name)
        assert canary.read_text() == "canary-host-file"

    def test_host_file_is_not_written(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        marker = tmp_path / "marker"
        code = f"""
import os
path = {str(marker)!r}
def attempt(f):
    try:
        f()
    except Exception:
        pass
def write(p):
    with open(p, 'w') as f:
        f.write('x')
attempt(lambda: write(path))
attempt(lambda: os.mkdir(path))
attempt(lambda: os.symlink(os.path.dirname(path), 'dir'))
attempt(lambda: write('dir/marker'))
attempt(lambda: write('../' * 30 + path[1:]))
attempt(lambda: write('/proc/1/root' + path))
import pathlib, shutil
attempt(lambda: pathlib.Path(path).write_text('x'))
attempt(lambda: write('mine') or shutil.move('mine', path))
import sqlite3
attempt(lambda: sqlite3.connect(path).execute('create table t (a)'))
"""
        self.run(code)
        assert list(tmp_path.iterdir()) == []

    def test_no_program_of_the_host_is_started(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        marker = tmp_path / "marker"
        code = f"""
def attempt(f):
    try:
        f()
    except Exception:
        pass
def system():
    import os
    os.system('touch {marker}')
def popen():
    import subprocess
    subprocess.run(['touch', {str(marker)!r}])
def spawn():
    import os
    os.spawnlp(os.P_WAIT, 'touch', 'touch', {str(marker)!r})
for f in (system, popen, spawn):
    attempt(f)
"""
        self.run(code)
        assert not marker.exists()

    def test_network_is_not_reached(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.0)
            port = server.getsockname()[1]
            code = f"""
def attempt(f):
    try:
        f()
    except Exception:
        pass
def raw():
    import socket
    socket.create_connection(('127.0.0.1', {port}), 1)
def http():
    import urllib.request
    urllib.request.urlopen('http://127.0.0.1:{port}/', timeout=1)
def loop():
    import asyncio
    asyncio.run(asyncio.wait_for(asyncio.open_connection('127.0.0.1', {port}), 1))
for f in (raw, http, loop):
    attempt(f)
"""
            self.run(code, time=15)
            with pytest.raises(BlockingIOError):
                server.accept()

    def test_process_of_the_host_is_not_signalled(self) -> None:
        victim = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        try:
            self.run(f"import os, signal\nos.kill({victim.pid}, 9)")
        finally:
            victim.communicate()  # it ends by itself now, unless it was ended
        assert victim.returncode == 0

    def test_host_state_is_unchanged(self) -> None:
        before = (os.getcwd(), dict(os.environ), sys.getrecursionlimit(), list(sys.path))
        self.run(
            "import os, sys\nfor f in (lambda: os.chdir('/'), lambda: os.environ.clear(), lambda: sys.setrecursionlimit(77), lambda: sys.path.clear()):\n    try:\n        f()\n    except Exception:\n        pass"
        )
        assert (os.getcwd(), dict(os.environ), sys.getrecursionlimit(), list(sys.path)) == before

    def test_isolation_is_reported(self) -> None:
        walls = self.executor.isolation
        assert walls
        for name, wall in walls.items():
            assert isinstance(name, str) and isinstance(wall.active, bool) and isinstance(wall.reason, str)
            assert wall.active or wall.reason, f"{name} does not stand and does not say why"
