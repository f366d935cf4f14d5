"""Executors shared by the tests of the wasm sandbox: the image is loaded once, sessions are fresh per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from safeexec import Executor, Limits, Policy, Result
from safeexec_backends.wasm import WasmBackend

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def in_process() -> Iterator[Executor]:
    """Guests in this process."""
    with Executor(WasmBackend(Policy(), workers=0)) as executor:
        yield executor


@pytest.fixture
def run(in_process: Executor) -> Run:
    """Run code in a fresh sandbox with the limits given as keywords."""

    def go(code: str, **limits: float) -> Result:
        return in_process.run(code, policy=Policy(limits=Limits(**limits)))  # type: ignore[arg-type]

    return go
