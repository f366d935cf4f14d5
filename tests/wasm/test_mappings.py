"""Files mapped into memory, and what becomes of a mapping whose file was closed."""

from __future__ import annotations

import pytest

from safeexec import Executor
from tests.wasm.conftest import Run
from tests.wasm.hostile_guest import Hostile

WRITE = """
import mmap, os
open("a", "wb").write(b"first text"); open("b", "wb").write(b"another one")
file = open("a", "r+b"); view = mmap.mmap(file.fileno(), 0); number = file.fileno(); file.close()
other = open("b", "r+b")
view[:5] = b"FIRST"
"""
SEEN = "(open('a', 'rb').read(), open('b', 'rb').read(), other.fileno() == number)"


@pytest.mark.parametrize("end", ["view.flush()", "view.close()", "del view"])
def test_a_mapping_is_written_to_its_own_file(run: Run, end: str) -> None:
    assert run(f"{WRITE}\n{end}\n{SEEN}").value == (b"FIRST text", b"another one", True)


def test_mappings_do_not_use_descriptors_up(run: Run) -> None:
    code = f"""{WRITE}
for n in range(400):
    with open("a", "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as more:
            more[0:1] = b"x"
held = []
with open("a", "r+b") as file:
    for n in range(200):
        held.append(mmap.mmap(file.fileno(), 0))
for view in held: view.close()
low = os.open("a", os.O_RDONLY)
(open("a", "rb").read()[:2], low < 20)
"""
    assert run(code).value == (b"xi", True)


def test_a_mapping_goes_along_with_its_session(in_process: Executor) -> None:
    with in_process.session() as session:
        session.run(WRITE)
        with session.fork() as branch:
            assert branch.run(f"view.close()\n{SEEN}").value == (b"FIRST text", b"another one", True)
        with in_process.restore(session.snapshot()) as restored:
            assert restored.run(f"view.flush()\n{SEEN}").value == (b"FIRST text", b"another one", True)
        assert session.run(SEEN).value == (b"first text", b"another one", True)


def test_a_mapping_that_a_guest_made_up() -> None:
    guest = Hostile()
    try:
        for address in (0, 4096, 65536 - 4, 0xFFFFFFF0):
            for length in (0, 1, 65536, 0xFFFFFFFF):
                guest.call("_msync_js", address, length, 3, 1, 99, 0, 0)
                guest.call("_munmap_js", address, length, 3, 1, 99, 0, 0)
        assert guest.host.failure is None and guest.host.files.files.keys() >= {3, 4, 5}
    finally:
        guest.close()
