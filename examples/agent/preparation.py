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
        Alfred needs to prepare for the party. Here are the tasks:
        1. Prepare the drinks - 30 minutes
        2. Decorate the mansion - 60 minutes
        3. Set up the menu - 45 minutes
        4. Prepare the music and playlist - 45 minutes

        If we start right now, at what time will the party be ready?
        """
    )
