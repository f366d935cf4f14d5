"""The comparison with the peers: it measures, it reports what is missing, and it hides nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import plots, report
from benchmarks.peers.__main__ import into_readme
from benchmarks.peers.environments import PEERS, Built, build
from benchmarks.peers.run import Line, Run, machine


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """A small run of two that need no installation, and one that could not be built."""
    built = {"fork": Built(sys.executable), "subprocess": Built(sys.executable), "eryx": Built(failure="no such wheel")}
    run = Run(built, quick=True, say=lambda text: None)
    try:
        run._samples("fresh", 1, lambda name: {"times": 4})
        run._samples("tool", 1, lambda name: {"times": 2})
        run._samples("fork", 1, lambda name: {"times": 1})
        run._compute(1)
        run._score([
            {"id": "good", "code": "print(6 * 7)", "stdout": "42\n"},
            {"id": "bad", "code": "1 / 0", "stdout": "42\n"},
        ])  # fmt: skip
        run._live([2, 4], 20)
    finally:
        for line in run._lines.values():
            line.close()
    return {"peers": list(built), "results": run.results, "failures": run.failures, "load": run.load}


def test_each_peer_has_figures_and_their_absence_is_said(document: dict[str, Any]) -> None:
    heading, fork, subprocess, eryx = report.table(document)
    row = dict(zip(heading, fork, strict=True))
    assert float(row["fresh ms"]) > 0 and float(row["tool call µs"]) > 0
    assert row["programs run"] == "1 of 2" and row["fork ms"] == "–"
    assert float(subprocess[heading.index("fresh ms")]) > float(row["fresh ms"]), (
        "a fork is cheaper than an interpreter"
    )
    assert eryx[1] == "not built"
    told = "\n".join(report.reasons(document))
    assert "no such wheel" in told and "did not run: bad" in told and "cannot fork a session" in told


def test_sessions_that_live_are_counted(document: dict[str, Any]) -> None:
    rows = document["results"]["subprocess"]["live"]
    assert [row["sessions"] for row in rows] == [2, 4]
    assert rows[-1]["proportional"] > 2**20, "an interpreter has more than a megabyte to itself"


def test_the_readme_takes_the_figures_between_its_marks(document: dict[str, Any], tmp_path: Path) -> None:
    whole = {**document, "machine": machine(), "date": "today", "quick": True}
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- figures -->\nstale\n<!-- end of figures -->\nafter\n")
    into_readme(report.figures(whole, "there"), page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale" not in text
    assert "| fork and a pipe (no walls) |" in text and "](there/fresh.svg)" in text and "A reduced run" in text
    with pytest.raises(ValueError, match="marks"):
        into_readme("x", Path(__file__).with_name("__init__.py"))


def test_the_plots_are_drawn(document: dict[str, Any], tmp_path: Path) -> None:
    made = plots.draw(document, tmp_path)
    assert {path.name for path in made} == {"fresh.svg", "compute.svg", "live.svg"}
    for path in made:
        assert "fork and a pipe" in path.read_text()


def test_a_peer_that_hangs_or_dies_is_ended_and_reported() -> None:
    line = Line("fork", sys.executable)
    try:
        endless = line.ask(3, "compute", source="while True: pass\n1", times=1)
        assert "no answer within 3 s" in endless["failed"]
        assert "ok" in line.ask(30, "fresh", times=1), "the next request starts it again"
        assert "failed" in line.ask(30, "compute", source="1 / 0\n1", times=1)
    finally:
        line.close()


def test_what_cannot_be_installed_is_a_failure_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    found = build(["restricted"], tmp_path)["restricted"]
    assert found.failure and not found.python


def test_versions_are_pinned() -> None:
    assert all("==" in package for peer in PEERS for package in peer.packages)
