"""What code that has left the language takes of the kernel's own memory, which no limit of a process counts; judged from outside."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from safeexec import Session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="n/a: these walls are Linux's")


def locks_on(number: int) -> int:
    """How many locks the machine has on files with this inode number."""
    lines = Path("/proc/locks").read_text().splitlines()
    return sum(line.split()[5].endswith(f":{number}") for line in lines if "->" not in line)


def test_locks_on_parts_of_files_are_not_kept_by_the_kernel(session: Session) -> None:
    take = "import fcntl, os\nfile = open('locked', 'w')\nfor place in range(500):\n    fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * place)\n"
    number = session.run(take + "os.fstat(file.fileno()).st_ino").value
    assert locks_on(number) == 0
    wait = "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\nfcntl.flock(file, fcntl.LOCK_EX)\nfile.fileno()"
    assert (
        session.run(wait).ok and locks_on(number) == 1
    )  # of a whole file there is one for each descriptor, and those are counted
