"""From requirements to wheels: found once, then remembered with their hashes, so that the same policy needs no network again.

Roads, in this order: what was resolved before; pip with the user's indexes; pip with Pyodide's own distribution beside them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from safeexec import whole
from safeexec.errors import BackendUnavailable
from safeexec_backends.wasm.image import sources
from safeexec_backends.wasm.image.cache import Damaged, cache_directory, check_owner
from safeexec_backends.wasm.image.pins import PLATFORM, PYTHON, VERSION

from . import lock, pip
from .wheels import BadWheel, name_of

URL: Final = "SAFEEXEC_WASM_PACKAGES_URL"
LOCK: Final = "SAFEEXEC_WASM_LOCK"
"""Environment variables: where Pyodide's packages are, and another list of them."""
_FORMAT: Final = 1
_MAX_FILE: Final = 256 << 20


class Archive(NamedTuple):
    """One downloaded file: its name, its SHA-256, where it is cached."""

    name: str
    sha256: str
    path: Path


class Resolved(NamedTuple):
    """The archives that a set of requirements comes to, and of which project each requested one is."""

    archives: tuple[Archive, ...]
    requested: tuple[str, ...]

    def versions(self) -> dict[str, str]:
        """The projects and their versions."""
        return dict(name_of(a.name) for a in self.archives if a.name.endswith(".whl"))


def resolve(requirements: Sequence[str], note: Callable[[str], None], fresh: bool = False) -> Resolved:
    """The archives for `requirements` (in pip.normal's form); `fresh` resolves anew. `note` is told which road is tried.

    Raises BackendUnavailable.
    """
    folder = cache_directory() / "packages"
    requested = tuple(name_of_requirement(r) for r in requirements)
    remembered = folder / f"{_key(requirements)}.json"
    if not fresh:
        archives = _remembered(folder, remembered)
        if archives is not None:
            return Resolved(archives, requested)
    _make_private(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as temporary:
        files = _download(requirements, Path(temporary), note)
        archives = tuple(sorted(_keep(folder, file) for file in files))
    whole.write(remembered, json.dumps([[a.name, a.sha256] for a in archives]).encode())
    return Resolved(archives, requested)


def name_of_requirement(requirement: str) -> str:
    """The project that a requirement is about."""
    from .wheels import canonical

    match = pip._REQUIREMENT.fullmatch(requirement)
    assert match is not None
    return canonical(match["name"])


def _key(requirements: Sequence[str]) -> str:
    parts = [str(_FORMAT), VERSION, PYTHON, PLATFORM, os.environ.get(LOCK, ""), *requirements]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _remembered(folder: Path, file: Path) -> tuple[Archive, ...] | None:
    """What was resolved before, if every archive is still there and is the one it was."""
    try:
        check_owner(folder, True)
        check_owner(file, False)
        archives = tuple(Archive(name, sha256, folder / sha256 / name) for name, sha256 in json.loads(file.read_text()))
        for archive in archives:
            check_owner(archive.path, False)
            if _sha256(archive.path) != archive.sha256:
                return None
    except (OSError, ValueError, TypeError, Damaged):
        return None
    return archives


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(folder, True)
    except (OSError, Damaged) as error:
        raise BackendUnavailable(f"the cache of packages cannot be used: {error}") from error


def _keep(folder: Path, file: Path) -> Archive:
    """Move a download to its place, which its content names."""
    if not file.is_file() or file.is_symlink() or not file.name.endswith((".whl", ".zip")):
        raise BadWheel(f"{file.name!r} is not a wheel, and nothing else can be used")
    if file.stat().st_size > _MAX_FILE:
        raise BadWheel(f"{file.name} is larger than {_MAX_FILE >> 20} MiB")
    if file.suffix == ".whl":
        name_of(file.name)
    sha256 = _sha256(file)
    target = folder / sha256 / file.name
    target.parent.mkdir(mode=0o700, exist_ok=True)
    file.chmod(0o600)
    file.replace(target)
    return Archive(file.name, sha256, target)


def _download(requirements: Sequence[str], target: Path, note: Callable[[str], None]) -> list[Path]:
    note("pip")
    try:
        return pip.download(requirements, target)
    except pip.NotFound as error:
        first = error
    note("Pyodide's distribution")
    for leftover in target.iterdir():
        leftover.unlink()
    try:
        listed = _lock()
        files = pip.download(requirements, target, listed.page())
        return files + [lock.download(e, target) for e in listed.shared_libraries([name_of(f.name)[0] for f in files])]
    except pip.NotFound:
        raise first from None  # neither has it
    except BackendUnavailable as error:
        raise BackendUnavailable(f"{first}. Pyodide's own distribution, tried next, cannot be used: {error}") from error


def _lock() -> lock.Lock:
    """Pyodide's list of packages, with the address that the user or its own loader gives."""
    base = os.environ.get(URL)
    chosen = os.environ.get(LOCK)
    data = b""
    if chosen:
        try:
            data = Path(chosen).read_bytes()
        except OSError as error:
            raise BackendUnavailable(f"{LOCK}: {error}") from error
    if not data or not base:
        directory = cache_directory() / f"pyodide-{VERSION}"
        try:
            found = sources.fetch(directory, None, lambda _: None, complete=True)
        except sources.SourceError as error:
            raise BackendUnavailable(str(error)) from error
        for _ in sources.store(directory, found):
            pass
        data = data or found.lock
        base = base or lock.base_url(found.loader)
    if not base:
        raise BackendUnavailable(f"it is not known where Pyodide's packages are: set {URL}")
    return lock.read(data, base)
