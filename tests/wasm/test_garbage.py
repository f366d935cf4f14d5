"""Collecting garbage: what is alive is not gone through again and again, and what is not does not fill the memory."""

from __future__ import annotations

import pytest

from safeexec import Executor, Limits, Policy

TIMED = """
import gc, time
def timed():
    start = time.process_time()
    exec(CODE, {})
    return time.process_time() - start
with_it = timed()
gc.disable()
without = timed()
gc.enable()
with_it, without
"""


@pytest.mark.parametrize(
    "code",
    [
        "d = {}\nfor i in range(150_000):\n    d[i] = {'a': [i]}",
        "x = []\nfor i in range(400_000):\n    x.append([])",
    ],
)
def test_a_large_container_is_filled_about_as_fast_as_without_a_collector(in_process: Executor, code: str) -> None:
    """Measured within one step: CPython's own way takes ten to forty times as long."""
    with in_process.session(policy=Policy(limits=Limits(memory=512 << 20, time=60))) as session:
        result = session.run(f"CODE = {code!r}\n" + TIMED)
        assert result.error is None, result.error
        with_it, without = result.value
        assert with_it < 6 * without, (with_it, without)


CYCLES = {
    "pairs": "class N:\n    pass\nfor i in range(200_000):\n    a = N(); b = N(); a.o = b; b.o = a",
    "large ones": "class N:\n    pass\nfor i in range(50_000):\n    a = N(); a.o = a; a.p = bytes(2000)",
    "rings": (
        "class N:\n    pass\ndef ring(n):\n    nodes = [N() for _ in range(n)]\n"
        "    for i, node in enumerate(nodes):\n        node.next = nodes[(i + 1) % n]; node.d = bytes(100)\n    return nodes[0]\n"
        "keep = None\nfor i in range(60):\n    keep = ring(10_000)"
    ),
    "exceptions": (
        "def f():\n    try:\n        raise ValueError(bytes(10_000))\n    except ValueError as error:\n        kept = [error]\n"
        "for i in range(20_000):\n    f()"
    ),
}


@pytest.mark.parametrize("name", CYCLES)
def test_cycles_that_nobody_holds_do_not_fill_the_memory(in_process: Executor, name: str) -> None:
    result = in_process.run(CYCLES[name], policy=Policy(limits=Limits(memory=48 << 20, time=60)))
    assert result.error is None, result.error


def test_a_program_that_turns_the_collector_off_has_it_off(in_process: Executor) -> None:
    code = (
        "import gc, weakref\ngc.disable()\nclass N:\n    pass\na = N(); a.o = a\nr = weakref.ref(a)\ndel a\n"
        "x = [bytes(1000) for _ in range(30_000)]\nr() is not None, gc.collect() > 0, r() is None, gc.isenabled()"
    )
    policy = Policy(limits=Limits(memory=128 << 20))
    assert in_process.run(code, policy=policy).value == (True, True, True, False)


def test_a_fresh_session_collects_nothing_of_the_image(executor: Executor) -> None:
    assert executor.run("import gc\ngc.get_freeze_count() < 100, len(gc.get_objects()) < 1000").value == (True, True)
