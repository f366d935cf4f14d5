"""Wheels: what they are called, and what is in them.

A wheel is a stranger's archive. Nothing is unpacked onto the host: members become files of the sandbox's own file system, and names that
reach out of it, links, devices and archives that blow up are refused.
"""

from __future__ import annotations

import mmap
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from safeexec.errors import BackendUnavailable

MAX_FILES: Final = 30_000
MAX_BYTES: Final = 256 << 20
"""Of all members together, unpacked; pandas has 40 MB, scipy 60 MB."""
MAX_FILE: Final = 128 << 20
_NAME: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._]*)-(?P<version>[^-]+)(-[0-9][^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)
_DATA: Final = re.compile(r"[^/]+\.data/(?P<scheme>[^/]+)/(?P<rest>.+)")
_IMPORTABLE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(\.py|\.[A-Za-z0-9_.-]*so)?")


class BadWheel(BackendUnavailable):
    """A wheel that is not used; the message says why."""


class Wheel(NamedTuple):
    """What a wheel brings: its project's name and version, its files below site-packages, the modules at the top."""

    name: str
    version: str
    files: Mapping[str, bytes]
    modules: tuple[str, ...]


def canonical(name: str) -> str:
    """A project's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(file: str) -> tuple[str, str]:
    """Name and version that a wheel's file name gives. Raises BadWheel."""
    match = _NAME.fullmatch(file)
    if match is None:
        raise BadWheel(f"{file!r} is not the name of a wheel")
    return canonical(match["name"]), match["version"]


def _check_member(wheel: str, item: zipfile.ZipInfo) -> None:
    """Refuse members that are not plain files with plain names."""
    parts = item.filename.rstrip("/").split("/")
    # ZipInfo cuts names at a NUL and turns backslashes round only on Windows: what is left of either is no wheel's doing.
    hostile = any(p in ("", ".", "..") or len(p.encode()) > 255 or "\\" in p or "\0" in p for p in parts)
    if hostile or len(parts) > 64 or re.match(r"[A-Za-z]:", item.filename):
        raise BadWheel(f"{wheel}: the member {item.filename[:200]!r} would lie outside the packages' directory")
    kind = stat.S_IFMT(item.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadWheel(f"{wheel}: the member {item.filename[:200]!r} is a link or a device")
    # Of the others a few kilobytes are unpacked to gigabytes before it is seen that they are more than was said.
    if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadWheel(f"{wheel}: the member {item.filename[:200]!r} is compressed in a way that wheels are not")
    if item.flag_bits & 1:
        raise BadWheel(f"{wheel}: the member {item.filename[:200]!r} is encrypted")


def read(path: Path, budget: int = MAX_BYTES) -> Wheel:
    """Read a wheel. `budget` is what its members may hold together, in bytes. Raises BadWheel."""
    name, version = name_of(path.name)
    files = read_zip(path, budget)
    return Wheel(name, version, files, _modules(files))


def read_zip(path: Path, budget: int = MAX_BYTES) -> dict[str, bytes]:
    """The files of an archive, by name. Raises BadWheel."""
    try:
        # Before it is read: a description of each member is made, six million of them for a file that a download may be.
        if _described(path) > MAX_FILES:
            raise BadWheel(_too_large(path.name, budget))
        with zipfile.ZipFile(path) as archive:
            files = _members(path.name, archive, budget)
    # struct.error, IndexError and their kind come out of the standard library for archives that are damaged in unusual places.
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        struct.error,
        IndexError,
    ) as error:
        raise BadWheel(f"{path.name} cannot be read: {error}") from error
    check_places(files)
    return files


def check_places(files: Mapping[str, bytes]) -> None:
    """Refuse a name that is a file and a directory. Raises BadWheel."""
    folders = {"/".join(file.split("/")[:depth]) for file in files for depth in range(1, file.count("/") + 1)}
    for folder in sorted(folders & files.keys()):
        raise BadWheel(f"{folder!r} is a file in one place of the packages and a directory in another")


def _described(path: Path) -> int:
    """How many members an archive may have at most: as often as the mark is there by which the description of one begins."""
    found, place = 0, -1
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while found <= MAX_FILES and (place := data.find(b"PK\x01\x02", place + 1)) >= 0:
            found += 1
    return found


def _too_large(wheel: str, budget: int) -> str:
    return f"{wheel} is too large: at most {MAX_FILES} files and {budget >> 20} MiB unpacked"


def _members(wheel: str, archive: zipfile.ZipFile, budget: int) -> dict[str, bytes]:
    items = archive.infolist()
    # The sizes are the archive's own claim. Reading stops at them, and so does unpacking, where it is told: together they bound what is read.
    if len(items) > MAX_FILES or sum(item.file_size for item in items) > budget:
        raise BadWheel(_too_large(wheel, budget))
    files: dict[str, bytes] = {}
    for item in items:
        _check_member(wheel, item)
        if item.is_dir():
            continue
        if item.file_size > MAX_FILE:
            raise BadWheel(f"{wheel}: {item.filename[:200]!r} has more than {MAX_FILE >> 20} MiB")
        place: str | None = item.filename
        if match := _DATA.fullmatch(item.filename):
            # Scripts, headers and data files have no place in a sandbox.
            place = match["rest"] if match["scheme"] in ("purelib", "platlib") else None
        if place is None:
            continue
        if place in files:
            raise BadWheel(f"{wheel}: {place!r} is there twice")
        with archive.open(item) as file:
            files[place] = file.read(item.file_size)
    return files


def _modules(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The modules a wheel is there for: its top-level packages and modules, but tests and private ones."""
    found = set()
    for file in files:
        first, _, rest = file.partition("/")
        match = _IMPORTABLE.fullmatch(first)
        if match is None or match["name"].startswith("_") or match["name"] in ("tests", "test", "docs", "examples"):
            continue
        if rest == "__init__.py" or (not rest and match.end("name") < len(first)):
            found.add(match["name"])
    return tuple(sorted(found))
