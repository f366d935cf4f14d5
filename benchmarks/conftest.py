"""Options of the benchmarks. Run: ``pytest benchmarks --sandbox local --benchmark-columns median,iqr,rounds``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import safeexec


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sandbox", default="local", help="which sandbox to measure")
    parser.addoption(
        "--rollback", choices=("limits", "errors", "never"), help="Policy.rollback; by default the sandbox's own"
    )
    parser.addoption("--workers", type=int, help="of wasm; 0 is in this process")


@pytest.fixture(scope="session")
def executor(request: pytest.FixtureRequest) -> Iterator[safeexec.Executor]:
    limits = safeexec.Limits(time=60, wall=600, tool_calls=None, value=32 * 2**20, output=2**24)
    policy = safeexec.Policy(limits=limits, rollback=request.config.getoption("--rollback"))
    workers = request.config.getoption("--workers")
    options = {} if workers is None else {"workers": workers}
    with safeexec.Executor(request.config.getoption("--sandbox"), policy=policy, **options) as executor:
        executor.run("1 + 1").raise_for_error()
        yield executor
