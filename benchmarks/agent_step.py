"""What a step of CodeAgent costs beside the model and the sandbox.

    python benchmarks/agent_step.py [--sandbox wasm] [--steps 40] [--rounds 15]

Runs of a scripted model whose steps do next to nothing, beside the same steps run by the session alone, in turn; prints medians of the rounds, in
milliseconds a step. The difference is ours: messages, parsing, observation, memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from safeexec import Executor
from safeexec_agent import CodeAgent, ScriptedModel

CODE = "x = {0}\nprint('step', {0})\nx * 2"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sandbox", default="wasm")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    programs = [CODE.format(number) for number in range(options.steps)]
    replies = [f"Thought: next.\n<code>\n{program}\n</code>" for program in programs]
    bare: list[float] = []
    whole: list[float] = []
    with Executor(options.sandbox) as executor:
        for _ in range(options.rounds):
            with executor.session() as session:
                session.run("0")
                started = time.perf_counter()
                for program in programs:
                    session.run(program, on_output=lambda piece: None)
                bare.append((time.perf_counter() - started) / options.steps)
            model = ScriptedModel([*replies, "done"])
            with CodeAgent([], model, sandbox=executor, verbosity_level=0, max_steps=options.steps) as agent:
                events = agent.run("Count.", stream=True)
                next(events)
                started = time.perf_counter()
                for _ in range(options.steps - 1):
                    next(events)
                whole.append((time.perf_counter() - started) / (options.steps - 1))
                events.close()
    own = [after - before for before, after in zip(bare, whole, strict=True)]
    figures = {"session": bare, "agent": whole, "own": own}
    print(
        json.dumps(
            {
                "sandbox": options.sandbox,
                "steps": options.steps,
                **{k: round(statistics.median(v) * 1000, 3) for k, v in figures.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
