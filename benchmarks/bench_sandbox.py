"""What a sandbox costs: a session, a step, a tool call, bytes across, and computing."""

from __future__ import annotations

import ast
import math
import statistics
import time
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import safeexec
from benchmarks.floors import echo
from benchmarks.programs import COMPUTE, PUBLISHED


def test_fresh_session_and_first_result(benchmark: BenchmarkFixture, executor: safeexec.Executor) -> None:
    """From nothing to the value of ``1 + 1``, and gone again."""
    result = benchmark.pedantic(executor.run, ("1 + 1",), rounds=200, warmup_rounds=10)
    assert result.value == 2


def test_fresh_session(benchmark: BenchmarkFixture, executor: safeexec.Executor) -> None:
    """A session that waits for its first step; closing it is not counted."""
    made: list[safeexec.Session] = []

    def close_last() -> None:
        while made:
            made.pop().close()

    benchmark.pedantic(lambda: made.append(executor.session()), setup=close_last, rounds=200, warmup_rounds=10)
    close_last()


def test_bare_round_trip(benchmark: BenchmarkFixture) -> None:
    """The baseline of a step: 100 bytes to a forked process and back. A virtual machine whose processors fall asleep pays for it here too."""
    with echo() as there:

        def trip() -> int:
            there.sendall(b"x" * 100)
            return len(there.recv(65536))

        assert benchmark.pedantic(trip, rounds=5000, warmup_rounds=200) == 100


def test_warm_step(benchmark: BenchmarkFixture, executor: safeexec.Executor) -> None:
    with executor.session() as session:
        assert benchmark.pedantic(session.run, ("1 + 1",), rounds=5000, warmup_rounds=200).value == 2


def test_tool_call(benchmark: BenchmarkFixture, executor: safeexec.Executor) -> None:
    """A call from inside to the host and back; the figure is of 100 calls."""

    def add(a: int, b: int) -> int:
        return a + b

    with executor.session(tools=[add]) as session:
        result = benchmark.pedantic(
            session.run, ("for i in range(100):\n    total = add(i, 1)\ntotal",), rounds=60, warmup_rounds=5
        )
        assert result.value == 100
    benchmark.extra_info["us_per_call"] = benchmark.stats.stats.median / 100 * 1e6


@pytest.mark.parametrize("direction", ["in", "out"])
def test_ten_megabytes(benchmark: BenchmarkFixture, executor: safeexec.Executor, direction: str) -> None:
    data = bytes(range(256)) * 39_063
    with executor.session(variables={"data": data}) as session:
        if direction == "in":
            benchmark.pedantic(session.variables.__setitem__, ("data", data), rounds=40, warmup_rounds=3)
            assert session.run("len(data)").value == len(data)
        else:
            assert len(benchmark.pedantic(session.run, ("data",), rounds=40, warmup_rounds=3).value) == len(data)


def test_compute(benchmark: BenchmarkFixture, executor: safeexec.Executor) -> None:
    """Ratios to plain ``exec`` in this process, interleaved so that both see the same machine."""
    ratios: dict[str, float] = {}
    with executor.session() as session:

        def measure() -> None:
            for name, source in COMPUTE.items():
                inside, outside = [], []
                for _ in range(7):
                    expected, seconds = _native(source)
                    outside.append(seconds)
                    started = time.perf_counter()
                    result = session.run(source).raise_for_error()
                    inside.append(time.perf_counter() - started)
                    assert result.value == expected, name
                ratios[name] = statistics.median(inside) / statistics.median(outside)

        benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info["ratios"] = {name: round(ratio, 3) for name, ratio in ratios.items()}
    mean = math.exp(statistics.fmean(math.log(ratios[name]) for name in PUBLISHED))
    benchmark.extra_info["geometric_mean"] = round(mean, 3)
    print(f"\ncompute against exec(): geometric mean {mean:.2f}  {benchmark.extra_info['ratios']}")


def _native(source: str) -> tuple[Any, float]:
    tree = ast.parse(source)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    started = time.perf_counter()
    body, value = compile(tree, "<native>", "exec"), compile(ast.Expression(last.value), "<native>", "eval")
    namespace: dict[str, Any] = {}
    exec(body, namespace)
    found = eval(value, namespace)
    return found, time.perf_counter() - started
