"""LangChain: a tool that runs Python, with state for each thread of the graph."""

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from safeexec.integrations.langchain import SafeexecTool


class Scripted(GenericFakeChatModel):
    """Stands in for a model: sends these messages one after the other."""

    def bind_tools(self, tools, **_):
        return self


def call(code):
    return AIMessage(content="", tool_calls=[{"name": "python", "args": {"code": code}, "id": "c1"}])


tool = SafeexecTool("wasm")
model = Scripted(messages=iter([call("x = 41"), call("x + 1"), AIMessage(content="It is 42.")]))
agent = create_agent(model, tools=[tool])
answer = agent.invoke({"messages": [("user", "40 + 2?")]}, {"configurable": {"thread_id": "1"}})
for message in answer["messages"]:
    if message.content:
        print(f"{message.type}: {message.content}")
print("answer:", answer["messages"][-2].artifact.value)  # the whole Result is the tool message's artifact
tool.close()
