"""What `safeexec setup wasm` and `safeexec doctor` do: prepare the image, carry Pyodide's files to other machines, tell the state."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from safeexec.errors import BackendUnavailable

from . import abi, image
from .image import cache
from .image.pins import PINS, VERSION

_WHEEL_PACKAGE: Final = "safeexec_wasm_data"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


class State(NamedTuple):
    """The image as it is: `ready`, or why not; its directory, and the bytes it takes there."""

    ready: bool
    reason: str
    directory: Path
    size: int


def setup(
    source: str | os.PathLike[str] | None = None,
    *,
    rebuild: bool = False,
    packages: Sequence[str] = (),
    progress: image.Progress | None = None,
) -> Path:
    """Make the image ready, from `source` (a directory or an archive of Pyodide's) if given; its directory.

    With `packages` it is the image that an executor with ``Policy(packages=packages)`` uses; `rebuild` then rebuilds that one only.
    `progress(stage, number, of)` hears of each stage. Raises BackendUnavailable with what to do.
    """
    from .backend import load_image

    if source is None and not rebuild:
        return load_image(progress, packages).compiled.parent
    try:
        if packages:
            from .packages import prepare

            made = prepare.ensure(
                packages, progress=progress, source=None if source is None else Path(source), rebuild=rebuild
            )
            return made.compiled.parent
        return image.ensure(progress, None if source is None else Path(source), rebuild).compiled.parent
    except (abi.EngineError, cache.Damaged, OSError) as error:
        raise BackendUnavailable(f"the wasm image could not be built: {error}") from error
    except Exception as error:
        if type(error).__module__.startswith("safeexec_backends.wasm.image"):
            raise BackendUnavailable(f"the wasm image could not be built: {error}") from error
        raise


def describe(directory: Path) -> list[str]:
    """What an image with packages holds, in a line for each project; and what is imported only when a session does."""
    facts = cache.load(directory).facts
    lines = [f"  {name} {version}" for name, version in sorted(facts["packages"].items())]
    for name, reason in facts["not_imported"].items():
        # The package's own words may be an attack on the terminal.
        plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in reason)
        lines.append(f"  not imported ahead: {name} ({plain})")
    return lines


def export_wheel(
    folder: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    progress: image.Progress | None = None,
) -> Path:
    """Write a wheel with Pyodide's files into `folder`; where it is installed, nothing is fetched.

    The same input gives the same wheel, byte for byte. Raises BackendUnavailable when the files cannot be had.
    """
    from .image import sources

    report = progress if progress is not None else image.silent
    try:
        found = sources.fetch(
            cache.cache_directory() / f"pyodide-{VERSION}",
            None if source is None else Path(source),
            lambda road: report(f"fetch from {road}", 0, 1),
            complete=source is None,
        )
    except sources.SourceError as error:
        raise BackendUnavailable(str(error)) from error
    information = f"{_WHEEL_PACKAGE}-{VERSION}.dist-info"
    files = {
        f"{_WHEEL_PACKAGE}/__init__.py": f'"""The files of Pyodide {VERSION}, for safeexec."""\n'.encode(),
        **{f"{_WHEEL_PACKAGE}/{name}": data for name, data in zip(PINS, found, strict=True) if data},
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {_WHEEL_PACKAGE.replace('_', '-')}\nVersion: {VERSION}\n".encode(),
        f"{information}/WHEEL": b"Wheel-Version: 1.0\nGenerator: safeexec\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{information}/RECORD"] = "\n".join([*record, f"{information}/RECORD,,", ""]).encode()
    target = Path(folder) / f"{_WHEEL_PACKAGE}-{VERSION}-py3-none-any.whl"
    partial = target.with_suffix(".part")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as wheel:
            for name, data in files.items():
                wheel.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
        partial.replace(target)
    except BaseException as error:
        partial.unlink(missing_ok=True)  # on a full disk it would keep it full
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(target)  # a write says what was wrong, and not where
        raise
    return target


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def state() -> State:
    """Whether the image of this configuration is there and sound. Builds nothing."""
    directory = cache.cache_directory()
    try:
        directory /= cache.key()
        loaded = cache.load(directory)
    except FileNotFoundError:
        return State(False, "it is not built yet: safeexec setup wasm, or the first use, builds it", directory, 0)
    except (cache.Damaged, abi.EngineError, OSError) as error:
        return State(False, str(error), directory, 0)
    size = sum(path.stat().st_size for path in loaded.compiled.parent.iterdir())
    return State(True, "", directory, size)
