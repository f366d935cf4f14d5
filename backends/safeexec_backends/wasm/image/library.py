"""The standard library as compiled, uncompressed bytecode, made by the interpreter that will import it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Final

from safeexec_backends.wasm import abi
from safeexec_backends.wasm.fs_nodes import File, base_tree

from .boot import STDLIB, Interpreter

# Pyodide's glue needs JavaScript; the others need what this sandbox does not have (terminals, Tk) or are tests.
_LEFT_OUT: Final = ("_pyodide/", "pyodide/", "pyodide_js/", "js/", "idlelib/", "turtledemo/", "test/")
_COMPILE = """
import importlib._bootstrap_external, importlib.util, zipfile
def build(source, target):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith(".py"):
                code = compile(data, "/lib/python314.zip/" + item.filename, "exec", dont_inherit=True, optimize=0)
                data = importlib._bootstrap_external._code_to_hash_pyc(code, importlib.util.source_hash(data), False)
                new.writestr(item.filename + "c", bytes(data))
            else:
                new.writestr(item.filename, data)
build("/lib/source.zip", "/tmp/library.zip")
"""


def select(archive: bytes, own: Mapping[str, bytes]) -> bytes:
    """Pyodide's archive without what has no place here, with modules of our `own`, uncompressed."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as kept,
    ):
        for item in source.infolist():
            if not item.is_dir() and not item.filename.startswith(_LEFT_OUT) and item.filename not in own:
                kept.writestr(zipfile.ZipInfo(item.filename), source.read(item))
        for name, data in own.items():
            kept.writestr(zipfile.ZipInfo(name), data)
    return target.getvalue()


def compile_library(program: abi.Program, archive: bytes, missing: tuple[str, ...]) -> bytes:
    """Compile the library in a throw-away interpreter. Raises BootError if that fails."""
    # zlib works from the start in this interpreter, so the sources can be read from the archive itself.
    base = base_tree({STDLIB[1:]: archive, "lib/source.zip": archive})
    interpreter = Interpreter(program, base, missing)
    try:
        interpreter.start((STDLIB,))
        interpreter.run(_COMPILE)
        node = interpreter.host.files.lookup("/tmp/library.zip")
        assert isinstance(node, File)
        return bytes(node.data)
    finally:
        interpreter.host.close()


def time_zones() -> Mapping[str, bytes]:
    """The time zone database of this machine, for `zoneinfo`: its TZif files by name; empty if there is none."""
    import zoneinfo
    from pathlib import Path

    found: dict[str, bytes] = {}
    places = [Path(place) for place in zoneinfo.TZPATH]
    try:
        import tzdata  # type: ignore[import-not-found,import-untyped,unused-ignore]

        places.append(Path(tzdata.__file__).parent / "zoneinfo")
    except ImportError:
        pass
    for name in sorted(zoneinfo.available_timezones()):
        for place in places:
            path = place / name
            if path.is_file():
                data = path.read_bytes()
                if data[:4] == b"TZif" and len(data) < 100_000:
                    found[name] = data
                break
    return found
