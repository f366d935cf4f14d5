"""The conformance suite: what every sandbox owes its users, as tests.

One line in a test file runs all of it against a backend::

    from safeexec.testing import conformance

    TestMine = conformance("mine")

Needs pytest; nothing else of safeexec imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest

_TOPICS = (
    "values", "errors", "streaming", "state", "tools", "limits", "files", "displays", "isolation", "hostile",
    "cancellation", "fields", "asynchronous", "lifecycle", "capabilities",
)  # fmt: skip

# Before they are imported: an assertion that fails must show its operands here as in any test file.
pytest.register_assert_rewrite("safeexec.testing.base", *(f"safeexec.testing.{topic}" for topic in _TOPICS))

from safeexec.backend import Backend  # noqa: E402
from safeexec.policy import Policy  # noqa: E402
from safeexec.testing.asynchronous import Asynchronous  # noqa: E402
from safeexec.testing.base import Base, same  # noqa: E402
from safeexec.testing.cancellation import Cancellation  # noqa: E402
from safeexec.testing.capabilities import Capabilities  # noqa: E402
from safeexec.testing.displays import Displays  # noqa: E402
from safeexec.testing.errors import Errors  # noqa: E402
from safeexec.testing.fields import Fields  # noqa: E402
from safeexec.testing.files import FileTests  # noqa: E402
from safeexec.testing.hostile import Hostile  # noqa: E402
from safeexec.testing.isolation import Isolation  # noqa: E402
from safeexec.testing.lifecycle import Lifecycle  # noqa: E402
from safeexec.testing.limits import LimitTests  # noqa: E402
from safeexec.testing.state import State  # noqa: E402
from safeexec.testing.streaming import Streaming  # noqa: E402
from safeexec.testing.tools import ToolTests  # noqa: E402
from safeexec.testing.values import Values  # noqa: E402

__all__ = ["conformance", "same"]

CAPABILITIES = ("rollback", "fork", "snapshot")


def conformance(
    sandbox: str | Callable[..., Backend],
    *,
    policy: Policy | None = None,
    capabilities: Collection[str] = (),
    modules: Collection[str] = (),
    package: str | None = None,
    deviations: Mapping[str, str] | None = None,
    **options: Any,
) -> type:
    """A pytest class with the whole suite; assign it to a name that begins with ``Test``.

    `sandbox` is an installed sandbox's name, or a callable that makes a Backend from ``(policy, **options)``, such as the Backend class itself.
    `policy` is what every test starts from. `capabilities` declares "rollback", "fork" and "snapshot"; what is not declared must be refused.
    `modules` names what the sandbox has of "numpy", "pandas", "PIL", "matplotlib"; tests of the others are skipped and say so. `package` is
    an importable distribution that ``Policy(packages=…)`` can bring in. `deviations` maps a test's name to the reason why this sandbox
    does otherwise: a visible skip. Raises ValueError for a name that is no test, no capability, or a reason that is empty.
    """
    reasons = dict(deviations or {})
    if unknown := set(capabilities) - set(CAPABILITIES):
        raise ValueError(f"no such capability: {', '.join(sorted(unknown))}; there are {', '.join(CAPABILITIES)}")

    class Suite(
        Values, Errors, Streaming, State, ToolTests, LimitTests, FileTests, Displays, Isolation, Hostile,
        Cancellation, Fields, Asynchronous, Lifecycle, Capabilities, Base,
    ):  # fmt: skip
        pass

    if strangers := {name for name in reasons if not name.startswith("test_") or not hasattr(Suite, name)}:
        raise ValueError(f"deviations for tests that do not exist: {', '.join(sorted(strangers))}")
    if silent := [name for name, reason in reasons.items() if not reason.strip()]:
        raise ValueError(f"a deviation needs a reason: {', '.join(sorted(silent))}")
    Suite._sandbox = staticmethod(sandbox) if callable(sandbox) else sandbox
    Suite._options = options
    Suite._policy = Policy() if policy is None else policy
    Suite._capabilities = frozenset(capabilities)
    Suite._modules = frozenset(modules)
    Suite._package = package
    Suite._deviations = reasons
    return Suite
