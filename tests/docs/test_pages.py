"""The pages of docs/ that readers try: their programs run, and mkdocs.yml knows every page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from safeexec import Executor, Limits, Policy
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
        assert name in dir(importlib.import_module(package))  # where whoever explores it looks
        assert f"{package}.{name}" in described or name in errors or f"`{name}`" in text, name


def test_what_wasm_lacks_of_the_library_is_what_the_page_says() -> None:
    said = re.search(
        r"sockets not be made, and (.+?) are not\s+there", (ROOT / "docs" / "sandboxes.md").read_text(), re.DOTALL
    )
    assert said is not None
    code = """
import hashlib, importlib, sys
missing = [] if hasattr(hashlib, "scrypt") else ["hashlib.scrypt"]
for name in sys.stdlib_module_names - {"antigravity", "this"}:
    if not name.startswith("_"):
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
missing
"""
    with Executor("wasm", policy=Policy(limits=Limits(time=60))) as executor:
        missing = set(executor.run(code).value)
    of_other_systems, of_no_interest = {"msvcrt", "nt", "winreg", "winsound"}, {"pydoc_data", "turtledemo"}
    assert set(re.findall(r"`([\w.]+)`", said[1])) == missing - of_other_systems - of_no_interest


def test_every_page_can_be_reached() -> None:
    listed = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for page in (ROOT / "docs").glob("**/*.md"):
        assert f": {page.relative_to(ROOT / 'docs')}\n" in listed, page
