"""A menu for the occasion, by a tool of one's own."""

from common import arguments, model

from safeexec_agent import CodeAgent, tool

options = arguments(__doc__)


@tool
def suggest_menu(occasion: str) -> str:
    """
    What to serve at a party.
    Args:
        occasion: One of "casual", "formal", "superhero"; anything else gets what there is.
    """
    if occasion == "casual":
        return "flatbread, olives and lemonade"
    elif occasion == "formal":
        return "four courses with wine and petits fours."
    elif occasion == "superhero":
        return "skewers, nuts and green juice on the terrace"
    else:
        return "whatever the butler finds in the pantry"


with CodeAgent(tools=[suggest_menu], model=model(options, "menu"), sandbox=options.sandbox) as agent:
    agent.run("What do we serve on Saturday? It is a formal party.")
