"""The conformance suite on cells: with both walls, and with the language wall off, to see what the operating system's owe by themselves."""

from __future__ import annotations

import sys

import pytest

from safeexec import Policy
from safeexec.testing import conformance

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="n/a: these walls are Linux's")

OFF = dict.fromkeys(
    (
        "test_imports_restrict",
        "test_own_files_are_imported_under_the_same_rule",
        "test_policy_of_a_session_replaces_the_executors",
    ),
    "the language wall is off",
)

TestBothWalls = conformance(
    "local", capabilities=("rollback", "fork"), modules=("numpy", "pandas", "PIL", "matplotlib")
)
TestFullPython = conformance(
    "local",
    capabilities=("rollback", "fork"),
    policy=Policy(imports="*"),
    modules=("numpy", "pandas", "PIL", "matplotlib"),
    deviations=OFF,
    _language="full",
)
TestWithoutMountNamespace = pytest.mark.slow(
    conformance("local", policy=Policy(imports="*"), deviations=OFF, _language="full", _deny=["mount_namespace"])
)
