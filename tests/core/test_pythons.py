"""The guest on every Python it is meant to run on, driven by this one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from safeexec import Executor, Limits, Policy
from safeexec.testing import same
from safeexec.testing.values import VALUES
from tests.support.plain import PlainBackend

VERSIONS = ("3.9", "3.10", "3.12", "3.13", "3.14")


def interpreter(version: str) -> str | None:
    """The path of a Python of that version: on PATH, or among pyenv's."""
    candidates = [shutil.which(f"python{version}")]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    if root.is_dir():
        candidates += [str(p / "bin/python") for p in sorted(root.glob(f"{version}.*"), reverse=True)]
    for path in filter(None, candidates):
        asked = subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        )
        if asked.stdout.strip() == version:
            return path
    return None


@pytest.mark.parametrize("version", VERSIONS)
def test_guest_runs_on(version: str) -> None:
    python = interpreter(version)
    if python is None:
        # 3.14 has its place inside a sandbox of its own; the others are expected beside this interpreter.
        pytest.skip(f"{'n/a: ' if version == '3.14' else ''}there is no Python {version} here")
    policy = Policy(
        limits=Limits(time=10, output=10_000, value=1_000_000), files={"in.txt": b"input"}, env={"GIVEN": "yes"}
    )

    def tool(a: int, b: int = 2) -> int:
        return a * b

    def fails() -> None:
        raise LookupError("on the host")

    with (
        Executor(PlainBackend(python=python), policy=policy) as executor,
        executor.session([tool, fails], {"x": 1}) as session,
    ):
        assert session.run("import sys\n'%d.%d' % sys.version_info[:2]").value == version
        for value in VALUES:
            if len(str(type(value))) and not (isinstance(value, bytes) and len(value) > 50_000):
                session.variables["v"] = value
                assert same(session.run("v").value, value), value
        assert session.run("def f():\n    return {}['k']").ok
        error = session.run("\nf()").error
        assert error is not None and error.type == "KeyError" and error.line == 2
        assert (
            'File "<step' in error.traceback
            and "guest.py" not in error.traceback
            and "return {}['k']" in error.traceback
        )
        error = session.run("exec('\\n1 / 0')").error
        assert error is not None and error.traceback.endswith(
            '  File "<string>", line 2, in <module>\nZeroDivisionError: division by zero\n'
        )
        error = session.run("x = = 1").error
        assert error is not None and error.type == "SyntaxError" and error.line == 1
        assert session.run("tool(4) + tool(b=1, a=1)").value == 9
        assert session.run("import asyncio\nawait asyncio.gather(tool.aio(1), tool.aio(2))").value == [2, 4]
        assert session.run("try:\n    fails()\nexcept LookupError as e:\n    r = str(e)\nr").value == "on the host"
        result = session.run("print('é☃' * 2)\nimport sys; print('e', file=sys.stderr)\ndisplay({'a': 1})")
        assert result.stdout == "é☃é☃\n" and result.stderr == "e\n" and result.displays[0]["text/plain"] == "{'a': 1}"
        assert session.run("print('x' * 50_000)").truncated
        result = session.run("open('out.txt', 'w').write(open('in.txt').read() + '!')\nimport os; os.environ['GIVEN']")
        assert result.value == "yes" and [f.name for f in result.files] == ["out.txt"]
        assert session.files.read("out.txt") == b"input!"
        error = session.run("raise ValueError('\\ud800')").error
        assert error is not None and error.message == "\ud800"
        assert session.run(
            "class A:\n    pass\nimport dataclasses\n@dataclasses.dataclass\nclass D:\n    a: int = 1\nD()"
        ).value == {"a": 1}
        session.run("y = [x]")
        assert set(session.variables) >= {"x", "y", "f"} and session.variables["y"] == [1]
        if version == "3.9":
            with executor.session(policy=policy.replace(limits=Limits(time=1.0))) as endless:
                result = endless.run("while True:\n    pass")
                assert result.error is not None and result.error.kind == "time"
