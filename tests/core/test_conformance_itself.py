"""The suite must be able to fail, and must not hide what it leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from safeexec import Executor, Policy
from safeexec.testing import conformance, same
from tests.support.plain import PlainBackend, PlainGuest

SUBJECT = "from safeexec.testing import conformance\nfrom tests.core.test_conformance_itself import {made}\nTestIt = conformance({made})\n"


class Forgetful(PlainBackend):
    """Ignores the policy."""

    def start(self, policy: Policy) -> Any:
        return PlainGuest(policy.replace(limits=Policy().limits))


class Silent(PlainBackend):
    """Says nothing about its walls."""

    isolation = {}  # noqa: RUF012


def outcomes(pytester_: pytest.Pytester, made: str, select: str) -> dict[str, int]:
    pytester_.makepyfile(SUBJECT.format(made=made))
    counted: dict[str, int] = pytester_.runpytest_inprocess(
        "-q", "-p", "no:cacheprovider", "-k", select
    ).parseoutcomes()
    return counted


pytest_plugins = ["pytester"]


BROKEN_WORDS = (
    "test_memory_ends_one_large_block", "test_disk_is_capped_in_one_file", "test_processes_are_capped", "test_imports_restrict",
    "test_packages_are_there_or_refused", "test_require_of_an_unknown_wall_is_refused", "test_host_file_is_not_read",
    "test_host_file_is_not_written", "test_no_program_of_the_host_is_started", "test_network_is_not_reached",
    "test_process_of_the_host_is_not_signalled", "test_sessions_share_no_temporary_files",
)  # fmt: skip


def test_sandbox_that_breaks_its_word_fails(pytester: pytest.Pytester) -> None:
    assert outcomes(pytester, "Forgetful", " or ".join(BROKEN_WORDS))["failed"] == len(BROKEN_WORDS)


def test_sandbox_that_reports_no_walls_fails(pytester: pytest.Pytester) -> None:
    assert outcomes(pytester, "Silent", "test_isolation_is_reported")["failed"] == 1


def test_deviation_is_a_visible_skip() -> None:
    suite = conformance(PlainBackend, deviations={"test_fork": "a reason"})
    with pytest.raises(pytest.skip.Exception, match="declared deviation: a reason"):
        suite().setup_method(suite.test_fork)  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [{"deviations": {"test_no_such": "r"}}, {"deviations": {"make": "r"}}, {"deviations": {"test_fork": " "}}, {"capabilities": ("teleport",)}], ids=str)  # fmt: skip
def test_declarations_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        conformance(PlainBackend, **wrong)


def test_same_tells_types_signs_and_nan_apart() -> None:
    assert same([float("nan"), (1, {"a": {2}})], [float("nan"), (1, {"a": {2}})])
    for left, right in (
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ([1], (1,)),
        ({1}, frozenset({1})),
        ({"a": 1}, {"a": True}),
        ("a", b"a"),
        ([1, 2], [1]),
    ):
        assert not same(left, right)


def test_name_or_callable_both_make_an_executor() -> None:
    for suite in (conformance(PlainBackend), conformance(lambda policy, **options: PlainBackend(policy, **options))):
        with suite.make() as executor:  # type: ignore[attr-defined]
            assert isinstance(executor, Executor) and executor.run("1").value == 1
