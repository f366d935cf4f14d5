"""An agent with tools of every kind, to be saved, sent and loaded."""

from __future__ import annotations

from typing import Any

from safeexec_agent import CodeAgent, DuckDuckGoSearchTool, FinalAnswerTool, Tool, VisitWebpageTool, tool
from tests.agent.conftest import Make, code


@tool
def suggest_menu(occasion: str, guests: int = 4) -> str:
    """
    What to serve at a party.
    Args:
        occasion: What is celebrated.
        guests: How many come.
    """
    import textwrap

    return textwrap.shorten(f"{occasion} dinner for {guests}", 100)


class ThemeTool(Tool):
    name = "theme_generator"
    description = """
    Suggests a 'theme'
    for a party."""
    inputs = {"category": {"type": "string", "description": "The type."}}  # noqa: RUF012
    output_type = "string"

    def __init__(self) -> None:
        super().__init__()
        self.themes = {"classic": "Gala"}

    def forward(self, category: str) -> str:
        return self.themes.get(category.lower(), "none")


def alfred(make: Make, replies: list[str], **options: Any) -> CodeAgent:
    worker = make([], [DuckDuckGoSearchTool()], name="web_agent", description="Searches.")
    tools = [suggest_menu, ThemeTool(), VisitWebpageTool(), FinalAnswerTool()]
    return make(
        replies, tools, managed_agents=[worker], instructions="Be a butler.", name="alfred", description="A butler.",
        additional_authorized_imports=["pandas"], max_steps=7, planning_interval=3, **options,
    )  # fmt: skip


ANSWER = [
    code("final_answer((suggest_menu('formal'), suggest_menu(occasion='x', guests=2), theme_generator('Classic')))")
]
