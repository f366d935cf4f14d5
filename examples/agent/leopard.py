"""How long does a leopard take over the Pont des Arts?"""

from common import RecordedSearch, arguments, model

from safeexec_agent import CodeAgent, DuckDuckGoSearchTool

options = arguments(__doc__)
search = DuckDuckGoSearchTool() if options.online else RecordedSearch("leopard")

with CodeAgent(tools=[search], model=model(options, "leopard"), sandbox=options.sandbox) as agent:
    agent.run("A leopard runs over the Pont des Arts as fast as it can. How many seconds does that take?")
