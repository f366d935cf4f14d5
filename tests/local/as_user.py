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

def bind(source, target):
    os.makedirs(target, exist_ok=True)
    libc.syscall("mount", source.encode(), target.encode(), None, 4096 | 16384, None)

if job["closed"]:
    # A mount namespace in which the closed folders hold what the user needs of them, at the same paths, and nothing else.
    libc.syscall("unshare", 0x20000)
    libc.syscall("mount", None, b"/", None, 16384 | 1 << 18, None)
    for number, path in enumerate(job["needed"]):
        bind(path, f"{job['place']}/{number}")
    for folder in job["closed"]:
        libc.syscall("mount", b"tmpfs", folder.encode(), b"tmpfs", 0, b"mode=0755")
    for number, path in enumerate(job["needed"]):
        bind(f"{job['place']}/{number}", path)
privileges.become(job["uid"], job["uid"])
os.environ.clear()
os.environ["PYTHONPATH"] = os.pathsep.join(job["new_path"])
os.chdir("/")
os.execv(job["python"], [job["python"], "-S", "-c", job["code"], *job["arguments"]])
"""


def _closed(path: str) -> str | None:
    """The outermost folder on the way to `path` that only its owner may enter."""
    folder = Path(path).resolve()
    barred = [str(p) for p in [*reversed(folder.parents), folder] if not p.stat().st_mode & 0o001]
    return barred[0] if barred else None


class AsUser:
    """A place from which programs can be started as `uid`; a context manager."""

    def __init__(self, uid: int = NOBODY) -> None:
        self.uid = uid

    def __enter__(self) -> AsUser:
        import safeexec
        import safeexec_backends

        self._place = tempfile.TemporaryDirectory(prefix="walls-", dir="/tmp")
        os.chmod(self._place.name, 0o755)
        roots = {str(Path(p).parent) for package in (safeexec, safeexec_backends) for p in package.__path__}
        self._path = [*roots, *[p for p in sys.path if p.endswith("site-packages")]]
        needed = [os.path.realpath(p) for p in (sys.base_prefix, *self._path)]
        self._needed = [p for p in needed if _closed(p)]
        return self

    def __exit__(self, *_: object) -> None:
        self._place.cleanup()

    def command(self, code: str, *arguments: str) -> list[str]:
        """What to start, as root, to run `code` as the user."""
        job = {
            "path": [p for p in sys.path if p],
            "closed": sorted({_closed(p) for p in self._needed} - {None}, key=str),
            "needed": self._needed,
            "place": self._place.name,
            "uid": self.uid,
            "new_path": self._path,
            "python": os.path.realpath(sys.executable),
            "code": code,
            "arguments": arguments,
        }
        return [sys.executable, "-c", _LAUNCH, json.dumps(job)]

    def run(self, code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(code, *arguments), capture_output=True, text=True, timeout=100, **options)
