"""pip, asked for wheels that run on the wasm sandbox instead of on this machine.

pip resolves, downloads and checks the indexes' hashes, with the user's own pip configuration (indexes, mirrors, find-links, proxies). It is
only ever told to take wheels: nothing of a package is built or run on the host.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from safeexec.errors import BackendUnavailable, PolicyError
from safeexec_backends.wasm.image.pins import PLATFORM, PYTHON

_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(\[[A-Za-z0-9,._ -]+\])?"
    r"(?P<rest>( *(===|==|~=|!=|<=|>=|<|>) *[A-Za-z0-9.*+!_-]+ *(,(?=.)|$))*)"
)
_ABI: Final = "cp" + "".join(PYTHON.split(".")[:2])
TAGS: Final = (f"{_ABI}-{_ABI}-{PLATFORM}", f"abi3-{PLATFORM}", "py3-none-any")
_TIMEOUT: Final = 900
# pip decides "; sys_platform == …" by the interpreter that runs it, whatever --platform says.
_MARKERS: Final = {
    "implementation_name": "cpython",
    "implementation_version": PYTHON,
    "os_name": "posix",
    "platform_machine": "wasm32",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Emscripten",
    "platform_version": "",
    "python_full_version": PYTHON,
    "python_version": ".".join(PYTHON.split(".")[:2]),
    "sys_platform": "emscripten",
}
MOST_MEMORY: Final = 2 << 30
MOST_WRITTEN: Final = 512 << 20
"""Bytes of pip's own memory, and of one file that it writes. It unpacks what wheels say of themselves, all of it: two kilobytes can be any number of gigabytes."""
_PROGRAM: Final = """
import json, sys
environment, limits = json.loads(sys.argv.pop(1))
try:
    import resource
except ImportError:  # Windows
    limits = {}
for name, most in limits.items():
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    try:
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    except (OSError, ValueError):  # macOS does not bound addresses
        pass
import pip._internal.cli.main
from pip._vendor.packaging import markers
markers.default_environment  # fails here, and not silently, where pip keeps it elsewhere
markers.default_environment = lambda: dict(environment)
sys.exit(pip._internal.cli.main.main(sys.argv[1:]))
"""
_NETWORK: Final = (
    "Retrying (",
    "NewConnectionError",
    "Connection refused",
    "Temporary failure",
    "Max retries",
    "timed out",
)


class NotFound(BackendUnavailable):
    """pip found no set of wheels that fits; perhaps another road has them."""


def normal(requirements: Sequence[str]) -> tuple[str, ...]:
    """Requirements in one spelling and order. Raises PolicyError for what is no name with an optional version."""
    found = set()
    for requirement in requirements:
        text = requirement.strip()
        # An option, a path or an address in its place would be obeyed by pip.
        if not _REQUIREMENT.fullmatch(text):
            raise PolicyError(
                f"Policy.packages: {requirement!r} is not the name of a package with an optional version, as in 'attrs' or 'attrs>=25'"
            )
        found.add(re.sub(r"\s+", "", text))
    return tuple(sorted(found))


def download(requirements: Sequence[str], target: Path, links: str | None = None) -> list[Path]:
    """Resolve and download into `target`; the wheels. `links` is a page of more wheels to choose from.

    Raises NotFound when there is no such wheel, BackendUnavailable when pip cannot do it.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "download", "--quiet", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:",
            "--python-version", PYTHON, "--implementation", "cp", "--abi", _ABI, "--platform", PLATFORM, "--dest", str(target),
        ]  # fmt: skip
        if links is not None:
            page = Path(folder) / "links.html"
            page.write_text(links)
            options += ["--find-links", str(page)]
        limits = {"RLIMIT_AS": MOST_MEMORY, "RLIMIT_FSIZE": MOST_WRITTEN}
        command = [*_pip(folder), json.dumps([_MARKERS, limits]), *options, "--", *requirements]
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT,
                env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8"},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendUnavailable(f"pip could not be run: {error}") from error
    if done.returncode:
        raise _failure(requirements, done.stderr)
    return sorted(target.iterdir())


def _failure(requirements: Sequence[str], output: str) -> BackendUnavailable:
    """What pip's complaint means."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [
        line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"
    ]
    last = [line for line in lines if not line.startswith("WARNING: ")][-1:]
    reason = "; ".join(dict.fromkeys(errors or last))[:1500] or "it does not say why"
    wanted = ", ".join(requirements)
    if "DO NOT MATCH THE HASHES" in output:
        details = "; ".join(line for line in lines if line.startswith(("Expected sha256", "Got ")))
        return BackendUnavailable(
            f"Policy.packages: a wheel for {wanted} is not the file that its index names: {details}"
        )
    if any(sign in output for sign in _NETWORK):
        reason += ". The package index could not be reached: check the network and pip's configuration, or name a directory of wheels in PIP_FIND_LINKS"
        return BackendUnavailable(f"Policy.packages: {wanted}: {reason}")
    if "No matching distribution" in output or "ResolutionImpossible" in output or "conflict" in output:
        return NotFound(
            f"Policy.packages: no wheels for {wanted} fit the wasm sandbox ({reason}). Looked for: {', '.join(TAGS)}. Take another version, "
            "name a directory that has such wheels in PIP_FIND_LINKS, or use sandbox='docker'"
        )
    return BackendUnavailable(f"Policy.packages: pip cannot get {wanted}: {reason}")


def _pip(folder: str) -> list[str]:
    """The command that runs pip's program: with this interpreter's pip, or that of a virtual environment made for it."""
    import importlib.util

    python = sys.executable
    if importlib.util.find_spec("pip") is None:
        environment = Path(folder) / "pip"
        try:
            subprocess.run(
                [python, "-I", "-m", "venv", str(environment)], check=True, capture_output=True, timeout=_TIMEOUT
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise BackendUnavailable(
                f"pip is needed for Policy.packages, and is neither installed nor to be had: {error}; python -m ensurepip"
            ) from error
        python = str(environment / ("Scripts" if os.name == "nt" else "bin") / "python")
    return [python, "-c", _PROGRAM]
