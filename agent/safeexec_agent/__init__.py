"""An agent whose actions are Python, run in a safeexec sandbox.

>>> from safeexec_agent import CodeAgent, ScriptedModel
>>> model = ScriptedModel(["<code>final_answer(6 * 7)</code>"])
>>> with CodeAgent([], model, sandbox="local", verbosity_level=0) as agent:
...     agent.run("What is six times seven?")
42
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec_agent.agent import CodeAgent, RunResult
    from safeexec_agent.endpoints import (
        HfApiModel,
        InferenceClientModel,
        LiteLLMModel,
        OpenAIModel,
        OpenAIServerModel,
        TransformersModel,
    )
    from safeexec_agent.errors import AgentBusy, AgentError, AgentInterrupted, ModelError, NotInstalled
    from safeexec_agent.memory import (
        ActionStep,
        AgentMemory,
        FinalAnswerStep,
        PlanningStep,
        StepError,
        SystemPromptStep,
        TaskStep,
        Timing,
    )
    from safeexec_agent.models import ChatMessage, Delta, Model, ScriptedModel, TokenUsage
    from safeexec_agent.toolbox import (
        DuckDuckGoSearchTool,
        FinalAnswerTool,
        TavilySearchTool,
        UserInputTool,
        VisitWebpageTool,
    )
    from safeexec_agent.tools import Tool, ToolCollection, tool

_HOME = {
    "agent": ("CodeAgent", "RunResult"),
    "endpoints": ("HfApiModel", "InferenceClientModel", "LiteLLMModel", "OpenAIModel", "OpenAIServerModel", "TransformersModel"),
    "errors": ("AgentBusy", "AgentError", "AgentInterrupted", "ModelError", "NotInstalled"),
    "memory": ("ActionStep", "AgentMemory", "FinalAnswerStep", "PlanningStep", "StepError", "SystemPromptStep", "TaskStep", "Timing"),
    "models": ("ChatMessage", "Delta", "Model", "ScriptedModel", "TokenUsage"),
    "toolbox": ("DuckDuckGoSearchTool", "FinalAnswerTool", "TavilySearchTool", "UserInputTool", "VisitWebpageTool"),
    "tools": ("Tool", "ToolCollection", "tool"),
}  # fmt: skip
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ActionStep",
    "AgentBusy",
    "AgentError",
    "AgentInterrupted",
    "AgentMemory",
    "ChatMessage",
    "CodeAgent",
    "Delta",
    "DuckDuckGoSearchTool",
    "FinalAnswerStep",
    "FinalAnswerTool",
    "HfApiModel",
    "InferenceClientModel",
    "LiteLLMModel",
    "Model",
    "ModelError",
    "NotInstalled",
    "OpenAIModel",
    "OpenAIServerModel",
    "PlanningStep",
    "RunResult",
    "ScriptedModel",
    "StepError",
    "SystemPromptStep",
    "TaskStep",
    "TavilySearchTool",
    "Timing",
    "TokenUsage",
    "Tool",
    "ToolCollection",
    "TransformersModel",
    "UserInputTool",
    "VisitWebpageTool",
    "tool",
]


def __getattr__(name: str) -> Any:
    # On demand: the CLI's --help and a user of one tool need not pay for the rest.
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'safeexec_agent' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"safeexec_agent.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
