"""Our own sandboxes under the corpus. A part of it by default; all of it, three times over, with the slow tests."""

from __future__ import annotations

import pytest

from safeexec_fuzz import audit, cases, targets, validate

ALL = cases.load()
TIMED = ("loops", "memory", "parser")
# Two of each category, and what takes a second each once: enough to see that the harness and the sandbox still fit together.
SAMPLE = [
    case
    for category in sorted({c.category for c in ALL if c.kind != "benign"})
    for case in [c for c in ALL if c.category == category][:: 14 if category in TIMED else 5]
]
BENIGN = [c for c in ALL if c.kind == "benign"]


@pytest.mark.parametrize("name", ["local", "wasm"])
def test_sample_is_contained(name: str) -> None:
    outcome = audit.run(targets.sandbox(name), [*SAMPLE, *BENIGN[::3]], jobs=2)
    assert not outcome.broken and not outcome.left
    assert {
        v.case.id: (v.outcome, v.effects, v.why) for v in outcome.verdicts if v.outcome not in ("contained", "ok", "na")
    } == {}
    assert outcome.count("attack", "contained") >= 95


def full(name: str) -> audit.Outcome:
    return audit.run(targets.sandbox(name), ALL, jobs=2)


def found(outcome: audit.Outcome) -> dict[str, tuple[str, set[str]]]:
    return {v.case.id: (v.outcome, {name for name, _ in v.effects}) for v in outcome.verdicts}


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("name", "least"), [("local", 0.97), ("wasm", 1.0)])
def test_everything_is_contained_three_times_over(name: str, least: float) -> None:
    outcomes = [full(name) for _ in range(3)]
    for outcome in outcomes:
        assert [(v.case.id, v.effects) for v in outcome.escapes] == [] and not outcome.left
        assert outcome.count("attack", "broken", "na") == 0
        ran = outcome.count("benign", "ok")
        assert ran >= least * (outcome.count("benign", "ok", "blocked", "broken")), [
            v for v in outcome.verdicts if v.outcome == "blocked"
        ]
    first, *others = outcomes
    for other in others:
        assert found(other) == found(first)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_weak_executor_is_escaped_from_by_every_attack() -> None:
    left = [c for c in ALL if c.kind != "benign"]
    # What the rest of the machine gives back at the same moment hides memory that is no process's: not three times.
    for jobs in (2, 1, 1):
        bitten = set(validate.bites(left, jobs=jobs))
        left = [c for c in left if c.id not in bitten]
        if {c.category for c in left} != {"memory"}:
            break
    assert [c.id for c in left] == []


def test_plain_python_runs_every_ordinary_program() -> None:
    outcome = audit.run(targets.target("weak"), BENIGN[1::3], jobs=2)
    assert [(v.case.id, v.why) for v in outcome.verdicts if v.outcome != "ok"] == []
