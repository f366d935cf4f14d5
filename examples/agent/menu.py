"""A menu for the occasion, by a tool of one's own."""

from common import arguments, model

from safeexec_agent import CodeAgent, tool

options = arguments(__doc__)


@tool
def suggest_menu(occasion: str) -> str:
    """
    Suggests a menu based on the occasion.
    Args:
        occasion (str): The type of occasion for the party. Allowed values are:
                        - "casual": Menu for casual party.
                        - "formal": Menu for formal party.
                        - "superhero": Menu for superhero party.
                        - "custom": Custom menu.
    """
    if occasion == "casual":
        return "Pizza, snacks, and drinks."
    elif occasion == "formal":
        return "3-course dinner with wine and dessert."
    elif occasion == "superhero":
        return "Buffet with high-energy and healthy food."
    else:
        return "Custom menu for the butler."


with CodeAgent(tools=[suggest_menu], model=model(options, "menu"), sandbox=options.sandbox) as agent:
    agent.run("Prepare a formal menu for the party.")
