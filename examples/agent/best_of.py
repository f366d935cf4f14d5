"""Best of three: an agent prepares once, branches go on from its live state in different directions, and the best answer wins."""

import math

from common import arguments, model

from safeexec_agent import CodeAgent, ScriptedModel

options = arguments(__doc__)
CITIES = [(0, 0), (9, 1), (2, 7), (8, 8), (1, 3), (5, 5), (7, 2), (3, 9), (6, 9), (4, 1), (9, 5), (0, 8)]
APPROACHES = ("visit them from left to right", "go to the nearest next", "start with the nearest, then undo crossings")


def length(tour: list[int]) -> float:
    """Of a round trip. The judge is the host: what a branch says about itself does not count."""
    if sorted(tour) != list(range(len(CITIES))):
        return math.inf
    return sum(math.dist(CITIES[a], CITIES[b]) for a, b in zip(tour, tour[1:] + tour[:1], strict=True))


with CodeAgent([], model(options, "best_of"), sandbox=options.sandbox) as agent:
    agent.run(
        "Work out the distances between these cities and a function for a tour's length.",
        additional_args={"cities": CITIES},
    )
    answers = {}
    for number, approach in enumerate(APPROACHES, 1):
        with agent.branch() as branch:
            if isinstance(agent.model, ScriptedModel):
                branch.model = model(options, f"best_of_{number}")
            answers[approach] = branch.run(
                f"Find a short round trip: {approach}. Answer with the list of city numbers.", reset=False
            )

for approach, tour in answers.items():
    print(f"{length(tour):6.2f}  {approach}")
best = min(answers, key=lambda name: length(answers[name]))
print("best:", best)
