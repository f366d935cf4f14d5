"""The argument of `names`: by names that are read directly, nothing dangerous can be reached."""

import json
import subprocess
import sys
from pathlib import Path

from safeexec_backends.local.language import names


def test_nothing_dangerous_is_reachable_by_direct_names(tmp_path):
    script = Path(__file__).parent / "crawl.py"
    done = subprocess.run([sys.executable, str(script), "4"], cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    report = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"objects"')))
    assert report["bad"] == []
    assert report["objects"] > 10_000  # it really walked
    assert len(report["read"]) > 1_000


def test_direct_names_are_plain_names():
    assert not {n for n in names.DIRECT if n.startswith("_") or not n.isidentifier()}
    assert not names.DIRECT & names.SUSPECT
    assert not names.DUNDER_DIRECT & names.DUNDER_OWN
