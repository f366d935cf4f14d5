"""Two agents: one searches the web, the other manages it and draws the ten largest cities on a map, ``saved_map.png``.

The map is drawn inside the sandbox: with matplotlib where the sandbox has it (local with the host's, docker in an image with it), in plain Python
elsewhere.
"""

import json
import sys
from pathlib import Path

from common import RecordedPages, RecordedSearch, arguments, model

from safeexec import Limits, Policy
from safeexec_agent import CodeAgent, TavilySearchTool, VisitWebpageTool

options = arguments(__doc__)
drawing = options.sandbox in ("local", "docker")
script = "research_team" if drawing else "research_team_plain"

web_agent = CodeAgent(
    tools=[
        TavilySearchTool() if options.online else RecordedSearch("cities_search"),
        VisitWebpageTool() if options.online else RecordedPages("cities_pages"),
    ],
    model=model(options, "research_web"),
    sandbox="wasm",  # the worker need not live where its manager does
    max_steps=10,
    name="web_agent",
    description="Runs web searches for you.",
)


def check_map(answer: object, memory: object, agent: CodeAgent) -> bool:
    """The answer is only taken when there is a picture."""
    data = agent.session.files.read("saved_map.png")
    if not data.startswith(b"\x89PNG\r\n"):
        raise ValueError("saved_map.png is no PNG file")
    return len(data) > 1000


manager = CodeAgent(
    tools=[],
    model=model(options, script),
    managed_agents=[web_agent],
    additional_authorized_imports=["matplotlib", "numpy"] if drawing else [],
    policy=Policy(
        limits=Limits(time=60, tool_time=60, wall=None, memory=1024 * 2**20),
        packages=("matplotlib",) if options.sandbox == "docker" else (),
        files={"world.json": Path(__file__).parent / "recorded" / "world.json"},
    ),
    planning_interval=5,
    final_answer_checks=[check_map],
    sandbox=options.sandbox,
    max_steps=15,
)

if __name__ == "__main__":
    with manager:
        manager.visualize()
        answer = manager.run(
            "Find the ten most populated cities of the world, with their population and their usual temperature in December, and draw them on a "
            "map of the world: a dot for each, larger for more people, its colour for the temperature. Coarse outlines of the continents are in "
            "world.json, as lists of [longitude, latitude]. Save the map as saved_map.png."
        )
        saved = manager.session.files.save(options.out, ["saved_map.png"])
        print("saved", *saved, file=sys.stderr)
        print(json.dumps(answer))
