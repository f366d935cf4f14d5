"""The page in a real browser."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from safeexec_fuzz.report import page

from .test_cli import document


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is not installed")
    return found


def chromium(*words: str, profile: Path) -> subprocess.CompletedProcess[str]:
    common = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=2000",
        f"--user-data-dir={profile}",
    ]
    return subprocess.run([browser(), *common, *words], capture_output=True, text=True, timeout=100)


def pixels(path: Path) -> tuple[int, int, set[bytes]]:
    """Width, height and the colours of an 8-bit RGB or RGBA PNG."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8
    size = {2: 3, 6: 4}[kind]
    raw, at = b"", 8
    while at < len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        if data[at + 4 : at + 8] == b"IDAT":
            raw += data[at + 8 : at + 8 + length]
        at += length + 12
    lines, row = zlib.decompress(raw), width * size + 1
    before = bytearray(width * size)
    colours: set[bytes] = set()
    for y in range(height):
        how, line = lines[y * row], bytearray(lines[y * row + 1 : (y + 1) * row])
        for x in range(len(line)):
            left = line[x - size] if x >= size else 0
            corner = before[x - size] if x >= size else 0
            up = before[x]
            if how == 1:
                line[x] = (line[x] + left) & 255
            elif how == 2:
                line[x] = (line[x] + up) & 255
            elif how == 3:
                line[x] = (line[x] + (left + up) // 2) & 255
            elif how == 4:
                guess = left + up - corner
                near = min((left, up, corner), key=lambda v: abs(guess - v))
                line[x] = (line[x] + near) & 255
        colours.update(bytes(line[i : i + 3]) for i in range(0, len(line), size))
        before = line
    return width, height, colours


def rgb(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1200, 900), (500, 850)])
def test_the_page_is_drawn_wide_and_narrow(tmp_path: Path, width: int, height: int) -> None:
    file, shot = tmp_path / "page.html", tmp_path / "page.png"
    file.write_text(page.build(document()), encoding="utf-8")
    done = chromium(f"--window-size={width},{height}", f"--screenshot={shot}", file.as_uri(), profile=tmp_path / "p")
    assert shot.exists(), done.stderr
    wide, high, colours = pixels(shot)
    assert (wide, high) == (width, height)
    # The heat map's cell for "nothing contained": the style sheet was taken, so its hash is right.
    assert rgb("e85a5a") in colours


@pytest.mark.slow
def test_the_page_sorts_fits_a_phone_and_runs_nothing_foreign(tmp_path: Path) -> None:
    """A probe is put into a frame beside the page: it presses a heading and measures."""
    data = document()
    (target,) = data["targets"].values()
    target["cases"] = [{**target["cases"][0], "id": f"case-{n}", "category": c} for n, c in enumerate("bca")]
    text = page.build(data)
    probe = """
      const out = {};
      document.querySelector("#cases th button").click();
      document.querySelectorAll("#cases th button")[1].click();
      out.order = [...document.querySelectorAll("#cases tbody tr")].map(r => r.cells[1].textContent);
      document.getElementById("filter").value = "case-2";
      document.getElementById("filter").dispatchEvent(new Event("input"));
      out.shown = [...document.querySelectorAll("#cases tbody tr")].filter(r => !r.hidden).length;
      out.wide = document.documentElement.scrollWidth <= window.innerWidth;
      out.alerted = window.alerted === true;
      document.documentElement.setAttribute("data-probe", JSON.stringify(out));
    """
    # The page's own policy stays; the probe is allowed by its hash as the page's script is.
    import base64
    import hashlib

    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src &#x27;sha256-{digest}&#x27; ").replace(
        "</body>", f"<script>{probe}</script></body>"
    )
    file = tmp_path / "page.html"
    file.write_text(text, encoding="utf-8")
    done = chromium("--window-size=500,800", "--dump-dom", file.as_uri(), profile=tmp_path / "p")
    import html
    import re

    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads(html.unescape(found[1])) == {"order": ["a", "b", "c"], "shown": 1, "wide": True, "alerted": False}
