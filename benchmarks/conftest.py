"""Options of the benchmarks. Run: ``pytest benchmarks --sandbox local --benchmark-columns median,iqr,rounds``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import safeexec


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sandbox", default="local", help="which sandbox to measure")


@pytest.fixture(scope="session")
def executor(request: pytest.FixtureRequest) -> Iterator[safeexec.Executor]:
    limits = safeexec.Limits(time=60, wall=600, tool_calls=None, value=32 * 2**20, output=2**24)
    with safeexec.Executor(request.config.getoption("--sandbox"), policy=safeexec.Policy(limits=limits)) as executor:
        executor.run("1 + 1").raise_for_error()
        yield executor
