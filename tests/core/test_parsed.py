"""What a stranger's program costs the host that only parses it."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from safeexec import parsed
from safeexec.cli.repl import complete
from safeexec.integrations._code import _assigned

LONG = "import a" + ".b" * 500_000
"""250 gigabytes, to the parser."""


@pytest.mark.parametrize(
    "source",
    [
        LONG, "x = 1\nfrom a" + ".b" * 101 + " import c", "import a" + " . b" * 101, "import a" + ".\\\nb" * 101, "import a" + "\\\r\n.b" * 101,
        "import a" + ".\u2118" * 101, "import \u2118" + ".\xe9\t" * 101, "if x: import a" + ".b" * 101, "import z, a" + ".b" * 101,
    ],
)  # fmt: skip
def test_names_of_many_parts_are_not_parsed(source: str) -> None:
    with pytest.raises(ValueError, match="dots"):
        parsed.parse(source)


@pytest.mark.parametrize(
    "source",
    [
        "import os.path, a" + ".b" * 50, "x = [" + ",".join(["1.5"] * 10_000) + "]", "# " + "." * 100_000, "'" + ". " * 10_000 + "'", "x = a" + ".b()" * 80,
        "x = 1" + " + 1." * 80, "s = '''" + "a sentence. " * 10_000 + "'''",
    ],
)  # fmt: skip
def test_ordinary_programs_are(source: str) -> None:
    assert ast.dump(parsed.parse(source)) == ast.dump(ast.parse(source))


def test_looking_takes_no_longer_than_parsing() -> None:
    """Chains just short of what is refused, words without end, gaps without end."""
    for source in (
        ("a" + ".b" * 98 + " ") * 5_000,
        "w" * 1_000_000,
        "a" + " " * 1_000_000,
        ("a" + " " * 1000) * 1000,
        "a\\\n" * 300_000,
    ):
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from safeexec import parsed; parsed.check(sys.stdin.read())"],
            input=source, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert done.returncode == 0


def test_whoever_parses_on_the_host_refuses_them() -> None:
    assert complete(LONG), "it goes to the sandbox, which has a limit on memory"
    assert _assigned(LONG) is None and _assigned("x = 1\n" * 50_000) is None and _assigned("x = 1") == "x"
