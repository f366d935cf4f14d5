"""A chart drawn by code in a container without network, saved here as PNG.

    safeexec setup docker --package matplotlib
    python examples/docker/chart.py chart.png

Needs a docker daemon; matplotlib is installed into a derived image once, by pip in a build container: by the first line, or by the first run.
"""

from __future__ import annotations

import sys

from safeexec import Executor, Limits, Policy

CODE = """
import matplotlib.pyplot as plt
fig, ax = plt.subplots()
ax.plot([x / 10 for x in range(100)], [(x / 10) ** 2 for x in range(100)])
ax.set_title("squares")
fig.savefig("chart.png")
"""


def main() -> None:
    """Draw it and save it."""
    target = sys.argv[1] if len(sys.argv) > 1 else "chart.png"
    policy = Policy(packages=("matplotlib",), limits=Limits(time=60))
    with Executor("docker", policy=policy) as executor, executor.session() as session:
        session.run(CODE).raise_for_error()
        with open(target, "wb") as file:
            file.write(session.files.read("chart.png"))
    print(f"saved {target}")


if __name__ == "__main__":
    main()
