"""Pyodide's own distribution: the packages that were built for this release, listed in `pyodide-lock.json` with their SHA-256."""

from __future__ import annotations

import hashlib
import html
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Final, NamedTuple

from safeexec.errors import BackendUnavailable
from safeexec_backends.wasm.image.pins import VERSION

from .wheels import canonical

# The loader builds the address from its own version: https://…/v${version}/full/
_ADDRESS: Final = re.compile(r"(https://[A-Za-z0-9./_-]+/v)\$\{\w+\}(/[A-Za-z0-9/_-]+/)")
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_MAX_LIBRARY: Final = 128 << 20
_TIMEOUT: Final = 60


class Entry(NamedTuple):
    """One package of the distribution: where it is, what it must hash to, what it needs."""

    name: str
    url: str
    file: str
    sha256: str
    depends: tuple[str, ...]
    shared: bool


class Lock(NamedTuple):
    """The distribution, by canonical name."""

    entries: dict[str, Entry]

    def page(self) -> str:
        """Its wheels as a page of links, for pip's --find-links: pip checks each against the hash in its link."""
        links = "\n".join(
            f'<a href="{html.escape(entry.url)}#sha256={entry.sha256}">{html.escape(entry.file)}</a>'
            for entry in self.entries.values()
            if entry.file.endswith(".whl")
        )
        return f"<!DOCTYPE html><html><body>\n{links}\n</body></html>\n"

    def shared_libraries(self, names: list[str]) -> list[Entry]:
        """The shared libraries that packages of the distribution need, each once, dependencies first."""
        found: dict[str, Entry] = {}
        seen: set[str] = set()

        def visit(name: str) -> None:
            entry = self.entries.get(canonical(name))
            if entry is None or entry.name in seen:
                return
            seen.add(entry.name)
            for needed in entry.depends:
                visit(needed)
            if entry.shared:
                found[entry.name] = entry

        for name in names:
            visit(name)
        return list(found.values())


def base_url(loader: bytes) -> str | None:
    """Where Pyodide's own loader looks for packages."""
    match = _ADDRESS.search(loader.decode(errors="replace"))
    return None if match is None else f"{match[1]}{VERSION}{match[2]}"


def read(data: bytes, base: str) -> Lock:
    """Read the list; addresses in it are relative to `base`. Raises BackendUnavailable for what is no such list."""
    entries: dict[str, Entry] = {}
    try:
        for key, item in json.loads(data)["packages"].items():
            file, kind = item["file_name"], item["package_type"]
            url = file if "://" in file else urllib.parse.urljoin(base.rstrip("/") + "/", urllib.parse.quote(file))
            name = urllib.parse.unquote(url.rsplit("/", 1)[-1])
            if not _FILE.fullmatch(name) or not re.fullmatch(r"[0-9a-f]{64}", item["sha256"]):
                raise ValueError(f"the entry {key!r} has no proper file name or hash")
            if kind in ("package", "shared_library"):
                entries[canonical(key)] = Entry(
                    canonical(key), url, name, item["sha256"], tuple(item["depends"]), kind == "shared_library"
                )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendUnavailable(f"Pyodide's list of packages cannot be read: {error}") from error
    return Lock(entries)


def download(entry: Entry, folder: Path) -> Path:
    """Fetch one file of the distribution and check its hash. Raises BackendUnavailable."""
    target = folder / entry.file
    digest = hashlib.sha256()
    size = 0
    try:
        with urllib.request.urlopen(entry.url, timeout=_TIMEOUT) as answer, open(target, "wb") as file:
            while data := answer.read(1 << 20):
                size += len(data)
                if size > _MAX_LIBRARY:
                    raise BackendUnavailable(f"{entry.url} is larger than {_MAX_LIBRARY >> 20} MiB")
                digest.update(data)
                file.write(data)
    except (OSError, ValueError) as error:
        raise BackendUnavailable(f"{entry.url} cannot be fetched: {error}") from error
    if digest.hexdigest() != entry.sha256:
        target.unlink()
        raise BackendUnavailable(
            f"{entry.url} is not the file that Pyodide {VERSION} names: its SHA-256 is another one"
        )
    return target
