"""What holds for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from typing import TypeVar

import pytest

STRICT = os.environ.get("SAFEEXEC_STRICT") == "1"
"""Set in CI: there, a test that is skipped because a wall, a daemon or an interpreter is missing fails instead."""
NOT_APPLICABLE = ("n/a:", "declared deviation:")
"""Begin the reason of a skip that stands in CI too: the test is for another system or mode, or the sandbox declares that it deviates."""

Report = TypeVar("Report", bound=pytest.TestReport | pytest.CollectReport)


def _no_silent_skip(report: Report) -> Report:
    if STRICT and report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(NOT_APPLICABLE):
            report.outcome = "failed"
            report.longrepr = f"skipped, which SAFEEXEC_STRICT=1 does not allow: {reason}"
    return report


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_looked_at_again() -> None:
    """A collection costs what a module's own tests made, not what seven thousand tests and their imports hold: that is a second each."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _no_silent_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _no_silent_skip((yield))
