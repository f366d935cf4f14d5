"""With SAFEEXEC_STRICT=1 a skip that hides something missing fails the run; without it, it is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "wall": "import pytest\ndef test_it(): pytest.skip('no Landlock on this kernel')\n",
    "marker": "import pytest\n@pytest.mark.skipif(True, reason='no daemon')\ndef test_it(): pass\n",
    "module": "import pytest\npytest.importorskip('no_such_module')\ndef test_it(): pass\n",
}


def run(folder: Path, source: str, strict: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (folder / "test_it.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        env={**os.environ, "SAFEEXEC_STRICT": strict, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("kind", SKIPS)
def test_a_skip_fails_only_when_strict(kind: str, tmp_path: Path) -> None:
    relaxed = run(tmp_path, SKIPS[kind], "0")
    assert relaxed.returncode == (5 if kind == "module" else 0) and "SKIPPED" in relaxed.stdout
    strict = run(tmp_path, SKIPS[kind], "1")
    assert strict.returncode in (1, 2) and "does not allow" in strict.stdout


def test_what_does_not_apply_here_and_expected_failures_stand(tmp_path: Path) -> None:
    source = (
        "import pytest\n"
        "def test_skip(): pytest.skip('n/a: macOS only')\n"
        "@pytest.mark.xfail\n"
        "def test_fail(): assert 0\n"
        "def test_pass(): pass\n"
    )
    done = run(tmp_path, source, "1")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped, 1 xfailed" in done.stdout
