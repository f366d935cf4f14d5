"""Limits: what a guest may use up, and that the host goes on whatever it tries."""

from __future__ import annotations

import ctypes
import threading
import time
import tracemalloc

import pytest

from safeexec import Executor, Limits, Policy
from safeexec_backends.wasm import WasmBackend, limits
from safeexec_backends.wasm.limits import with_enough_stack
from tests.wasm.conftest import Run

CAUGHT = "\ntry:\n    go()\n    name = 'none'\nexcept BaseException as error:\n    name = type(error).__name__\nname"
DEEP = {
    "python": "def go():\n    go()",
    "repr": "x = []\nfor _ in range(100_000):\n    x = [x]\ngo = lambda: repr(x)",
    "json_dumps": "import json\nx = []\nfor _ in range(100_000):\n    x = [x]\ngo = lambda: json.dumps(x)",
    "json_loads": "import json\ngo = lambda: json.loads('[' * 200_000)",
    "eq": "import sys\nsys.setrecursionlimit(10**6)\nclass A:\n    def __eq__(s, o):\n        return [s] == [o]\ngo = lambda: A() == A()",
    "getattr": "import sys\nsys.setrecursionlimit(10**6)\nclass A:\n    def __getattr__(s, n):\n        return getattr(s, n + 'x')\ngo = lambda: A().q",
    "sort": "import sys\nsys.setrecursionlimit(10**6)\ndef go(x=1):\n    return sorted([x], key=go)",
    "isinstance": "x = int\nfor _ in range(100_000):\n    x = (x,)\ngo = lambda: isinstance(1, x)",
    "compile": "go = lambda: eval('a' + '.b' * 100_000)",
    "sum": "go = lambda: eval('+'.join(['1'] * 50_000))",
    "pickle": "import pickle\nx = []\nfor _ in range(100_000):\n    x = [x]\ngo = lambda: pickle.dumps(x)",
    "regex": "import re\ngo = lambda: re.compile('(' * 50_000 + ')' * 50_000)",
}


@pytest.mark.parametrize("what", DEEP)
def test_deep_recursion_is_an_exception(run: Run, what: str) -> None:
    result = run(DEEP[what] + CAUGHT)
    assert result.error is None, result.error
    assert result.value == "RecursionError"


def test_deep_parentheses_are_an_exception(run: Run) -> None:
    result = run("go = lambda: eval('-' * 100_000 + '1')" + CAUGHT)
    assert result.value == "MemoryError"


def test_deep_structures_are_freed(run: Run) -> None:
    assert run("x = None\nfor _ in range(1_000_000):\n    x = (x,)\ndel x\n'ok'").value == "ok"


def test_ordinary_recursion_reaches_cpythons_own_limit(run: Run) -> None:
    code = "import functools\n@functools.cache\ndef f(n):\n    return 0 if n == 0 else 1 + f(n - 1)\nf(450)"
    assert run(code).value == 450


def test_native_stack_overflow_ends_one_session(in_process: Executor) -> None:
    # Iterators nested in iterators: CPython itself does not count this recursion.
    with in_process.session() as other:
        result = in_process.run("x = iter([1])\nfor _ in range(300_000):\n    x = map(abs, x)\nnext(x)")
        assert result.error is not None and result.error.kind == "crash" and "stack" in result.error.message
        assert other.run("1 + 1").value == 2


def test_small_stack_of_the_calling_thread_is_not_overflowed(in_process: Executor) -> None:
    results = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: results.append(in_process.run(DEEP["json_loads"] + CAUGHT)))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert results[0].value == "RecursionError"


class _SignalStack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


class _Context(ctypes.Structure):
    """ucontext_t of aarch64 up to the machine's part (sys/ucontext.h), which lies on a boundary of 16 bytes."""

    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("link", ctypes.c_void_p),
        ("stack", _SignalStack),
        ("mask", ctypes.c_ubyte * 128),
    ]


class _Machine(ctypes.Structure):
    """mcontext_t of aarch64 (asm/sigcontext.h)."""

    _fields_ = [("fault_address", ctypes.c_uint64), ("regs", ctypes.c_uint64 * 31), ("sp", ctypes.c_uint64)]


