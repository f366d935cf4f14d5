"""examples/integrations: each program runs, without a model or a network, where its framework is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.conftest import MODULES, absent
from tests.support.markdown import ROOT, table

FOLDER = ROOT / "examples" / "integrations"
ANSWERS = {"smolagents": "answer: 9.0"}
NAMES = [name.removeprefix("test_").removesuffix(".py") for name in MODULES]


@pytest.mark.parametrize("name", [name for name in NAMES if not absent(MODULES[f"test_{name}.py"])])
def test_program(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"with_{name}.py")], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "answer:" in done.stdout and ANSWERS.get(name, "42") in done.stdout, done.stdout


def test_each_framework_has_a_program_and_a_line_in_the_readme() -> None:
    assert {path.stem.removeprefix("with_") for path in FOLDER.glob("*.py")} == set(NAMES)
    assert {row[1].partition(":")[0].strip("`") for row in table(ROOT / "README.md", "framework")} == set(NAMES)


@pytest.mark.parametrize("row", table(ROOT / "README.md", "framework"), ids=lambda row: row[0])
def test_the_readme_names_what_is_there(row: list[str]) -> None:
    module, _, names = row[1].partition(":")
    source = (ROOT / "safeexec" / "integrations" / f"{module.strip('`')}.py").read_text()
    call = row[2].strip("`")
    compile(call.replace("...", "**more").replace(", or ", "; "), "README.md", "exec")
    for name in names.replace("`", "").replace(",", " ").split():
        assert f"class {name}" in source or f"def {name}" in source or f"import {name}" in source, name
        assert name in call or name == "CodeMode"
