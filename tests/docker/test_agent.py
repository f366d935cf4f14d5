"""The examples of ``examples/agent`` whose code needs packages, in containers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safeexec import Executor, Policy
from tests.agent.test_examples import CITIES, EXPECTED, answer, check_map, run
from tests.docker.images import BUILD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_menu() -> None:
    assert answer(run("menu", "docker", patience=600).stdout) == EXPECTED["menu"]


def test_research_team_draws_the_map(tmp_path: Path) -> None:
    # The image, which the example then finds.
    Executor("docker", policy=Policy(packages=("matplotlib",)), **BUILD).close()
    done = run("research_team", "docker", "--out", str(tmp_path), patience=600)
    assert json.loads(done.stdout.splitlines()[-1]) == {"map": "saved_map.png", "cities": CITIES, "warmest": "Mumbai"}
    check_map(tmp_path / "saved_map.png", (1000, 400))


def test_page_title() -> None:
    Executor("docker", policy=Policy(packages=("requests", "beautifulsoup4")), **BUILD).close()
    assert answer(run("page_title", "docker", patience=600).stdout) == "Hugging Face – Blog"
