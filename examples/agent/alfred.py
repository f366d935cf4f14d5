"""Alfred with all his tools: search, pages, menu, catering, themes."""

from common import RecordedPages, RecordedSearch, arguments, model

from safeexec_agent import CodeAgent, DuckDuckGoSearchTool, FinalAnswerTool, Tool, VisitWebpageTool, tool

options = arguments(__doc__)


@tool
def suggest_menu(occasion: str) -> str:
    """
    Suggests a menu based on the occasion.
    Args:
        occasion: The type of occasion for the party.
    """
    if occasion == "casual":
        return "Pizza, snacks, and drinks."
    elif occasion == "formal":
        return "3-course dinner with wine and dessert."
    elif occasion == "superhero":
        return "Buffet with high-energy and healthy food."
    else:
        return "Custom menu for the butler."


@tool
def catering_service_tool(query: str) -> str:
    """
    This tool returns the highest-rated catering service in Gotham City.

    Args:
        query: A search term for finding catering services.
    """
    services = {
        "Gotham Catering Co.": 4.9,
        "Wayne Manor Catering": 4.8,
        "Gotham City Events": 4.7,
    }
    return max(services, key=lambda name: services[name])


class SuperheroPartyThemeTool(Tool):
    name = "superhero_party_theme_generator"
    description = """
    This tool suggests creative superhero-themed party ideas based on a category.
    It returns a unique party theme idea."""

    inputs = {  # noqa: RUF012
        "category": {
            "type": "string",
            "description": "The type of superhero party (e.g., 'classic heroes', 'villain masquerade', 'futuristic Gotham').",
        }
    }

    output_type = "string"

    def forward(self, category: str) -> str:
        themes = {
            "classic heroes": "Justice League Gala: Guests come dressed as their favorite DC heroes with themed cocktails like 'The Kryptonite Punch'.",
            "villain masquerade": "Gotham Rogues' Ball: A mysterious masquerade where guests dress as classic Batman villains.",
            "futuristic gotham": "Neo-Gotham Night: A cyberpunk-style party inspired by Batman Beyond, with neon decorations and futuristic gadgets.",
        }
        return themes.get(
            category.lower(),
            "Themed party idea not found. Try 'classic heroes', 'villain masquerade', or 'futuristic Gotham'.",
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
            "Give me the best playlist for a party at the Wayne's mansion. The party idea is a 'villain masquerade' theme"
        )
