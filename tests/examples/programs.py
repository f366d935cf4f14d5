"""The programs in ``examples/``: what each needs, how it is cut into steps, how it runs outside any sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from safeexec import DEFAULT_IMPORTS, Limits, Policy

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = EXAMPLES / "data"
SANDBOXES = ("local",)


@dataclass(frozen=True)
class Program:
    """One program: its data, and the modules it needs beyond the default."""

    name: str
    data: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The whole program."""
        return (EXAMPLES / f"{self.name}.py").read_text(encoding="utf-8")

    def steps(self) -> list[str]:
        """The program cut before each ``# %%`` line."""
        steps: list[str] = []
        for line in self.source.splitlines(keepends=True):
            if line.startswith("# %%") or not steps:
                steps.append("")
            steps[-1] += line
        return steps

    def policy(self) -> Policy:
        """What the program may use."""
        return Policy(
            limits=Limits(time=30, memory=512 * 2**20),
            imports=DEFAULT_IMPORTS + self.imports if self.imports else None,
            files={name: DATA / name for name in self.data},
        )

    def run_plain(self, folder: Path) -> str:
        """Run it on this CPython, without a sandbox, in `folder`; its standard output. Raises CalledProcessError."""
        for name in self.data:
            (folder / name).write_bytes((DATA / name).read_bytes())
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / f"{self.name}.py")],
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "Agg", "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
            timeout=60,
        )
        return done.stdout.decode()


PROGRAMS = {
    program.name: program
    for program in (
        Program("orders", ("orders.csv",)),
        Program("access_log", ("access.log",)),
        Program("library", ("books.csv", "members.csv", "loans.csv")),
        Program("monte_carlo"),
        Program("reviews", ("reviews.jsonl",)),
        Program("chart", ("sensors.csv",), ("matplotlib.*", "numpy.*")),
    )
}
