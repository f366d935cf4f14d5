"""What a zygote does, when nobody wants anything, for the pages that its cells copy."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from safeexec import Executor, Policy
from safeexec.testing.base import eventually
from safeexec_backends.local.settling import _REHEARSALS, Settling, immortal_count

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="n/a: zygotes are Linux's")

IMMORTALS = immortal_count()
needs_immortals = pytest.mark.skipif(not IMMORTALS, reason="n/a: before 3.12 every object is counted")

PROGRAM = """
import argparse, collections, dataclasses, decimal, enum, gc, json, os, re, resource, sys, typing, weakref
from safeexec_backends.local.settling import immortalise

@dataclasses.dataclass
class Point:
    x: int
    y: list = dataclasses.field(default_factory=list)

def use():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=3)
    assert parser.parse_args(["--n", "4"]).n == 4
    assert re.sub(r"(\\w)b", r"\\1c", "ab abb") == "ac acb" and json.loads(json.dumps({"a": [1, None]})) == {"a": [1, None]}
    assert decimal.Decimal("0.1") + 1 == decimal.Decimal("1.1")
    assert enum.Enum("E", "a b").b.value == 2 and Point(1) == Point(1, [])
    assert list(zip([1, 2], enumerate("ab"))) == [(1, (0, "a")), (2, (1, "b"))]
    assert typing.get_type_hints(Point)["x"] is int
    gone = []
    weakref.finalize(Point(2), gone.append, 1)
    class Ring: pass
    ring = Ring(); ring.self = ring
    weakref.finalize(ring, gone.append, 2)
    del ring
    gc.collect()
    assert gone == [1, 2], gone
    try:
        collections.namedtuple("T", "a a")
    except ValueError as error:
        assert error.__traceback__ is not None

def faults():
    "Page faults of a copy that uses all that."
    gc.collect()
    gc.freeze()
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            use()
            os.write(writer, b"%d" % (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return int(os.read(reader, 100))

for _ in range(20):
    use()
before = faults()
turns = sum(1 for _ in immortalise())
counted = sys.getrefcount(json.loads)
others = [json.loads] * 100
assert sys.getrefcount(json.loads) - counted == (0 if IMMORTAL else 100)
assert sum(1 for _ in immortalise()) <= turns  # and again
print(before, faults(), turns)
use()
"""


def test_copies_of_a_process_of_immortals_copy_fewer_pages() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("IMMORTAL", str(IMMORTALS))],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    before, after, turns = map(int, done.stdout.split())
    if IMMORTALS:
        assert after < before * 0.8 and turns > 3
    else:
        assert turns == 0


def test_what_was_imported_later_is_settled_later() -> None:
    rehearsed: list[int] = []
    settling = Settling(lambda: rehearsed.append(1))
    # In a process of its own it would go on to the objects; here nothing must become immortal.
    for generation in (3, 5):
        for _ in range(_REHEARSALS):
            assert settling.one(generation)
        settling._work = iter(())
        assert settling.one(generation) and not settling.one(generation)
    assert len(rehearsed) == 2 * _REHEARSALS and settling.times == 2


@needs_immortals
def test_sessions_of_a_settled_zygote_run_programs() -> None:
    with Executor("local", policy=Policy(rollback="never")) as executor:

        def settled() -> bool:
            with executor.session() as session:
                return bool(session.run("import sys\nsys.getrefcount(sorted)").value == IMMORTALS)

        paused = threading.Event()
        assert eventually(lambda: settled() or paused.wait(0.1), 60)
        with executor.session() as session:
            assert session.run(
                "class A:\n    pass\nimport gc, weakref\na = A()\nw = weakref.ref(a)\ndel a\nw() is None"
            ).value
            assert session.run("import sys\nx = []\ny = [x] * 10\nsys.getrefcount(x) < 20").value
            assert session.run("import json, re\njson.loads('[1]'), re.findall('b', 'abb')").value == ([1], ["b", "b"])
            assert session.run("1 / 0").error.type == "ZeroDivisionError"  # type: ignore[union-attr]
