"""The language wall on the newest CPython there is a sandbox of, the one of `wasm`: its own tests run there, the attacks above all.

Whoever installs safeexec beside that Python has the wall on it. What needs the sources of the standard library, programs or threads is not there, so not all
of the tests could pass.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import pytest
import RestrictedPython

import safeexec_backends.local
from safeexec import Executor, Limits, Policy

TESTS = ("test_attacks.py", "test_own_modules.py", "test_annotated.py")
ROOT = Path(__file__).parents[3]
BACKENDS = Path(safeexec_backends.local.__file__).parents[2]
PROGRAM = """
import os, sys, zipfile
zipfile.ZipFile("everything.zip").extractall("/sandbox/here")
os.chdir("/sandbox/here")
sys.path.insert(0, os.getcwd())
os.__file__ = "/lib/python/os.py"  # frozen, and asked for what lies beside it
import pytest
pytest.main(["-q", "--tb=short", *(f"tests/local/language/{name}" for name in tests)]), list(sys.version_info[:2])
"""


def everything() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        package = Path(RestrictedPython.__file__).parent
        for base, beside in (
            (ROOT / "safeexec", ROOT),
            (BACKENDS / "safeexec_backends", BACKENDS),
            (package, package.parent),
        ):
            for path in base.rglob("*.py"):
                archive.write(path, path.relative_to(beside))
        for path in (ROOT / "tests/local/language").rglob("*"):
            if path.suffix in (".py", ".txt"):
                archive.write(path, path.relative_to(ROOT))
        for folder in ("tests", "tests/local"):
            archive.writestr(f"{folder}/__init__.py", "")
        plugins = "cacheprovider faulthandler threadexception unraisableexception".split()
        options = " ".join(f"-p no:{name}" for name in plugins)
        archive.writestr("pytest.ini", f"[pytest]\naddopts = {options}\nmarkers = slow\n timeout\n")
    return data.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="n/a: the wasm sandbox runs on Linux")
def test_the_attacks_fail_there_too() -> None:
    limits = Limits(time=600, wall=800, memory=2**31, output=2_000_000)
    policy = Policy(files={"everything.zip": everything()}, packages=("pytest",), limits=limits)
    with Executor("wasm", policy=policy) as executor, executor.session(variables={"tests": list(TESTS)}) as session:
        result = session.run(PROGRAM)
    assert result.error is None, result.error
    status, version = result.value
    assert version >= [3, 14]
    assert status == 0, result.stdout[-5000:]
    assert " passed" in result.stdout and "failed" not in result.stdout
