"""The four figures people ask for, as SVG that reads on light and on dark pages."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.peers import report
from benchmarks.peers.environments import BY_NAME
from benchmarks.programs import PUBLISHED

INK = "#808890"  # readable on white and on near-black alike
OURS, OTHERS, SUBSET = "#1f9d8f", "#7a8fa6", "#b9a06a"


def draw(document: report.Document, folder: Path) -> list[Path]:
    """Write the plots that the document has figures for; return their paths."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "safeexec", "font.family": "sans-serif", "font.size": 11,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 12, "axes.titlelocation": "left",
    })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    results = document["results"]
    made = []
    fresh = {n: statistics.median(r["fresh"]) * 1e3 for n, r in results.items() if r.get("fresh")}
    made.append(_bars(fresh, "Fresh sandbox to first result and gone, ms (log, less is better)", folder / "fresh.svg"))
    speed = {
        n: report.mean(list(found.values()))
        for n, r in results.items()
        if (found := report.ratios(r)) and len(found) >= len(PUBLISHED)
    }
    made.append(_bars(speed, "Computing, as a multiple of plain exec (log, less is better)", folder / "compute.svg"))
    made.append(_live(results, folder / "live.svg"))
    made.append(_rate(results, folder / "rate.svg"))
    return [path for path in made if path is not None]


def _colour(name: str) -> str:
    peer = BY_NAME[name]
    return OURS if peer.ours else SUBSET if peer.subset else OTHERS


def _bars(values: dict[str, float], title: str, path: Path) -> Path | None:
    from matplotlib import pyplot

    if not values:
        return None
    names = sorted(values, key=lambda n: -values[n])
    figure, axes = pyplot.subplots(figsize=(8, 0.36 * len(names) + 1.1))
    axes.barh(
        [BY_NAME[n].title for n in names], [values[n] for n in names], color=[_colour(n) for n in names], height=0.62
    )
    axes.set_xscale("log")
    for index, name in enumerate(names):
        axes.annotate(
            report.number(values[name]),
            (values[name], index),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    axes.set_title(title)
    axes.tick_params(axis="y", length=0)
    low, high = axes.get_xlim()
    axes.set_xlim(low * 0.8, high * 1.6)
    return _save(figure, path, legend=True)


def _live(results: dict[str, dict[str, Any]], path: Path) -> Path | None:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2))
    drawn = _lines(
        left,
        {
            n: [(row["sessions"], max(row["proportional"], 1e3) / 1e6) for row in r["live"]]
            for n, r in results.items()
            if r.get("live")
        },
    )
    _lines(
        right,
        {n: [(row["sessions"], row["step"] * 1e6) for row in r["live"]] for n, r in results.items() if r.get("live")},
    )
    for axes, title in ((left, "MB that each live session adds"), (right, "median step among them, µs")):
        axes.set(xscale="log", yscale="log", xlabel="live sessions")
        axes.set_title(title)
    return _save(figure, path, handles=left) if drawn else None


def _rate(results: dict[str, dict[str, Any]], path: Path) -> Path | None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.4))
    series: dict[str, list[tuple[float, float]]] = {
        n: [(float(threads), r[f"rate_{threads}"]) for threads in (1, 2, 4, 8) if f"rate_{threads}" in r]
        for n, r in results.items()
    }
    drawn = _lines(axes, {n: points for n, points in series.items() if points})
    axes.set(xscale="log", yscale="log", xlabel="threads asking", xticks=[1, 2, 4, 8], xticklabels=["1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set_title("Fresh sandboxes a second (log, more is better)")
    return _save(figure, path, handles=axes) if drawn else None


MARKS = "osD^vP*Xph<>"
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)))
"""Of ours, which have one colour."""


def _lines(axes: Any, series: dict[str, list[tuple[float, float]]]) -> bool:
    for index, (name, points) in enumerate(series.items()):
        ours = BY_NAME[name].ours
        shade = OURS if ours else f"C{index}"
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker=MARKS[index % len(MARKS)],
            color=shade,
            linestyle=DASHES[[n for n in series if BY_NAME[n].ours].index(name) % len(DASHES)] if ours else "-",
            linewidth=2.4 if ours else 1.1,
            markersize=6 if ours else 4,
            label=BY_NAME[name].title,
        )
    return bool(series)


def _save(figure: Any, path: Path, legend: bool = False, handles: Any = None) -> Path:
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    if legend:
        kinds = ((OURS, "safeexec"), (OTHERS, "CPython"), (SUBSET, "a subset of Python"))
        figure.legend(
            handles=[Patch(color=c, label=t) for c, t in kinds], loc="lower right", frameon=False, fontsize=9, ncols=3
        )
    if handles is not None:
        figure.legend(
            *handles.get_legend_handles_labels(),
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize=9,
        )
    figure.tight_layout(rect=(0, 0.05 if legend else 0, 1, 1))
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return path
