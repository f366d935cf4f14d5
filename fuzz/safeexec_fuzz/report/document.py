"""The audit as plain data, the form that ``--json`` writes and the other forms are made from."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import safeexec
from safeexec_fuzz.audit import LIMITS, Outcome, Verdict
from safeexec_fuzz.cases import EFFECTS


def build(outcomes: Sequence[Outcome], when: datetime | None = None) -> dict[str, Any]:
    """One document for all targets."""
    return {
        "schema": 1,
        "safeexec": safeexec.__version__,
        "date": (when or datetime.now(UTC)).isoformat(timespec="seconds"),
        "system": {
            "os": platform.system(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "limits": {name: value for name, value in LIMITS.items() if name not in ("settle", "patience")},
        "effects": EFFECTS,
        "targets": {outcome.target.name: target(outcome) for outcome in outcomes},
    }


def target(outcome: Outcome) -> dict[str, Any]:
    """The numbers and cases of one target. `validated` counts its attacks that were seen to bite the weak executor."""
    attacks = [v for v in outcome.verdicts if v.case.kind != "benign"]
    benign = [v for v in outcome.verdicts if v.case.kind == "benign"]
    return {
        "version": outcome.version,
        "error": outcome.broken,
        "seconds": round(outcome.seconds, 1),
        "left_behind": outcome.left,
        "attacks": len(attacks),
        "contained": outcome.count("attack", "contained"),
        "escaped": outcome.count("attack", "escaped"),
        "validated": sum(v.validated for v in attacks),
        "na": outcome.count("attack", "na"),
        "broken": outcome.count("attack", "broken"),
        "benign": len(benign),
        "benign_ok": outcome.count("benign", "ok"),
        "benign_na": outcome.count("benign", "na"),
        "cases": [case(outcome, verdict) for verdict in outcome.verdicts],
    }


def case(outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
    """One verdict."""
    item = verdict.case
    found: dict[str, Any] = {
        "id": item.id,
        "category": item.category,
        "kind": item.kind,
        "mechanism": item.mechanism,
        "reference": item.reference,
        "expected_effect": item.effect,
        "outcome": verdict.outcome,
        "effects": [{"name": name, "detail": detail} for name, detail in verdict.effects],
        "validated": verdict.validated,
        "seconds": round(verdict.seconds, 3),
        "why": verdict.why,
        # What an escape brought out may be a true secret of this machine, such as its environment; a report is made to be shown around.
        "text": "" if verdict.outcome == "escaped" else verdict.text,
    }
    if verdict.outcome in ("escaped", "blocked", "broken"):
        found["reproduce"] = reproduce(outcome, item.id)
        found["code"] = "\n# -- next step --\n".join(s.code or f"# the host: {s.op} {s.name}" for s in item.steps)
    return found


def reproduce(outcome: Outcome, identity: str) -> str:
    """The command that runs one case again."""
    chosen = outcome.target
    words = ["safeexec", "audit", "--sandbox" if chosen.adapter == "sandbox" else "--target", chosen.name]
    if chosen.python:
        words += ["--python", chosen.python]
    return shlex.join([*words, "--case", identity])


def merge(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One document with the targets of several; date and system are the first one's. Raises ValueError for what is no report."""
    merged: dict[str, Any] = {}
    for item in documents:
        if not isinstance(item, dict) or item.get("schema") != 1 or not isinstance(item.get("targets"), dict):
            raise ValueError("not a report of safeexec audit")
        if not merged:
            merged = {**item, "targets": dict(item["targets"])}
        elif set(merged["targets"]) & set(item["targets"]):
            raise ValueError(f"{', '.join(set(merged['targets']) & set(item['targets']))} is in more than one report")
        else:
            merged["targets"].update(item["targets"])
    return merged
