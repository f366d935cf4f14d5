"""The image that has a set of packages: found in the cache by its content, or built."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from safeexec_backends.wasm import image
from safeexec_backends.wasm.image import cache
from safeexec_backends.wasm.image.boot import SITE
from safeexec_backends.wasm.image.packages import STAGES, Bundle, build_with, code_key
from safeexec_backends.wasm.image.pins import VERSION

from . import pip, wheels
from .resolve import Resolved, resolve

_PREFIX: Final = "packages-"
_KEEP: Final = 8
_SHARED: Final = "usr/lib/"
# Files that are replaced: without a browser's JavaScript, which urllib3's part for emscripten imports, `import urllib3` would fail.
_REPLACED: Final = {
    f"{SITE[1:]}/urllib3/contrib/emscripten/__init__.py": b"def inject_into_urllib3() -> None:\n    pass\n",
}


def ensure(
    requirements: Sequence[str],
    *,
    preimport: bool = True,
    progress: image.Progress | None = None,
    source: Path | None = None,
    rebuild: bool = False,
) -> cache.Loaded:
    """The image with these packages. The first time takes as long as the plain image does, afterwards it is in the cache.

    With `preimport`, the modules of the requested packages are imported ahead where that is safe. `rebuild` resolves and builds anew.
    Raises PolicyError for what is no requirement, BackendUnavailable, and the builder's errors.
    """
    wanted = pip.normal(requirements)
    base = image.ensure(progress, source, False)
    report = progress if progress is not None else image.silent
    last = len(STAGES) - 1
    resolved = resolve(wanted, lambda road: report(f"resolve packages with {road}", 0, last), rebuild)
    folder = cache.cache_directory()
    directory = folder / f"{_PREFIX}{_key(resolved, preimport)}"
    found = None if rebuild else _cached(directory)
    if found is not None:
        return found
    with cache.locked(folder, lambda: report("wait for another build", 0, last)):
        found = None if rebuild else _cached(directory)
        if found is not None:
            return found
        from safeexec_backends.wasm.image import sources

        originals = sources.fetch(folder / f"pyodide-{VERSION}", source, lambda _: None)
        bundle = _bundle(resolved, preimport)
        made = build_with(originals.wasm, base.files, bundle, report)
        report("verify", STAGES.index("verify"), last)
        facts = {**made.facts, "packages": resolved.versions()}
        cache.publish(folder, directory.name, made.compiled, made.files, facts)
        loaded = cache.load(directory)
        _remove_oldest(folder, directory)
        report("done", last, last)
        return loaded


def _key(resolved: Resolved, preimport: bool) -> str:
    digest = hashlib.sha256(code_key())
    for text in (cache.key(), str(preimport), *resolved.requested, "", *sorted(a.sha256 for a in resolved.archives)):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:32]


def _cached(directory: Path) -> cache.Loaded | None:
    try:
        loaded = cache.load(directory)
    except (FileNotFoundError, cache.Damaged):
        return None
    os.utime(directory)  # so that the ones in use are not the oldest
    return loaded


def _bundle(resolved: Resolved, preimport: bool) -> Bundle:
    """The files of all archives, below their places in the image."""
    files: dict[str, bytes] = {}
    modules: list[str] = []
    budget = wheels.MAX_BYTES
    for archive in resolved.archives:
        if archive.name.endswith(".whl"):
            wheel = wheels.read(archive.path, budget)
            content = {f"{SITE[1:]}/{name}": data for name, data in wheel.files.items()}
            if preimport and wheel.name in resolved.requested:
                modules += wheel.modules
        else:
            libraries = wheels.read_zip(archive.path, budget)
            content = {_SHARED + name.rsplit("/", 1)[-1]: data for name, data in libraries.items() if ".so" in name}
        budget -= sum(map(len, content.values()))
        files |= content
    files |= {name: data for name, data in _REPLACED.items() if name in files}
    wheels.check_places(files)
    return Bundle(files, tuple(modules))


def _remove_oldest(folder: Path, kept: Path) -> None:
    images = [p for p in folder.glob(f"{_PREFIX}*") if p.is_dir() and p != kept]
    images.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    for old in images[_KEEP - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
