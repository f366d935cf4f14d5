"""The sandbox of docs/backend.md: short, complete, and as good as it says, by the suite that every sandbox passes."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from safeexec import BackendUnavailable, Executor, Limits, Policy, PolicyError
from safeexec.testing import conformance
from safeexec.testing.lifecycle import descriptors
from tests.support.markdown import ROOT

SOURCE = ROOT / "examples" / "backend" / "bubblewrap.py"
spec = importlib.util.spec_from_file_location("bubblewrap_example", SOURCE)
assert spec is not None and spec.loader is not None
example = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not here: apt-get install bubblewrap"
)


def executor(**policy: object) -> Executor:
    return Executor(example.BubblewrapBackend(), policy=Policy(**policy))  # type: ignore[arg-type]


def test_it_is_short() -> None:
    assert len(SOURCE.read_text().splitlines()) < 150


def test_a_session_has_state_tools_and_files() -> None:
    with executor(files={"n.txt": b"41"}) as made, made.session(tools={"inc": lambda n: n + 1}) as session:
        session.run("n = int(open('n.txt').read())").raise_for_error()
        assert session.run("inc(n)").value == 42


def test_a_step_out_of_time_is_interrupted_with_its_output_kept() -> None:
    with executor(limits=Limits(time=0.5)) as made:
        result = made.run("print('on'); import time\nwhile True: time.sleep(0.01)")
        assert result.error is not None and result.error.kind == "time" and result.stdout == "on\n"


def test_no_file_of_the_host_is_read_or_written(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("secret")
    with executor() as made:
        result = made.run(f"import os\nprint(os.path.exists({str(canary)!r}))\nopen({str(canary)!r}, 'w').write('x')")
        assert not result.ok and result.stdout == "False\n"
    assert canary.read_text() == "secret"


def test_what_it_cannot_honour_is_refused() -> None:
    with executor() as made, pytest.raises(PolicyError, match="memory"):
        made.session(policy=Policy(limits=Limits(memory=2**20)))


@pytest.mark.parametrize("program", ["/nowhere/bwrap", "/bin/true"])
def test_what_does_not_start_leaves_nothing_open(program: str) -> None:
    before = descriptors()
    with pytest.raises(BackendUnavailable, match="did not start"):
        example.BubblewrapGuest(Policy(), program)
    assert descriptors() == before


@pytest.mark.slow
class TestConformance(conformance(example.BubblewrapBackend, policy=Policy(imports="*"))):  # type: ignore[misc]
    """Everything that safeexec owes its users, on it."""
