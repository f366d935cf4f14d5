"""Pages that are whole or part of a file of the repository are taken from it when the site is built: nothing is written twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HERE = {"SECURITY.md": "security.md", "README.md": "guide.md"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill ``<!-- FILE -->`` and ``<!-- FILE: first heading .. heading that ends it -->``; send links to where the site has what they name."""
    return _links(re.sub(r"<!-- ([\w./]+)(?:: (.+?) \.\. (.+?))? -->", _part, markdown))


def _part(found: re.Match[str]) -> str:
    text = (ROOT / found[1]).read_text(encoding="utf-8")
    if found[2]:
        start = text.index(f"\n## {found[2]}\n") + 1
        text = text[start : text.index(f"\n## {found[3]}\n", start)]
    return text


def _links(markdown: str) -> str:
    def target(found: re.Match[str]) -> str:
        path, _, anchor = found[2].partition("#")
        path = path.removeprefix("../").removeprefix("docs/")
        path = HERE.get(path, path)
        if not (ROOT / "docs" / path).is_file():
            return found[1] if path in found[1] else f"{found[1]} (`{path}`)"  # no page, but a file of the repository
        return f"[{found[1]}]({path}{'#' + anchor if anchor else ''})"

    return re.sub(r"(?<!!)\[([^\]\n]+)\]\((?!https?:|#)([^)\s]+)\)", target, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name others by roles, as ``:meth:`close```; pages show the name."""
    return re.sub(r":(?:meth|class|func|attr|mod|data):(<code>)~?", r"\1", html)
