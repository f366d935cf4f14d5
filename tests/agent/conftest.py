from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from safeexec import Executor
from safeexec_agent import CodeAgent, ScriptedModel

SANDBOXES = ("wasm", "local")


@pytest.fixture(scope="session")
def executors() -> Iterator[dict[str, Executor]]:
    """One executor for each sandbox; agents share it, sessions are their own."""
    made = {name: Executor(name) for name in SANDBOXES}
    yield made
    for executor in made.values():
        executor.close()


Make = Callable[..., CodeAgent]


@pytest.fixture
def make(executors: dict[str, Executor]) -> Iterator[Make]:
    """Makes an agent that replays `replies`; closed at the end. Silent, in local, unless told otherwise."""
    opened: list[CodeAgent] = []

    def build(
        replies: Sequence[str] | Any, tools: Sequence[Any] = (), *, on: str = "local", **options: Any
    ) -> CodeAgent:
        model = ScriptedModel(replies) if isinstance(replies, list) else replies
        options = {"verbosity_level": 0, "sandbox": executors[on], **options}
        agent = CodeAgent(tools, model, **options)
        opened.append(agent)
        return agent

    yield build
    for agent in opened:
        agent.close()


def code(text: str) -> str:
    """A reply with a thought and this code."""
    return f"Thought: on with it.\n<code>\n{text}\n</code>"
