"""Each framework's tests run where that framework is installed: one nox session each (noxfile.py), in an environment of its own."""

from __future__ import annotations

import importlib.util

MODULES = {
    "test_ag2.py": "ag2",
    "test_agent_framework.py": "agent_framework",
    "test_autogen.py": "autogen_agentchat",
    "test_google_adk.py": "google.adk",
    "test_inspect_ai.py": "inspect_ai",
    "test_langchain.py": "langchain",
    "test_langgraph_codeact.py": "langgraph_codeact",
    "test_llama_index.py": "llama_index",
    "test_mcp.py": "mcp",
    "test_openai_agents.py": "agents",
    "test_pydantic_ai.py": "pydantic_ai",
    "test_smolagents.py": "smolagents",
}
"""File to the module it needs."""


def absent(module: str) -> bool:
    """Whether it cannot be imported here."""
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # the package around it
        return True


collect_ignore = [name for name, module in MODULES.items() if absent(module)]


def pytest_report_header() -> str:
    ran = sorted(set(MODULES) - set(collect_ignore))
    return f"integrations: {', '.join(ran) or 'none here'}; nox runs each with its framework ({', '.join(collect_ignore) or 'all are here'})"
