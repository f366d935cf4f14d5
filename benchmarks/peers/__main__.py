"""The command: every subject in a process of its own, in turns, a few rounds; the best of each figure is shown."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .environments import NEEDS, Unavailable, python_of

SUBJECTS = ("safeexec (in process)", "safeexec (workers)", *NEEDS)
COLUMNS = (
    ("fresh", "fresh -> 1+1 µs"), ("warm", "warm step µs"), ("tool", "tool call µs"), ("compute", "compute x native"),
    ("memory", "MB per live session"), ("per_second", "fresh/s, 8 threads"),
)  # fmt: skip


def best(name: str, rounds: list[dict[str, Any]]) -> Any:
    """The best of one figure: of times the round with the smallest median."""
    found = [figures[name] for figures in rounds]
    if isinstance(found[0], dict):
        return min(found, key=lambda f: f["median"])
    return max(found) if name == "per_second" else min(found)


def shown(value: Any) -> str:
    """A figure as text."""
    return f"{value['median']:g} (min {value['min']:g})" if isinstance(value, dict) else f"{value:g}"


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each subject is measured (default 3)")
    parser.add_argument("--json", type=Path, help="where to write every figure of every round")
    parser.add_argument(
        "--folder", type=Path, default=Path(".benchmarks/peers"), help="where the environments are kept"
    )
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="measure only this subject; may be repeated")
    parser.add_argument("--python", help="the interpreter that the peers' environments are made with")
    options = parser.parse_args()
    pythons: dict[str, str] = {}
    for name in options.only or SUBJECTS:
        try:
            pythons[name] = (
                python_of(name, options.folder.resolve(), options.python) if name in NEEDS else sys.executable
            )
        except Unavailable as error:
            print(f"{name} is not measured: {error}", file=sys.stderr)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    for number in range(options.rounds):
        for name, python in pythons.items():
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
            program = str(Path(__file__).with_name("measure.py"))
            done = subprocess.run([python, program, name], capture_output=True, text=True, timeout=600)
            if done.returncode:
                print(f"{name} failed:\n{done.stderr}", file=sys.stderr)
                return 1
            rounds[name].append(json.loads(done.stdout))
    result = {name: {key: best(key, found) for key, _ in COLUMNS} for name, found in rounds.items()}
    if options.json:
        options.json.write_text(json.dumps({"best": result, "rounds": rounds}, indent=1) + "\n")
    print("| " + " | ".join(["sandbox", *(title for _, title in COLUMNS)]) + " |")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for name, figures in result.items():
        print("| " + " | ".join([name, *(shown(figures[key]) for key, _ in COLUMNS)]) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