def test_the_stack_pointer_of_aarch64_is_where_the_headers_say() -> None:
    machine = -(-ctypes.sizeof(_Context) // 16) * 16
    assert limits._STACK_POINTER["aarch64"] == machine + _Machine.sp.offset


@pytest.mark.skipif(not limits._stack.known, reason="n/a: a machine whose stack pointer is not read")
def test_what_is_left_of_a_threads_stack_is_known() -> None:
    size, left = 4 << 20, []

    def look(depth: int) -> int:
        left.append(limits._stack.left())
        return sorted([depth], key=lambda n: look(n - 1) if n else 0)[0]  # by way of C, which takes machine stack

    before = threading.stack_size(size)
    try:
        thread = threading.Thread(target=look, args=(20,))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    # The C library may give it the larger stack of a thread that has ended.
    assert size // 2 < left[0] < 1 << 30
    assert len(left) == 21 and left == sorted(set(left), reverse=True) and left[0] - left[-1] < 1 << 20


@pytest.mark.skipif(not limits._stack.known, reason="n/a: a machine whose stack pointer is not read")
def test_call_without_enough_stack_left_moves_to_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_enough_stack(threading.get_ident) == threading.get_ident()
    monkeypatch.setattr(limits, "NATIVE_STACK", 1 << 40)
    assert with_enough_stack(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        with_enough_stack(lambda: 1 // 0)


@pytest.mark.parametrize(
    "code",
    [
        "bytearray(1 << 30)",
        "x = []\nwhile True:\n    x.append(bytes(1 << 20))",
        "x = 'a'\nwhile True:\n    x += x",
        "x = {}\nwhile True:\n    x[len(x)] = [None] * 1000",
        *(f"x = {{}}\nwhile True:\n    x[len(x)] = [None] * {size}" for size in (10, 60, 300, 500, 800, 950, 4000)),
        "x = []\nwhile True:\n    x.append(object())",
        "x = ()\nwhile True:\n    x = (x, 'a' * 100)",
        "x = []\nwhile True:\n    x.append(type('T', (), {}))",
    ],
)
def test_memory_ends_in_memory_error(run: Run, code: str) -> None:
    result = run(code, memory=64 << 20, time=20)
    assert result.error is not None and result.error.kind == "memory"


def test_memory_error_can_be_caught_and_the_session_goes_on(in_process: Executor) -> None:
    policy = Policy(limits=Limits(memory=64 << 20))
    with in_process.session(policy=policy) as session:
        assert (
            session.run("try:\n    x = bytearray(1 << 30)\nexcept MemoryError:\n    x = 'caught'\nx").value == "caught"
        )
        result = session.run("len(bytearray(40 << 20))")
        assert result.value == 40 << 20
        # Beyond a fresh session, whose heap has some room already.
        assert 32 << 20 <= result.usage.peak_memory <= 64 << 20


@pytest.mark.parametrize("size", [200, 1500, 5000, 33_000, 70_000])
def test_a_step_after_one_that_left_the_memory_full_can_make_room(in_process: Executor, size: int) -> None:
    """There is room to compile it; whoever catches a MemoryError with all that led to it is not stuck with it."""
    policy = Policy(limits=Limits(memory=48 << 20))
    full = f"x = []\ntry:\n    while True:\n        x.append(bytes({size}))\nexcept MemoryError:\n    raise ValueError('full')"
    with in_process.session(policy=policy) as session:
        for _ in range(2):
            result = session.run(full)
            assert result.error is not None and result.error.message == "full"
            assert session.run("x = None\n1 + 1").value == 2


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass",
        "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
        "9 ** 9 ** 9",
        "import time\ntime.sleep(100)",
        "import time\nwhile True:\n    try:\n        time.sleep(1)\n    except KeyboardInterrupt:\n        pass",
        "sum(range(10 ** 11))",
        "import asyncio\nawait asyncio.sleep(100)",
        "import os\nwhile True:\n    os.urandom(1 << 20)",
        "import select\nselect.select([], [], [], 100)",
    ],
)
def test_time_ends_everything(run: Run, code: str) -> None:
    started = time.monotonic()
    result = run(code, time=0.3)
    assert result.error is not None and result.error.kind == "time"
    assert time.monotonic() - started < 20, "a hundred seconds and more, if nothing had ended it"


@pytest.mark.parametrize(
    "wait", ["while True:\n        pass", "import time; time.sleep(10)", "import asyncio; await asyncio.sleep(10)"]
)
def test_interrupt_lets_the_guest_clean_up(run: Run, wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "safeexec.step.GRACE", 10.0
    )  # of a busy machine, which may not come to it in a tenth of a second
    result = run(f"try:\n    {wait}\nfinally:\n    print('clean')", time=0.3)
    assert result.error is not None and result.error.kind == "time"
    assert result.stdout == "clean\n"


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("open('big', 'wb').write(bytes(3 << 20))", "File too large"),
        ("for n in range(9):\n    open(f'f{n}', 'wb').write(bytes(300_000))", "No space left"),
        ("for n in range(100_000):\n    open(f'f{n}', 'w').close()", "No space left"),
        ("x = [open('f', 'w') for _ in range(1000)]", "Too many open files"),
        ("import os\nf = open('f', 'wb')\nos.ftruncate(f.fileno(), 1 << 40)", "File too large"),
        ("f = open('f', 'wb')\nf.seek(1 << 40)\nf.write(b'x')\nf.flush()", "File too large"),
    ],
)
def test_disk_quota(run: Run, code: str, what: str) -> None:
    result = run(code, disk=2 << 20, time=20)
    assert result.error is not None and result.error.type == "OSError" and what in result.error.message


