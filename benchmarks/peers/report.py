"""The recorded run as tables: what the terminal and README.md show."""

from __future__ import annotations

import math
import statistics
from typing import Any

from benchmarks.peers.environments import BY_NAME
from benchmarks.programs import PUBLISHED

Document = dict[str, Any]

COLUMNS = (
    ("cold", "cold ms", 1e3),
    ("fresh", "fresh ms", 1e3),
    ("warm", "warm step µs", 1e6),
    ("tool", "tool call µs", 1e6),
    ("compute", "compute × native", 1),
    ("bytes_in", "10 MB in ms", 1e3),
    ("bytes_out", "10 MB out ms", 1e3),
    ("memory", "MB each live", 1e-6),
    ("rate_1", "fresh/s", 1),
    ("rate_4", "fresh/s, 4 threads", 1),
    ("rollback", "rollback ms", 1e3),
    ("fork", "fork ms", 1e3),
    ("score", "programs run", 1),
)


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """For each program, the time inside as a multiple of plain exec beside it."""
    return {
        name: statistics.median(found["inside"]) / statistics.median(found["outside"])
        for name, found in result.get("compute", {}).items()
    }


def mean(values: list[float]) -> float:
    """Geometric."""
    return math.exp(statistics.fmean(map(math.log, values)))


def memory(result: dict[str, Any]) -> float | None:
    """Bytes that a live session adds to its host and its processes together, where the most were open; what several share is counted once."""
    rows = result.get("live")
    return rows[-1]["proportional"] if rows else None


def number(value: float) -> str:
    """Two or three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(document: Document, name: str, key: str, scale: float) -> str:
    """One figure, or why there is none: `–` where the peer has no such thing, `failed` where it has and did not do it."""
    result = document["results"].get(name, {})
    failures = document["failures"].get(name, {})
    if key == "score":
        score = result.get("score")
        return "–" if score is None else f"{score['of'] - len(score['failed'])} of {score['of']}"
    if key == "compute":
        found = ratios(result)
        missing = [program for program in PUBLISHED if program not in found]
        if not found:
            return "failed" if any(k.startswith("compute") for k in failures) else "–"
        text = f"{number(min(found.values()))}–{number(max(found.values()))}"
        return text + (
            f", {len(missing)} failed" if missing else f" (mean {number(mean([found[p] for p in PUBLISHED]))})"
        )
    if key == "memory":
        value = memory(result)
        return "–" if value is None else number(max(value, 0) * scale)
    samples = result.get(key)
    if samples is None:
        reason = failures.get(key, "")
        return "failed" if reason and not reason.startswith("n/a") else "–"
    if isinstance(samples, list):
        return number(statistics.median(samples) * scale)
    return number(samples * scale)


def table(document: Document) -> list[list[str]]:
    """Heading first, then a row for each peer."""
    rows = [["executor", *(title for _, title, _ in COLUMNS)]]
    for name in document["peers"]:
        if "environment" in document["failures"].get(name, {}):
            rows.append([BY_NAME[name].title, "not built"] + [""] * (len(COLUMNS) - 1))
        else:
            rows.append([BY_NAME[name].title, *(cell(document, name, key, scale) for key, _, scale in COLUMNS)])
    return rows


def live_table(document: Document) -> list[list[str]]:
    """Memory and latency as sessions grow in number."""
    steps = [10, 100, 1000, 10_000]
    rows = [["executor", *(f"{step:,} live" for step in steps)]]
    for name in document["peers"]:
        found = {row["sessions"]: row for row in document["results"].get(name, {}).get("live", [])}
        if not found:
            continue
        cells = []
        for step in steps:
            reached = [count for count in found if step / 10 < count <= step]
            if not reached:
                cells.append("–")
                continue
            row = found[max(reached)]
            count = "" if max(reached) == step else f" (at {max(reached):,})"
            cells.append(f"{number(max(row['proportional'], 0) / 1e6)} MB, {number(row['step'] * 1e6)} µs{count}")
        rows.append([BY_NAME[name].title, *cells])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """As README.md has it."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


def reasons(document: Document) -> list[str]:
    """Every figure that is missing, and why. Nothing is left out."""
    lines = []
    for name, found in document["failures"].items():
        for what, why in found.items():
            lines.append(f"{BY_NAME[name].title}: {what}: {why}")
    for name in document["peers"]:
        score = document["results"].get(name, {}).get("score")
        if score and score["failed"]:
            lines.append(f"{BY_NAME[name].title}: did not run: {', '.join(score['failed'])}")
    return lines


def figures(document: Document, folder: str) -> str:
    """What README.md shows of the run between its marks."""
    machine, loads = document["machine"], [load for _, load in document["load"]]
    kind = "A reduced run" if document["quick"] else "One run"
    about = (
        f"{kind} of {document['date']} on {machine['cores']} cores ({machine['processor']}, Linux {machine['kernel']}), load {min(loads):.1f} to {max(loads):.1f}, medians; "
        "every other sample, spread and version is in the JSON beside the plots. `–`: the executor has no such thing. Where a program of the computing did not run, it says so."
    )
    plots = "\n".join(f"![{name}]({folder}/{name}.svg)" for name in ("fresh", "compute", "live", "rate"))
    return "\n".join((about, "", markdown(table(document)), markdown(live_table(document)), plots, ""))
