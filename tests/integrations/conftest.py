"""Each framework's tests run where that framework is installed: one nox session each (noxfile.py), in an environment of its own."""

from __future__ import annotations

import importlib.util

MODULES = {"test_smolagents.py": "smolagents", "test_mcp.py": "mcp"}
"""File to the module it needs."""

collect_ignore = [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]


def pytest_report_header() -> str:
    ran = sorted(set(MODULES) - set(collect_ignore))
    return f"integrations: {', '.join(ran) or 'none here'}; nox runs each with its framework ({', '.join(collect_ignore) or 'all are here'})"