def test_deleted_files_give_their_space_back(run: Run) -> None:
    code = "import os\nfor _ in range(20):\n    open('f', 'wb').write(bytes(1 << 20))\n    os.remove('f')\n'ok'"
    assert run(code, disk=2 << 20).value == "ok"


def test_sessions_run_side_by_side_in_threads(in_process: Executor) -> None:
    failures: list[object] = []

    def work(number: int) -> None:
        with in_process.session() as session:
            for step in range(10):
                result = session.run(f"x = {number} * 1000 + {step}\nprint(x)\nx")
                if result.value != number * 1000 + step or result.stdout != f"{result.value}\n":
                    failures.append(result)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_reading_a_large_folder_many_times_costs_the_host_one_listing(in_process: Executor) -> None:
    code = """
import os
for n in range(4000):
    open(f"f{n}", "w").close()
seen = []
for n in range(200):
    fd = os.open(".", os.O_RDONLY)
    os.symlink("x", f"link{n}")  # every listing would differ
    seen.append(next(os.scandir(fd)).name)
len(seen)
"""
    policy = Policy(limits=Limits(time=30))
    with in_process.session(policy=policy) as session:
        tracemalloc.start()
        try:
            assert session.run(code).value == 200
            assert tracemalloc.get_traced_memory()[1] < 30 << 20
        finally:
            tracemalloc.stop()


def test_names_removed_while_a_folder_is_read_hide_no_others(run: Run) -> None:
    code = """
import os
for n in range(100):
    open(f"f{n:03}", "w").close()
seen = []
for entry in os.scandir("."):
    seen.append(entry.name)
    os.remove(entry.name)
(len(seen), os.listdir("."))
"""
    assert run(code).value == (100, [])


def test_links_count_towards_the_disk(run: Run) -> None:
    result = run("import os\nfor n in range(10_000):\n    os.symlink('x' * 4000, f'l{n}')", disk=1 << 20)
    assert result.error is not None and "No space left" in result.error.message


def test_backend_closed_by_a_tool_of_the_running_step() -> None:
    backend = WasmBackend(Policy(), workers=0)
    executor = Executor(backend)

    def close() -> None:
        backend.close()

    result = executor.session(tools=[close]).run("close()\n1")
    assert result.error is not None and result.error.kind == "crash"
    executor.close()
