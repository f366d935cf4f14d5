"""The loop is thin, and stays it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.lines import lines_of_code
from tests.support.markdown import ROOT

FOLDER = ROOT / "agent" / "safeexec_agent"
LOOP = "agent bridge errors loop memory observe parsing parts prompts travel values"
"""What runs between a task and its answer."""
BESIDE = "models telemetry tools"
"""The protocols of models and tools, and spans. Endpoints, built-in tools, folders and hubs, the trace and the command are imported by who uses them."""


def test_the_loop_is_thin() -> None:
    assert sum(lines_of_code(FOLDER / f"{name}.py") for name in LOOP.split()) <= 1500


def test_the_loop_imports_nothing_else_of_the_room() -> None:
    code = "import sys, safeexec_agent.loop\nprint(*(name.partition('.')[2] for name in sys.modules if name.startswith('safeexec_agent.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {*LOOP.split(), *BESIDE.split()}, done.stdout


def test_lines_of_code_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        '"""Doc\nstring."""\n\n# comment\nx = """\ntext"""  # why\n\n\ndef f():\n    """Doc."""\n    return (\n        1\n    )\n'
    )
    assert lines_of_code(tmp_path / "a.py") == 6
