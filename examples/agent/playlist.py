"""The party's playlist, by a web search."""

from common import RecordedSearch, arguments, model

from safeexec_agent import CodeAgent, DuckDuckGoSearchTool

options = arguments(__doc__)
search = DuckDuckGoSearchTool() if options.online else RecordedSearch("playlist")

with CodeAgent(tools=[search], model=model(options, "playlist"), sandbox=options.sandbox) as agent:
    agent.run("Find music for the party at the manor on Saturday, and make a playlist of it.")
