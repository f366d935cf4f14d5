"""smolagents: its CodeAgent, with the code in a sandbox and the tools here."""

from smolagents import CodeAgent, Model, tool
from smolagents.models import ChatMessage, MessageRole

from safeexec.integrations.smolagents import SafeexecExecutor


class Scripted(Model):
    """Stands in for a model: writes these programs one after the other."""

    programs = ["total = price('tea', count=2)\nprint('so far', total)", "final_answer(total + price('cake'))"]  # noqa: RUF012

    def generate(self, messages, **_):
        code = self.programs.pop(0)
        return ChatMessage(role=MessageRole.ASSISTANT, content=f"Thought: go on.\n<code>\n{code}\n</code>")


@tool
def price(item: str, count: int = 1) -> float:
    """What an item costs.

    Args:
        item: its name
        count: how many
    """
    return {"tea": 2.5, "cake": 4.0}[item] * count


executor = SafeexecExecutor("wasm")
agent = CodeAgent(tools=[price], model=Scripted(model_id="scripted"), executor=executor, verbosity_level=0)
print("answer:", agent.run("What do two teas and a cake cost?"))
executor.cleanup()
