"""The runtime image: Pyodide's CPython, linked, booted, frozen, compiled, cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import cache
from .cache import Loaded

Progress = Callable[[str, int, int], None]


def cached() -> Loaded | None:
    """The image of this configuration, if the cache has it. Raises OSError."""
    try:
        return cache.load(cache.cache_directory() / cache.key())
    except (FileNotFoundError, cache.Damaged):
        return None


def ensure(progress: Progress | None = None, source: Path | None = None, rebuild: bool = False) -> Loaded:
    """The image of this configuration: from the cache, or built now (about 20 s on two cores).

    `progress(stage, number, of)` hears of each stage; `source` is a directory or archive with Pyodide's files. Parallel callers wait for
    the first one's build. Raises SourceError when Pyodide's files cannot be had, and the builder's errors.
    """
    found = None if rebuild else cached()
    if found is not None:
        return found
    report = progress if progress is not None else silent
    folder = cache.cache_directory()
    directory = folder / cache.key()
    with cache.locked(folder, lambda: report("wait for another build", 0, 1)):
        found = None if rebuild else cached()
        if found is not None:
            return found
        from . import build, sources
        from .pins import VERSION

        last = len(build.STAGES) - 1
        report("fetch", 0, last)
        originals = folder / f"pyodide-{VERSION}"
        fetched = sources.fetch(originals, source, lambda road: report(f"fetch from {road}", 0, last))
        for _ in sources.store(originals, fetched):
            pass
        image = build.build(fetched.wasm, fetched.library, report)
        report("verify", build.STAGES.index("verify"), last)
        cache.publish(folder, directory.name, image.compiled, image.files, image.facts)
        loaded = cache.load(directory)
        cache.remove_others(folder, directory.name)
        report("done", last, last)
        return loaded


def silent(_stage: str, _number: int, _of: int) -> None:
    """No progress wanted."""
