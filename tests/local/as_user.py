"""Run Python programs as another user, also where the interpreter lies in a folder that user may not enter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NOBODY = 65534

_LAUNCH = """
import json, os, sys
job = json.loads(sys.argv[1])
sys.path[:0] = job["path"]
from safeexec_backends._hardening import libc, privileges
if job["binds"]:
    libc.syscall("unshare", 0x20000)
    libc.syscall("mount", None, b"/", None, 16384 | 1 << 18, None)
    for source, target in job["binds"]:
        os.makedirs(target, exist_ok=True)
        libc.syscall("mount", source.encode(), target.encode(), None, 4096 | 16384, None)
privileges.become(job["uid"], job["uid"])
os.environ.clear()
os.environ["PYTHONPATH"] = os.pathsep.join(job["new_path"])
os.chdir("/")
os.execv(job["python"], [job["python"], "-S", "-c", job["code"], *job["arguments"]])
"""


def _reachable(path: str) -> bool:
    folder = Path(path).resolve()
    return all(p.stat().st_mode & 0o001 for p in [folder, *folder.parents])


class AsUser:
    """A place from which programs can be started as `uid`; a context manager."""

    def __init__(self, uid: int = NOBODY) -> None:
        self.uid = uid
        self._binds: list[tuple[str, str]] = []

    def __enter__(self) -> AsUser:
        self._place = tempfile.TemporaryDirectory(prefix="walls-", dir="/tmp")
        os.chmod(self._place.name, 0o755)
        base = os.path.realpath(sys.base_prefix)
        self._python = os.path.realpath(sys.executable)
        if not _reachable(base):
            target = f"{self._place.name}/python"
            self._binds.append((base, target))
            self._python = self._python.replace(base, target, 1)
        import safeexec
        import safeexec_backends

        roots = {str(Path(p).parent) for package in (safeexec, safeexec_backends) for p in package.__path__}
        self._path = []
        for number, entry in enumerate([*roots, *[p for p in sys.path if p.endswith("site-packages")]]):
            if _reachable(entry):
                self._path.append(entry)
            else:
                target = f"{self._place.name}/{number}/{os.path.basename(entry)}"
                self._binds.append((entry, target))
                self._path.append(target)
        return self

    def __exit__(self, *_: object) -> None:
        self._place.cleanup()

    def command(self, code: str, *arguments: str) -> list[str]:
        """What to start, as root, to run `code` as the user."""
        job = {
            "path": [p for p in sys.path if p],
            "binds": self._binds,
            "uid": self.uid,
            "new_path": self._path,
            "python": self._python,
            "code": code,
            "arguments": arguments,
        }
        return [sys.executable, "-c", _LAUNCH, json.dumps(job)]

    def run(self, code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(code, *arguments), capture_output=True, text=True, timeout=100, **options)
