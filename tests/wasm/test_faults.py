"""Which pages a session wrote to is asked of the kernel only when its thread had page faults; what is left out must never be missed."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading

import pytest

from safeexec import Executor, Policy
from safeexec_backends.wasm.backend import WasmBackend
from safeexec_backends.wasm.faults import Faults
from safeexec_backends.wasm.instance import WasmGuest
from safeexec_backends.wasm.pages import PAGE, finder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="n/a: only Linux tells which pages were written to")

STEPS = (
    "1 + 1",
    "x = list(range(20000))",
    "1 + 1",
    "x.append(1)",
    "y = bytearray(3 << 20)",
    "y[::4096] = bytes(len(y[::4096]))",
    "import sqlite3\nd = sqlite3.connect(':memory:')\nd.execute('create table t (n)')",
    "del x, y\nimport gc\ngc.collect()",
    "def f(n):\n    return n and f(n - 1)\nf(800)",
    "open('a', 'w').write('x' * 100000)\nopen('a').read() == 1",
    "import random\nrandom.random()",
    "1 / 0",
)


def guests() -> list[WasmGuest]:
    return [item for item in gc.get_objects() if isinstance(item, WasmGuest) and not item._closed]


def inside(run: tuple[int, int], runs: list[tuple[int, int]]) -> bool:
    return any(start <= run[0] and run[1] <= end for start, end in runs)


def test_every_page_the_kernel_calls_written_is_known_after_every_step() -> None:
    if not finder.ready():
        pytest.skip("n/a: this kernel does not tell which pages were written to")
    looks = 0
    with Executor(WasmBackend(Policy(), workers=0)) as executor:
        for _ in range(3):  # the later ones in an instance that was used before
            with executor.session() as session:
                (guest,) = guests()
                for number, code in enumerate(STEPS * 2 + ("1 + 1",) * 30):  # the last need no page of their own
                    if number % 5 == 4:  # a thread of its own has a count of its own
                        thread = threading.Thread(target=session.run, args=(code,))
                        thread.start()
                        thread.join()
                    else:
                        session.run(code)
                    memory, watched = guest._host.memory, guest._host.instance.written
                    memory.refresh()
                    looks += not watched.faults
                    known = watched.find(memory.address(), memory.size)
                    assert inside((0, PAGE), known)
                    for run in finder.written(memory.address(), memory.size):
                        assert inside(run, known), (code, run)
    assert looks > 10, "no step at all went without page faults: the count is of no use"


def test_pages_that_the_kernel_gathers_into_a_huge_one_are_not_missed() -> None:
    """What `khugepaged` does where huge pages are `always`, asked for here: pages are there that nobody touched, and are written to without a fault."""
    huge = 2 << 20
    madvise = ctypes.CDLL(None).madvise
    with Executor(WasmBackend(Policy(), workers=0)) as executor, executor.session() as session:
        session.run("import ctypes")
        (guest,) = guests()
        memory, watched = guest._host.memory, guest._host.instance.written
        assert memory.grow(3 * huge // 65536)
        block = (memory.size - huge) // huge * huge
        page = block + huge // 2
        for _ in range(100):  # until a step has no fault at all, and nothing would be looked for again
            assert session.run(f"ctypes.memset({block}, 1, 4) and None").ok
            if watched.looked and not watched.faults:
                break
        assert not inside((page, page + PAGE), watched.find(memory.address(), memory.size))
        madvise(ctypes.c_void_p(memory.address() + block), ctypes.c_size_t(huge), 25)  # MADV_COLLAPSE
        assert session.run(f"ctypes.memset({page}, 7, 4) and None").ok
        with session.fork() as branch:
            assert branch.run(f"ctypes.string_at({page}, 4)").value == b"\x07" * 4
        assert inside((page, page + PAGE), watched.find(memory.address(), memory.size))


def test_an_interrupt_from_another_thread_is_taken_back_with_its_page() -> None:
    with Executor(WasmBackend(Policy(), workers=0)) as executor, executor.session() as session:
        session.run("x = 1")
        for _ in range(5):
            timer = threading.Timer(0.05, session.interrupt)
            timer.start()
            result = session.run("x = 2\nwhile True: pass")
            timer.join()
            assert result.rolled_back
            assert session.run("x").value == 1


def test_a_kernel_that_counts_nothing_is_not_believed() -> None:
    broken = Faults(count=lambda: 7)
    assert len({broken.count() for _ in range(10)}) == 10


def test_a_write_to_a_fresh_page_is_counted() -> None:
    counter = Faults()
    before = counter.count()
    data = bytearray(64 << 20)
    data[::4096] = bytes(len(data[::4096]))
    assert counter.count() > before
