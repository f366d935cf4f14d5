"""What the examples share: the choice of sandbox and model, and recorded pages for runs without a network."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from safeexec_agent import InferenceClientModel, OpenAIModel, ScriptedModel, Tool

HERE = Path(__file__).parent


def arguments(description: str | None) -> argparse.Namespace:
    """--sandbox, --online and --model."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sandbox", default="wasm", help="wasm (default), local, docker, e2b, …")
    parser.add_argument("--online", action="store_true", help="a real model and the real web; needs a key")
    parser.add_argument("--model", help="with --online: hf:NAME (default) or openai:NAME")
    parser.add_argument("--out", default=".", help="where files go that the agent made")
    return parser.parse_args()


def model(options: argparse.Namespace, script: str) -> Any:
    """The model: the transcript `script`, or with --online a real one."""
    if not options.online:
        return ScriptedModel.from_file(HERE / "transcripts" / f"{script}.md")
    kind, _, name = (options.model or "hf:").partition(":")
    if kind == "openai":
        return OpenAIModel(name)
    return InferenceClientModel(name) if name else InferenceClientModel()


class RecordedSearch(Tool):
    """Search results as they were recorded, for runs without a network."""

    name = "web_search"
    description = "Searches the web and returns the best results, as text."
    inputs = {"query": {"type": "string", "description": "What to search for."}}  # noqa: RUF012
    output_type = "string"

    def __init__(self, record: str) -> None:
        super().__init__()
        self.pages: dict[str, str] = json.loads((HERE / "recorded" / f"{record}.json").read_text(encoding="utf-8"))

    def forward(self, query: str) -> str:
        words = set(query.lower().split())
        return self.pages[max(self.pages, key=lambda key: len(words & set(key.lower().split())))]


class RecordedPages(RecordedSearch):
    """Pages as they were recorded."""

    name = "visit_webpage"
    description = "Fetches the web page at an address and returns its content as markdown."
    inputs = {"url": {"type": "string", "description": "The address."}}  # noqa: RUF012

    def forward(self, url: str) -> str:
        if url not in self.pages:
            raise ValueError(f"there is no page {url}")
        return self.pages[url]
