"""langgraph-codeact: blocks of code run in a sandbox, the graph's state carries the variables."""

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph_codeact import create_codeact

from safeexec.integrations.langgraph_codeact import Sessions, eval_fn


def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


replies = ["```python\ntotal = add(40, 2)\nprint(total)\n```", "```python\nprint('still', total)\n```", "It is 42."]
model = GenericFakeChatModel(messages=iter([AIMessage(content=reply) for reply in replies]))
sessions = Sessions("wasm")
agent = create_codeact(model, [add], eval_fn(sessions)).compile()
state = agent.invoke({"messages": [("user", "40 + 2?")]})
print(state["messages"][-1].content)
print("answer:", state["context"]["total"])
sessions.close()
