"""Two runs beside each other: what is compared, what counts as a contradiction, and what the command says of it."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import story
from benchmarks.programs import PUBLISHED

README = command.ROOT / "README.md"
RECORDED = json.loads((command.RECORD / "run.json").read_text())


@pytest.fixture
def other() -> dict[str, Any]:
    """The recorded run, to be changed."""
    return copy.deepcopy(RECORDED)


def slower(run: dict[str, Any], factor: float) -> None:
    """The same run on a machine that takes longer for everything."""
    for result in run["results"].values():
        for key in ("cold", "fresh", "warm", "tool", "bytes_in", "bytes_out", "rollback", "fork"):
            if key in result:
                result[key] = [sample * factor for sample in result[key]]
        for key in [key for key in result if key.startswith("rate_")]:
            result[key] /= factor


def test_a_slower_machine_tells_the_same_story(other: dict[str, Any]) -> None:
    slower(other, 7)
    found = story.pairs(RECORDED, other)
    assert {pair.key for pair in found} >= {"fresh", "warm", "compute", "memory", "rate_1", "score", "fork"}
    assert all(pair.apart == pytest.approx(1) and not pair.contradicts for pair in found)


def test_the_run_on_another_machine_tells_the_same_story() -> None:
    elsewhere = json.loads((command.RECORD / "elsewhere.json").read_text())
    assert elsewhere["results"] != RECORDED["results"]
    found = story.pairs(elsewhere, RECORDED)
    same = [pair for pair in found if not pair.contradicts]
    assert len(same) == len(found)
    assert f"{len(same)} of {len(found)} comparisons come out the same way" in README.read_text(encoding="utf-8")


def test_who_changes_places_contradicts_and_who_draws_level_does_not(other: dict[str, Any]) -> None:
    ours, peer = (sorted(RECORDED["results"][name]["fresh"])[30] for name in ("wasm", "eryx"))
    assert peer > 2 * ours, "the test wants one that is clearly behind"
    other["results"]["eryx"]["fresh"] = [ours]
    assert not any(pair.contradicts for pair in story.pairs(RECORDED, other))
    other["results"]["eryx"]["fresh"] = [ours / 2]
    against = [pair for pair in story.pairs(RECORDED, other) if pair.contradicts]
    assert ("fresh", "wasm", "eryx") in [pair[:3] for pair in against]
    assert all(pair.peer == "eryx" and pair.key == "fresh" for pair in against)
    # More sessions in a second is better, more of everything else is worse.
    rates = other["results"]["eryx"]
    rates["rate_1"] = 2 * RECORDED["results"]["wasm"]["rate_1"]
    assert ("rate_1", "wasm", "eryx") in [
        pair[:3] for pair in story.pairs(RECORDED, other) if pair.contradicts and pair.now < pair.before
    ]


def test_what_is_missing_in_one_run_is_not_compared(other: dict[str, Any]) -> None:
    del other["results"]["eryx"]["tool"]
    del other["results"]["monty"]["compute"][PUBLISHED[0]]
    other["peers"].remove("sandlock")
    found = {pair[:3] for pair in story.pairs(RECORDED, other)}
    assert ("tool", "wasm", "eryx") not in found and ("tool", "wasm", "monty") in found
    assert ("compute", "wasm", "monty") not in found and ("compute", "wasm", "eryx") in found
    assert not any(peer == "sandlock" for _, _, peer in found)


def show(monkeypatch: pytest.MonkeyPatch, run: dict[str, Any], folder: Path) -> int:
    """`--from` a run written down, `--against` the recorded one."""
    path = folder / "now.json"
    path.write_text(json.dumps(run))
    against = str(command.RECORD / "run.json")
    arguments = ["--from", str(path), "--against", against, "--folder", str(folder)]
    monkeypatch.setattr(sys, "argv", ["peers", *arguments])
    return command.main()


def test_the_command_says_so(
    other: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recorded = {path: path.read_bytes() for path in command.RECORD.iterdir()}
    slower(other, 3)
    assert show(monkeypatch, other, tmp_path) == 0
    told = capsys.readouterr().out
    assert "come out the same way" in told and "CONTRADICTS" not in told
    other["results"]["wasm"]["fresh"] = [60.0]
    assert show(monkeypatch, other, tmp_path) == 1
    assert "CONTRADICTS fresh ms: safeexec wasm beside pyeryx" in capsys.readouterr().out
    assert (tmp_path / "fresh.svg").exists(), "its plots go elsewhere"
    assert {path: path.read_bytes() for path in command.RECORD.iterdir()} == recorded
