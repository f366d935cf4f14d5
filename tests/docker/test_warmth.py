"""Pages that are copied ahead of the step that writes to them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest

from safeexec import Executor
from safeexec.testing.base import eventually
from safeexec_backends.docker import warmth

PAGE = os.sysconf("SC_PAGE_SIZE")


def exclusive(process: str, pages: list[int]) -> list[int]:
    """Those of the process's pages that nobody else has."""
    with open(f"/proc/{process}/pagemap", "rb", 0) as file:
        found = []
        for page in pages:
            file.seek(page // PAGE * 8)
            if int.from_bytes(file.read(8), sys.byteorder) & warmth._EXCLUSIVE == warmth._EXCLUSIVE:
                found.append(page)
        return found


ALONE = """
import ctypes, mmap, os, signal
from safeexec_backends.docker import warmth
from tests.docker.test_warmth import PAGE, exclusive
memory = mmap.mmap(-1, 192 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
memory[:] = bytes(range(256)) * (len(memory) // 256)
pages = [first + n * PAGE for n in range(192)]
def copied():
    pid = os.fork()
    while pid == 0:
        signal.pause()
    return pid
def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
one = copied()
for n in (3, 4, 5, 40):
    memory[n * PAGE] = 255
for n in range(50, 150):
    memory[n * PAGE] = 255
heat = warmth.Warmth()
heat.learn()
written = exclusive("self", pages)
assert len(written) == 104
two = copied()
end(one)
before = exclusive("self", pages)
assert heat.touch()
after = exclusive("self", pages)
assert before == [], before
assert after == [pages[n] for n in (3, 4, 5, 40)], "not what is a row of data"
memory.madvise(mmap.MADV_DONTNEED)
assert heat.touch()
assert memory[3 * PAGE] == 0, "nothing is written"
end(two)
print("done")
"""


def test_what_was_written_to_is_copied_ahead_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout == "done\n", done.stderr


def test_where_something_else_is_mapped_by_now_nothing_is_touched() -> None:
    pages = [n * PAGE for n in (1, 2, 3, 7, 8, 20, 30)]
    assert warmth._ranges(pages, [(2 * PAGE, 8 * PAGE), (9 * PAGE, 21 * PAGE)]) == [
        (2 * PAGE, 2 * PAGE), (7 * PAGE, PAGE), (20 * PAGE, PAGE),
    ]  # fmt: skip
    assert warmth._ranges(pages, []) == [] and warmth._ranges([], [(0, PAGE)]) == []


def test_a_session_that_is_left_alone_has_the_pages_of_its_next_step() -> None:
    with Executor("docker") as executor, executor.session() as session:
        for _ in range(6):
            session.run("1")
        look = "import gc\npast = next(o for o in gc.get_objects() if type(o).__name__ == 'Past')\npast._warmth._pages"
        pages = session.run(look).value
        assert len(pages) > 50
        guest: Any = session._guest
        runner = max(
            int(row[1]) for row in guest._client.api.top(guest.id, ps_args="-eo user,pid,args")["Processes"][:3]
        )
        assert eventually(lambda: len(exclusive(str(runner), pages)) > len(pages) * 0.9)


def test_a_kernel_that_does_not_know_how_is_asked_once() -> None:
    with Executor("docker") as executor, executor.session() as session:
        ask = "import gc, sys\nsys.modules['safeexec_warmth']._POPULATE_WRITE = 4242\npast = next(o for o in gc.get_objects() if type(o).__name__ == 'Past')"
        for _ in range(4):
            session.run(ask)
        assert eventually(lambda: session.run("past._warmth").value is None)
        assert session.run("import os\nos._exit(1)").rolled_back


def test_pages_of_another_size_are_counted_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of aarch64 have pages of 4, 16 or 64 KiB."""
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 16)
    names = ("past", "warmth")
    fresh = {}
    for name in names:
        spec = importlib.util.find_spec(f"safeexec_backends.docker.{name}")
        assert spec is not None and spec.loader is not None
        fresh[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fresh[name])
    monkeypatch.setattr(fresh["past"], "warmth", fresh["warmth"])
    monkeypatch.setattr(fresh["past"].copies, "read", lambda path: b"100 50 20 1 0 60 0\n")
    assert fresh["past"]._held() == 30 << 16
    assert fresh["warmth"]._ranges([1 << 16, 2 << 16, 4 << 16], [(0, 1 << 64)]) == [
        (1 << 16, 2 << 16),
        (4 << 16, 1 << 16),
    ]
