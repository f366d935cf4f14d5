"""The audit on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from safeexec.text import neutralise, neutralise_line


def cell(cases: list[Mapping[str, Any]]) -> tuple[str, str]:
    """The text and colour of one category of one target: contained of those that could be judged."""
    judged = [c for c in cases if c["outcome"] not in ("na", "broken")]
    good = sum(c["outcome"] in ("contained", "ok") for c in judged)
    broken = sum(c["outcome"] == "broken" for c in cases)
    if not judged:
        return ("broken" if broken else "n/a"), "yellow" if broken else "dim"
    text = f"{good}/{len(judged)}" + (f" ({broken} broken)" if broken else "")
    return text, "green" if good == len(judged) else "red" if judged[0]["kind"] != "benign" else "yellow"


def rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, category), attacks before benign programs."""
    found = {
        (c["kind"] == "benign", c["kind"], c["category"]) for t in document["targets"].values() for c in t["cases"]
    }
    return [(kind, category) for _, kind, category in sorted(found)]


def show(document: Mapping[str, Any], console: Console) -> None:
    """The table of categories and targets, then each escape with its mechanism and how to run it again."""
    targets: Mapping[str, Any] = document["targets"]
    # No title of the table's: that would be broken to the width of a narrow one.
    console.print(Text("contained of those judged", style="italic"))
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("category")
    for name in targets:
        table.add_column(Text(neutralise_line(name, 60)), justify="right")
    for kind, category in rows(document):
        line: list[Text] = [Text(category if kind != "benign" else f"{category} (ordinary programs)")]
        for target in targets.values():
            text, style = cell([c for c in target["cases"] if c["category"] == category and c["kind"] == kind])
            line.append(Text(text, style=style))
        table.add_row(*line)
    console.print(table)
    for name, target in targets.items():
        _target(name, target, console)


def _target(name: str, target: Mapping[str, Any], console: Console) -> None:
    line = (
        f"{target['escaped']} of {target['attacks']} attacks escaped, {target['contained']} contained, {target['na']} not applicable, "
        f"{target['broken']} broken; {target['validated']} were seen to bite the weak executor; "
        f"{target['benign_ok']} of {target['benign'] - target['benign_na']} ordinary programs ran; {target['seconds']:.0f} s"
    )
    version = f" ({neutralise_line(target['version'], 60)})" if target["version"] else ""
    console.print(Text(f"\n{neutralise_line(name, 60)}{version}", style="bold"))
    console.print(Text(line), soft_wrap=True)
    if target["error"]:
        why = "it could not be started: " + neutralise(target["error"][-1500:])
        if "ModuleNotFoundError" in why:
            why += "; --python PATH names an interpreter that has it installed"
        console.print(Text(why, style="yellow"), soft_wrap=True)
        return
    for case in target["cases"]:
        if case["outcome"] == "escaped" and name == "weak":
            continue  # what it is for; that a case did not bite is said below
        if case["outcome"] == "escaped":
            effects = "; ".join(f"{e['name']}: {e['detail']}" for e in case["effects"])
            head = f"  ESCAPED {case['id']} [{case['category']}] {case['reference']}".rstrip()
            console.print(Text(neutralise_line(head), style="red"), soft_wrap=True)
            console.print(Text("    mechanism: " + neutralise_line(case["mechanism"])), soft_wrap=True)
            console.print(Text("    effect:    " + neutralise_line(effects, 400)), soft_wrap=True)
            console.print(Text("    again:     " + neutralise_line(case["reproduce"], 400)), soft_wrap=True)
        elif case["outcome"] in ("blocked", "broken"):
            why = neutralise_line(case["why"], 200)
            console.print(
                Text(f"  {case['outcome']} {case['id']} [{case['category']}]: {why}", style="yellow"), soft_wrap=True
            )
    never = [c["id"] for c in target["cases"] if c["kind"] != "benign" and not c["validated"]]
    if never:
        console.print(
            Text(f"  never seen to bite (they prove nothing when contained): {', '.join(never)}", style="dim"),
            soft_wrap=True,
        )
    for text in target["left_behind"]:
        console.print(Text(f"  left behind by several cases: {neutralise_line(text)}", style="yellow"), soft_wrap=True)
