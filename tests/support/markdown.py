"""The code blocks and tables of the documents, so that tests can hold them to what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Block(NamedTuple):
    """One fenced block: where it is, its language, its text."""

    section: str
    line: int
    language: str
    text: str


def blocks(path: Path, language: str) -> list[Block]:
    """The fenced blocks of a language, in order."""
    found, section, opened, lines = [], "", 0, []
    kind = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if opened and line == "```":
            if kind == language:
                found.append(Block(section, opened, kind, "\n".join(lines) + "\n"))
            opened = 0
        elif opened:
            lines.append(line)
        elif line.startswith("```"):
            opened, kind, lines = number, line[3:].strip(), []
        elif line.startswith("#"):
            section = line.lstrip("# ")
    return found


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output shown below it. A trailing backslash continues a command."""
    found: list[tuple[str, str]] = []
    for line in re.sub(r"\\\n>? *", "", text).splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].rstrip("\n"), ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def table(path: Path, heading: str) -> list[list[str]]:
    """The rows of the table whose first column has `heading`, cell by cell."""
    rows: list[list[str]] = []
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if inside and not line.startswith("|"):
            break
        if inside and not set(cells[0]) <= set("-: "):
            rows.append(cells)
        if line.startswith("|") and cells[0] == heading:
            inside = True
    return rows
