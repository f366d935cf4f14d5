"""The adapter for langgraph-codeact, driven by its own graph with a scripted model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import MemorySaver
from langgraph_codeact import create_codeact

from safeexec.integrations._sessions import Sessions
from safeexec.integrations.langgraph_codeact import eval_fn


@pytest.fixture(params=["wasm", "local"])
def sessions(request: pytest.FixtureRequest) -> Iterator[Sessions]:
    made = Sessions(request.param)
    yield made
    made.close()


def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


def test_variables_and_tools_reach_the_next_block(sessions: Sessions) -> None:
    replies = [
        "```python\ntotal = add(40, 2)\nprint('now', total)\n```",
        "```python\nprint('still', total)\n```",
        "It is 42.",
    ]
    model = GenericFakeChatModel(messages=iter([AIMessage(content=r) for r in replies]))
    agent = create_codeact(model, [add], eval_fn(sessions)).compile(checkpointer=MemorySaver())
    answer = agent.invoke({"messages": [("user", "40 + 2?")]}, {"configurable": {"thread_id": "1"}})
    texts = [str(message.content) for message in answer["messages"]]
    assert any("now 42" in text for text in texts) and any("still 42" in text for text in texts)
    assert texts[-1] == "It is 42."
    assert answer["context"]["total"] == 42


def test_what_is_not_plain_stays_behind(sessions: Sessions) -> None:
    output, new = eval_fn(sessions)("import math\ndef f(): pass\nx = {'a': [1, 2]}\n1 / 0", {"y": 3})
    assert "ZeroDivisionError" in output
    assert new == {"x": {"a": [1, 2]}, "y": 3}


def test_tools_of_the_sessions_are_there_beside_those_of_the_graph() -> None:
    sessions = Sessions("local", tools=[add])
    try:
        assert eval_fn(sessions)("print(add(1, twice(2)))", {"twice": lambda n: 2 * n})[0] == "5.0"
    finally:
        sessions.close()
