"""The map of ``examples/docker/map.py``: plotly and kaleido in a container without network, with the continents on it."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.docker.images import BUILD, with_shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = Path(__file__).parents[2] / "examples" / "docker" / "map.py"
SEA, LAND, COAST, CITY = (219, 233, 244), (243, 239, 227), (138, 138, 122), (214, 39, 40)


@pytest.fixture(scope="module")
def files(client: Any) -> dict[str, bytes]:
    specification = importlib.util.spec_from_file_location("example_map", PROGRAM)
    assert specification is not None and specification.loader is not None
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    drawn = example.draw(image=with_shell(client), **BUILD)
    assert isinstance(drawn, dict)
    return drawn


def check(picture: bytes, size: tuple[int, int]) -> None:
    """Sea, land and coast are there, the land where the continents are, and the cities on it."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    assert image.size == size
    colours: dict[Any, int] = {colour: count for count, colour in image.getcolors(1 << 22) or ()}
    assert colours[SEA] > 100_000 and colours.get(LAND, 0) > 50_000, "an empty sea"
    # Lines are smoothed; those parts that fill a pixel have its colour.
    near = sum(n for c, n in colours.items() if max(abs(a - b) for a, b in zip(c, COAST, strict=True)) < 30)
    assert near > 1_000, "no coastlines"
    assert sum(n for (r, g, b), n in colours.items() if r > 180 and g < 130 and b < 130) > 1_000, "no cities"
    columns, rows = range(image.width), range(image.height)
    sea = [(x, y) for x in columns for y in rows if image.getpixel((x, y)) == SEA]
    left, right = min(x for x, _ in sea), max(x for x, _ in sea)
    top, bottom = min(y for _, y in sea), max(y for _, y in sea)

    def at(x: float, y: float) -> Any:
        return image.getpixel((round(left + x * (right - left)), round(top + y * (bottom - top))))

    for name, x, y in (
        ("Brazil", 0.37, 0.58),
        ("the Sahara", 0.52, 0.36),
        ("Siberia", 0.7, 0.16),
        ("Australia", 0.86, 0.64),
    ):
        assert at(x, y) == LAND, name
    for name, x, y in (("the Atlantic", 0.4, 0.4), ("the Pacific", 0.12, 0.5), ("the Indian Ocean", 0.7, 0.65)):
        assert at(x, y) == SEA, name


def test_map_is_saved_as_png(files: dict[str, bytes]) -> None:
    check(files["map.png"], (1000, 520))


def test_map_is_saved_as_a_page_that_needs_nothing_else(files: dict[str, bytes]) -> None:
    page = files["map.html"].decode()
    outlines = PROGRAM.with_name("world_110m.json").read_text()
    assert page.count("window.PlotlyGeoAssets = {topojson: {world_110m: " + outlines) == 1
    assert "<script src=" not in page and "<link" not in page


def test_page_shows_the_map_without_a_network(files: dict[str, bytes], tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("n/a: no browser to look at the page with")
    page, seen = tmp_path / "map.html", tmp_path / "seen.png"
    page.write_bytes(files["map.html"])
    # A network namespace without a way out, and a clock that runs until the page has drawn itself.
    command = [
        "unshare",
        "--net",
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
    ]
    shot = ["--window-size=1000,600", "--virtual-time-budget=10000", f"--screenshot={seen}", page.as_uri()]
    subprocess.run([*command, *shot], check=True, capture_output=True, timeout=120)
    check(seen.read_bytes(), (1000, 600))
