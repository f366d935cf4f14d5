"""The command that starts a guest at a vendor."""

from __future__ import annotations

import base64
import json
import re
import shlex
import sys
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safeexec.bundle import guest_source
from safeexec.errors import PolicyError
from safeexec.policy import Policy

PACKAGES = ".safeexec-packages"
"""Folder in the home directory where packages are installed."""

_REQUIREMENT = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9,._-]+\])?((==|>=|<=|~=|!=|<|>)[A-Za-z0-9.*+!,<>=~-]+)?"
)


@cache
def _packed() -> str:
    folder = Path(__file__).parent
    files = (folder.parent / "import_rule.py", folder / "lines.py", folder / "relay.py")
    source = guest_source((f"safeexec_{path.stem}", path.read_text(encoding="utf-8")) for path in files)
    return base64.b64encode(zlib.compress(source.encode(), 9)).decode()


def import_patterns(policy: Policy) -> list[str]:
    """What a program may import. Below a standard module that is allowed, all is: ``os.path``."""
    allowed = policy.allowed_imports()
    return [*allowed, *(f"{name}.*" for name in allowed if name in sys.stdlib_module_names)]


def arguments(policy: Policy, python: str, packages: bool = False) -> list[str]:
    """The words of the command, about 48 KB: no file of ours is left in the sandbox, and no shell quotes anything."""
    setup: dict[str, Any] = {"memory": policy.limits.memory, "imports": import_patterns(policy)}
    if packages:
        setup["packages"] = PACKAGES
    code = (
        f"import zlib,base64,json,sys\nexec(zlib.decompress(base64.b64decode({_packed()!r})))\n"
        "sys.modules['safeexec_relay'].main(json.loads(sys.argv[1]))"
    )
    # Few arenas: what lies unused in one cannot be used by the threads of another, and counts towards the memory limit.
    return ["env", "MALLOC_ARENA_MAX=2", python, "-I", "-c", code, json.dumps(setup)]


def command(policy: Policy, python: str, packages: bool = False) -> str:
    """The same for a shell."""
    return "exec " + shlex.join(arguments(policy, python, packages))


def requirements(packages: Sequence[str]) -> list[str]:
    """The packages of a policy, each checked to be a name with a version at most: no option of pip, no path, no address. Raises PolicyError."""
    for package in packages:
        if not _REQUIREMENT.fullmatch(package):
            raise PolicyError(f"Policy.packages: {package!r} is not a distribution's name, with a version at most")
    return list(packages)


def install_command(packages: Sequence[str], python: str) -> str:
    """A shell command that installs packages beside the interpreter's own. Raises PolicyError."""
    words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--target"]
    return f"{shlex.join(words)} ~/{PACKAGES} -- {shlex.join(requirements(packages))}"
