"""The pages of docs/ that readers try: their programs run, and mkdocs.yml knows every page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, Block, blocks
from tests.test_readme import check, with_checks

pytestmark = pytest.mark.timeout(300)  # the first to need the wasm sandbox's image builds it

PROGRAMS = blocks(ROOT / "docs" / "index.md", "python")


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"line {block.line}")
def test_program(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "# -> " in block.text
    exec(compile(with_checks(block.text), "docs/index.md", "exec"), {"_check": check})


def test_the_page_on_writing_a_sandbox_shows_the_one_that_is_tested() -> None:
    """The fence is not `python`'s alone: a formatter of Python would take the line for an expression, and the page would show that."""
    text = (ROOT / "docs" / "backend.md").read_text()
    assert '\n``` { .python }\n--8<-- "examples/backend/bubblewrap.py"\n```\n' in text
    for path in (ROOT / "docs").glob("*.md"):
        for line in path.read_text().splitlines():
            if "8" in line and line.startswith("--"):
                assert re.fullmatch(r'--8<-- "[\w/.]+"', line) and (ROOT / line.split('"')[1]).is_file(), line


@pytest.mark.parametrize(("package", "page"), [("safeexec", "api"), ("safeexec_agent", "agent")])
def test_every_public_name_is_on_its_page(package: str, page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    described = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    errors = set(dir(importlib.import_module("safeexec.errors"))) if "safeexec.errors" in described else ()
    for name in importlib.import_module(package).__all__:
        assert f"{package}.{name}" in described or name in errors or f"`{name}`" in text, name


def test_every_page_can_be_reached() -> None:
    listed = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for page in (ROOT / "docs").glob("**/*.md"):
        assert f": {page.relative_to(ROOT / 'docs')}\n" in listed, page
