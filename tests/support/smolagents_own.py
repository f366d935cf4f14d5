"""A plugin for pytest: every CodeAgent of smolagents' own tests gets the executor of ``safeexec.integrations.smolagents``.

smolagents ships no tests; with a checkout of it at the installed release::

    SANDBOX=local nox -s smolagents_own -- CHECKOUT/tests/test_agents.py

All pass that pass without it, but ``test_local_python_executor_with_custom_functions``, which looks into smolagents' own executor; and on wasm, where
packages are the policy's to name, ``test_function_persistence_across_steps``, which imports numpy.
"""

from __future__ import annotations

import os
from typing import Any

from smolagents import CodeAgent

from safeexec.integrations.smolagents import SafeexecExecutor, create

_made: list[SafeexecExecutor] = []


def _create(agent: Any) -> SafeexecExecutor:
    _made.append(create(agent.additional_authorized_imports, agent.logger, sandbox=os.environ.get("SANDBOX", "wasm")))
    return _made[-1]


def pytest_configure() -> None:
    """Before any agent is made."""
    CodeAgent.create_python_executor = _create


def pytest_runtest_teardown() -> None:
    """The executors end with the test that made them."""
    while _made:
        _made.pop().cleanup()
