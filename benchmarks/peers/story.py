"""Whether two runs tell the same story: what a figure is worth on one machine is worth little on another, how two executors compare should be worth more.

For every figure and every pair of one executor of ours and one peer, the peer's median as a multiple of ours is taken in both runs. The runs contradict
each other about a pair where one was clearly ahead in the first and clearly behind in the second.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, NamedTuple

from benchmarks.peers import report
from benchmarks.peers.environments import BY_NAME
from benchmarks.peers.report import COLUMNS, Document
from benchmarks.programs import PUBLISHED

CLEAR = 1.5
"""What is ahead by less than this is level: the same machine, asked again, gives as much."""


class Pair(NamedTuple):
    """One executor of ours beside one peer: how many times better it was, in either run."""

    key: str
    ours: str
    peer: str
    before: float
    now: float

    @property
    def contradicts(self) -> bool:
        """Ahead in one run, behind in the other, in both clearly."""
        low, high = sorted((self.before, self.now))
        return low < 1 / CLEAR and high > CLEAR

    @property
    def apart(self) -> float:
        """How far the two runs are apart, as a factor of 1 or more."""
        return max(self.before / self.now, self.now / self.before)

    def __str__(self) -> str:
        title = next(title for key, title, _ in COLUMNS if key == self.key)
        return f"{title}: {BY_NAME[self.ours].title} beside {BY_NAME[self.peer].title}: {self.before:.2f} times as good, now {self.now:.2f}"


def figure(document: Document, name: str, key: str) -> float | None:
    """One figure so that less is better, and above 0; None where it was not measured."""
    result: dict[str, Any] = document["results"].get(name, {})
    if key == "compute":
        ratios = report.ratios(result)
        return report.mean([ratios[p] for p in PUBLISHED]) if all(p in ratios for p in PUBLISHED) else None
    if key == "memory":
        found = report.memory(result)
    elif key == "score":
        score = result.get("score")
        found = None if score is None else 1 / max(score["of"] - len(score["failed"]), 1)
    else:
        samples = result.get(key)
        found = statistics.median(samples) if isinstance(samples, list) else samples
        if found and key.startswith("rate_"):
            found = 1 / found
    return found if found and found > 0 else None


def pairs(before: Document, now: Document) -> list[Pair]:
    """Every pair that was measured in both runs."""
    both = [name for name in before["peers"] if name in now["peers"] and name in BY_NAME]
    found = []
    for key, _, _ in COLUMNS:
        for ours in (name for name in both if BY_NAME[name].ours):
            for peer in (name for name in both if not BY_NAME[name].ours):
                values = [figure(run, name, key) for run in (before, now) for name in (peer, ours)]
                if None not in values:
                    theirs, own, theirs_now, own_now = (value for value in values if value is not None)
                    found.append(Pair(key, ours, peer, theirs / own, theirs_now / own_now))
    return found


def table(found: list[Pair]) -> list[list[str]]:
    """For each figure, how many pairs there are, how many agree, and how far the ratios are apart."""
    rows = [["figure", "pairs", "the same order", "apart by (middle)", "apart by (most)"]]
    for key, title, _ in COLUMNS:
        of = [pair for pair in found if pair.key == key]
        if of:
            same = sum(not pair.contradicts for pair in of)
            middle = math.exp(statistics.median(math.log(pair.apart) for pair in of))
            most = max(of, key=lambda pair: pair.apart)
            who = f"{BY_NAME[most.ours].title} beside {BY_NAME[most.peer].title}"
            rows.append([title, str(len(of)), str(same), f"{middle:.2f}", f"{most.apart:.2f} ({who})"])
    return rows
