"""Alfred with all his tools: search, pages, menu, catering, themes."""

from common import RecordedPages, RecordedSearch, arguments, model

from safeexec_agent import CodeAgent, DuckDuckGoSearchTool, FinalAnswerTool, Tool, VisitWebpageTool, tool

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


@tool
def catering_service_tool(query: str) -> str:
    """
    Names the caterer with the best marks in town.

    Args:
        query: What is wanted of it.
    """
    services = {
        "Pennyworth & Daughters": 4.9,
        "The Iceberg Kitchen": 4.4,
        "Crime Alley Diner": 3.1,
    }
    return max(services, key=lambda name: services[name])


class SuperheroPartyThemeTool(Tool):
    name = "superhero_party_theme_generator"
    description = """
    Invents a theme for a party of heroes: its name, a colon, and what guests will find."""

    inputs = {  # noqa: RUF012
        "category": {
            "type": "string",
            "description": "classic heroes, villain masquerade or futuristic gotham",
        }
    }

    output_type = "string"

    def forward(self, category: str) -> str:
        themes = {
            "classic heroes": "Night of the Capes: everyone comes as the hero of their childhood; green drinks at the bar.",
            "villain masquerade": "The Rogues' Ball: masks until midnight, when each villain says who they are.",
            "futuristic gotham": "Neon over the Narrows: lights, rain machines, and music without a beginning.",
        }
        return themes.get(
            category.lower(),
            "No theme for that; there is classic heroes, villain masquerade and futuristic gotham.",
        )


def make() -> CodeAgent:
    """Alfred."""
    search = DuckDuckGoSearchTool() if options.online else RecordedSearch("alfred_search")
    pages = VisitWebpageTool() if options.online else RecordedPages("alfred_pages")
    return CodeAgent(
        tools=[
            search,
            pages,
            suggest_menu,
            catering_service_tool,
            SuperheroPartyThemeTool(),
            FinalAnswerTool(),
        ],
        model=model(options, "alfred"),
        max_steps=10,
        verbosity_level=2,
        sandbox=options.sandbox,
    )


if __name__ == "__main__":
    with make() as agent:
        agent.visualize()
        agent.run(
            "Plan the music, the food and the theme of our party at the manor. It is to be a 'villain masquerade'."
        )
