"""The examples of ``examples/agent``, run as their reader would, from transcripts."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import PIL.Image
import pytest

from tests.agent.conftest import SANDBOXES

# The executors: where the image of the wasm sandbox is not there yet it is made once, not by an example's own process.
pytestmark = pytest.mark.usefixtures("executors")
EXAMPLES = Path(__file__).parents[2] / "examples" / "agent"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")


def run(name: str, sandbox: str, *arguments: str, patience: float = 110) -> subprocess.CompletedProcess[str]:
    """One example in a process of its own; what it prints is as wide as it likes."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith(("_KEY", "_TOKEN"))}
    environment |= {
        "COLUMNS": "300",
        "PYTHONIOENCODING": "utf-8",
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", "/tmp"),
    }
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--sandbox", sandbox, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=patience)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "Executing parsed code:" in done.stdout and "Total: " in done.stdout
    return done


def answer(text: str) -> str:
    return text.rpartition("Final answer: ")[2].partition("\n")[0].strip()


EXPECTED = {
    "playlist": "['Gotham Nights (The Signal Men)', 'Cape and Cowl (Selina and the Cats)', 'Kiss from a Thorn (Ivy)', "
    "'Waltz in the Manor (Gotham Strings)', 'Champagne at Nine (The Butlers)']",
    "menu": "{'main': '3-course dinner', 'with': ['wine', 'dessert']}",
    "leopard": "9.62",
    "most_downloaded": "example-lab/moving-pictures-13b",
}


@pytest.mark.parametrize("sandbox", SANDBOXES)
@pytest.mark.parametrize("name", EXPECTED)
def test_answer(name: str, sandbox: str) -> None:
    assert answer(run(name, sandbox).stdout) == EXPECTED[name]


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_preparation(sandbox: str) -> None:
    before = datetime.now(tz=None)
    text = answer(run("preparation", sandbox).stdout)
    found = re.fullmatch(r"The party will be ready at (\d\d:\d\d)\.", text)
    assert found
    # The sandbox's own clock may be in UTC.
    zones = {timedelta(0), datetime.now().astimezone().utcoffset() or timedelta(0)}
    possible = {f"{before - zone + timedelta(minutes=180 + late):%H:%M}" for zone in zones for late in (0, 1, 2)}
    assert found[1] in possible | {f"{before + timedelta(minutes=180 + late):%H:%M}" for late in (0, 1, 2)}


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_alfred(sandbox: str) -> None:
    text = run("alfred", sandbox).stdout
    assert (
        "The Penguin's Waltz" in answer(text)
        and "Gotham Rogues' Ball" in answer(text)
        and "Gotham Catering Co." in answer(text)
    )
    for part in (
        "superhero_party_theme_generator",
        "Output message of the model:",
        "╭─ New run",
        "category (`string`)",
    ):
        assert part in text


def check_map(path: Path, size: tuple[int, int]) -> None:
    """Land, sea and coast are there, and the cities where they belong."""
    picture = PIL.Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    assert picture.width > size[0] and picture.height > size[1]
    colours = {colour: count for count, colour in picture.getcolors(10**7)}  # type: ignore[misc, union-attr]
    for wanted in ((219, 233, 244), (243, 239, 227), (138, 138, 122)):
        assert colours.get(wanted, 0) > 200, f"no {wanted} in the picture"
    assert sum(count for (r, g, b), count in colours.items() if max(r, g, b) - min(r, g, b) > 100) > 500, (
        "no city was drawn"
    )


CITIES = ["Tokyo", "Delhi", "Shanghai", "Dhaka", "Sao Paulo", "Cairo", "Mexico City", "Beijing", "Mumbai", "Osaka"]


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_research_team_draws_the_map(sandbox: str, tmp_path: Path) -> None:
    done = run("research_team", sandbox, "--out", str(tmp_path))
    assert json.loads(done.stdout.splitlines()[-1]) == {"map": "saved_map.png", "cities": CITIES, "warmest": "Mumbai"}
    check_map(tmp_path / "saved_map.png", (1000, 400))
    assert "web_agent | CodeAgent" in done.stdout and "Step 1 (web_agent)" in done.stdout and "Plan" in done.stdout


def test_page_title_on_local() -> None:
    assert answer(run("page_title", "local").stdout) == "Hugging Face – Blog"


@pytest.mark.slow  # the image with the packages is made, or fetched, first
@pytest.mark.timeout(900)
def test_page_title_on_wasm() -> None:
    assert answer(run("page_title", "wasm", patience=800).stdout) == "Hugging Face – Blog"


def test_every_course_example_is_tested_and_has_its_transcript() -> None:
    wanted = {*EXPECTED, "preparation", "alfred", "research_team", "page_title"}
    assert wanted <= set(NAMES)
    for name in wanted:
        assert (EXAMPLES / "transcripts" / f"{name}.md").is_file()
