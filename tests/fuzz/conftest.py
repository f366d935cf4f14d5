"""What the tests of the harness share."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safeexec_fuzz import audit, cases, targets

Run = Callable[..., dict[str, audit.Verdict]]

if sys.platform != "linux":
    pytest.skip("n/a: the harness needs Linux", allow_module_level=True)


@pytest.fixture
def run() -> Run:
    """Run cases, named by id or given, against a target; id to verdict."""

    def go(
        target: targets.Target, *chosen: str | cases.Case, jobs: int = 2, **limits: float
    ) -> dict[str, audit.Verdict]:
        known = {c.id: c for c in cases.load()}
        outcome = audit.run(target, [known[c] if isinstance(c, str) else c for c in chosen], jobs=jobs, limits=limits)
        assert not outcome.broken, outcome.broken
        return {v.case.id: v for v in outcome.verdicts}

    return go


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for the harness to use it, which that of `tmp_path` need not be."""
    with tempfile.TemporaryDirectory(prefix="g-", dir="/tmp") as folder:
        yield Path(folder)


def children() -> set[str]:
    """Command lines of the processes below this one."""
    from safeexec_fuzz import processes

    return {processes.command(pid) for pid in processes.descendants(os.getpid())} - {""}
