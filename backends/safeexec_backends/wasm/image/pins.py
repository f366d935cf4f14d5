"""What an image is made of: the pinned files of Pyodide, and the guest program."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

VERSION: Final = "314.0.7"
WASM: Final = "pyodide.asm.wasm"
LIBRARY: Final = "python_stdlib.zip"
LOCK: Final = "pyodide-lock.json"
"""The packages that were built for this release: names, files, SHA-256."""
LOADER: Final = "pyodide.mjs"
"""Says where those files are."""
OPTIONAL: Final = frozenset({LOCK, LOADER})
"""Only packages from Pyodide's own distribution need these."""
PYTHON: Final = "3.14.2"
PLATFORM: Final = "pyemscripten_2026_0_wasm32"
"""The platform tag of wheels for this release's ABI, as PEP 783 has it."""
PINS: Final = {
    WASM: "cc36e3cab04fdfc9a63ff13eb52eae2b911bf46c025cc7b281f394bd3de1d5e6",
    LIBRARY: "fa1957e5777068fc4f7437f96d860ae2fbe9c19732ba06c84e004ec16dd7dd7a",
    LOCK: "5dc2fc119108bc148c7457dc86e7675b5c87e1cafd420b9c34c1eaef7b36c010",
    LOADER: "6f1d60f7bf529beb300f0f47983c921d3982363640ba20af0e38efdddbc66109",
}
GUEST_FILES: Final = "lib/safeexec/"
_HERE: Final = Path(__file__).parents[1]


def guest_files() -> dict[str, bytes]:
    """The guest program and its protocol, as text, from the core; and what fits them to this sandbox."""
    found = {
        f"safeexec_{name}": (_HERE / f"guest_{name}.py").read_bytes()
        for name in ("runtime", "hashing", "system", "alarms", "missing")
    }
    found["safeexec_import_rule"] = (_HERE.parent / "import_rule.py").read_bytes()
    for module, name in (("safeexec.guest", "safeexec_guest"), ("safeexec.wire", "safeexec_wire")):
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        found[name] = Path(spec.origin).read_bytes()
    return {f"{GUEST_FILES}{name}.py": data for name, data in found.items()}


def own_library() -> dict[str, bytes]:
    """Modules of the standard library that Pyodide leaves out or that need JavaScript there, by their places in the library."""
    folder = _HERE / "stdlib"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.py"))}
