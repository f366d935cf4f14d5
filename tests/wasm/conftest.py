"""Executors shared by the tests of the wasm sandbox: the image is loaded once, sessions are fresh per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from safeexec import Executor, Limits, Policy, Result, Snapshot
from safeexec_backends.wasm import WasmBackend
from safeexec_backends.wasm.backend import own_runtime
from safeexec_backends.wasm.instance import Runtime

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


@pytest.fixture(scope="module")
def workers() -> Iterator[Executor]:
    """Guests in one worker."""
    with Executor(WasmBackend(Policy(), workers=1)) as executor:
        yield executor


@pytest.fixture(params=["in_process", "workers"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Both ways."""
    found: Executor = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def image(in_process: Executor) -> Snapshot:
    """A snapshot of a session with files, a link and an open file."""
    with in_process.session() as session:
        session.run(
            "import os\nx = [1]\nopen('a', 'w').write('text')\nos.mkdir('d')\nopen('d/b', 'wb').write(bytes(5000))\n"
            "os.symlink('a', 'link')\nf = open('a')"
        )
        return session.snapshot()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """This process's, without instances that sessions before have left to be used again."""
    runtime = own_runtime()
    runtime.spares.close()
    yield runtime
    runtime.spares.close()
