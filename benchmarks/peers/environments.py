"""The environments of the peers: one virtual environment each, versions pinned; what cannot be built is reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Peer:
    """One executor: what is installed for it, and what it must find on the machine."""

    name: str
    title: str
    packages: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    ours: bool = False
    subset: bool = False
    python: str = ""
    """The oldest Python that it is made for, where that is newer than ours."""
    environment: str = ""
    """The environment's name, where several peers share one."""


PEERS = (
    Peer("wasm", "safeexec wasm", ours=True, environment="safeexec"),
    Peer("wasm0", "safeexec wasm, workers=0", ours=True, environment="safeexec"),
    Peer("local", "safeexec local", ours=True, environment="safeexec"),
    Peer("wasm-never", 'safeexec wasm, rollback="never"', ours=True, environment="safeexec"),
    Peer("local-never", 'safeexec local, rollback="never"', ours=True, environment="safeexec"),
    Peer("fork", "fork and a pipe (no walls)", environment="plain"),
    Peer("subprocess", "subprocess python -I (no walls)", environment="plain"),
    Peer("restricted", "RestrictedPython, bare", ("RestrictedPython==9.0",), subset=True),
    Peer("smolagents", "smolagents LocalPythonExecutor", ("smolagents==1.26.0",), subset=True),
    Peer("monty", "pydantic-monty", ("pydantic-monty==1.4.0",), subset=True),
    Peer("eryx", "pyeryx", ("pyeryx==0.11.0",), python="3.12"),  # no wheels for less
    Peer("sandlock", "sandlock", ("sandlock==0.9.0",)),
    Peer("ipykernel", "ipykernel", ("ipykernel==7.4.0",)),
    Peer("bubblewrap", "bubblewrap", programs=("bwrap",), debian=("bubblewrap",), environment="plain"),
    Peer("gvisor", "gVisor (ptrace)", programs=("runsc",), debian=("runsc",), environment="plain"),
)
BY_NAME = {peer.name: peer for peer in PEERS}


@dataclass
class Built:
    """An environment that is there, or why it is not."""

    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    failure: str = ""


def build(names: list[str], folder: Path) -> dict[str, Built]:
    """Make what is missing, two at a time. Never raises for a peer that cannot be installed: its `failure` says why."""
    folder.mkdir(parents=True, exist_ok=True)
    debian = sorted({p for n in names for p in BY_NAME[n].debian if not all(map(_find, BY_NAME[n].programs))})
    if debian:
        _apt(debian)
    wanted = {peer.environment or peer.name: peer for peer in map(BY_NAME.__getitem__, names)}
    with ThreadPoolExecutor(2) as threads:
        made = dict(zip(wanted, threads.map(lambda e: _environment(folder / e, e, wanted[e]), wanted), strict=True))
    found = {}
    for name in names:
        peer = BY_NAME[name]
        environment = made[peer.environment or name]
        built = Built(environment.python, dict(environment.versions), environment.failure)
        for program in peer.programs:
            where = _find(program)
            if where is None:
                built.failure = f"{program} is not on this machine and could not be installed (apt-get install {' '.join(peer.debian)})"
            else:
                built.versions[program] = _version(where)
        found[name] = built
    return found


def _find(program: str) -> str | None:
    return shutil.which(program)


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def _apt(packages: list[str]) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["install", "-y", "-q", *packages], ["update", "-q"], ["install", "-y", "-q", *packages]):
        done = subprocess.run(["apt-get", *command], capture_output=True, env=environment, timeout=300)
        if command[0] == "install" and done.returncode == 0:
            return


def _interpreter(version: str) -> str:
    """This Python, or one that is `version`: on PATH or under pyenv. Raises OSError."""
    if not version:
        return sys.executable
    under = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}*/bin/python3"))
    for candidate in (shutil.which(f"python{version}"), *map(str, under)):
        if candidate and subprocess.run([candidate, "-c", "import ensurepip"], capture_output=True).returncode == 0:
            return candidate
    raise OSError(f"it needs Python {version}, which is not on this machine")


def _environment(folder: Path, name: str, peer: Peer) -> Built:
    packages = peer.packages
    python = folder / "bin" / "python"
    mark = folder / "built"
    wanted = "\n".join((sys.version, peer.python, *packages))
    try:
        if not mark.exists() or mark.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            _run([_interpreter(peer.python), "-m", "venv", str(folder)])
            if name == "safeexec":
                _run([str(python), "-m", "pip", "install", "-q", "-e", str(ROOT)])
            elif packages:
                _run([str(python), "-m", "pip", "install", "-q", *packages])
            mark.write_text(wanted)
        listed = _run(
            [str(python), "-m", "pip", "list", "--format=freeze", "--exclude", "pip", "--exclude", "setuptools"]
        )
    except (subprocess.SubprocessError, OSError) as error:
        detail = getattr(error, "stderr", "") or ""
        lines = [line for line in str(detail).splitlines() if not line.startswith("WARNING")]
        return Built(failure=f"{error.__class__.__name__}: {' '.join(lines[-3:]) or error}")
    return Built(str(python), dict(line.split("==", 1) for line in listed.splitlines() if "==" in line))


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
