from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from safeexec import Executor, Result, Session
from tests.examples.programs import PROGRAMS, SANDBOXES


@dataclass
class Run:
    """A program run step by step in one session, which is still open."""

    results: list[Result]
    session: Session

    @property
    def stdout(self) -> str:
        return "".join(result.stdout for result in self.results)

    @property
    def values(self) -> list[object]:
        return [result.value for result in self.results]


@pytest.fixture(params=SANDBOXES)
def run_steps(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Run]]:
    """Runs a program in the sandbox, one step per cell; a step that fails fails the test."""
    opened: list[Executor] = []

    def run(name: str) -> Run:
        program = PROGRAMS[name]
        executor = Executor(request.param, policy=program.policy())
        opened.append(executor)
        session = executor.session()
        results = []
        for step in program.steps():
            result = session.run(step)
            assert result.ok, (result.error and result.error.traceback) or result.error
            results.append(result)
        return Run(results, session)

    yield run
    for executor in opened:
        executor.close()
