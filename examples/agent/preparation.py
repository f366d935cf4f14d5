"""When will the party be ready? By an import."""

from common import arguments, model

from safeexec_agent import CodeAgent

options = arguments(__doc__)

with CodeAgent(
    tools=[],
    model=model(options, "preparation"),
    additional_authorized_imports=["datetime"],
    sandbox=options.sandbox,
) as agent:
    agent.run(
        """
        What is left to do before the party, one after the other: mix the drinks (30 minutes), decorate the hall (60), lay out the menu
        (45), choose the music (45). If work begins now, at what time can the first guest come?
        """
    )
