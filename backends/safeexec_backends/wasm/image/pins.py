"""What an image is made of: the pinned files of Pyodide, and the guest program."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

VERSION: Final = "314.0.7"
WASM: Final = "pyodide.asm.wasm"
LIBRARY: Final = "python_stdlib.zip"
PINS: Final = {
    WASM: "cc36e3cab04fdfc9a63ff13eb52eae2b911bf46c025cc7b281f394bd3de1d5e6",
    LIBRARY: "fa1957e5777068fc4f7437f96d860ae2fbe9c19732ba06c84e004ec16dd7dd7a",
}
GUEST_FILES: Final = "lib/safeexec/"


def guest_files() -> dict[str, bytes]:
    """The guest program and its protocol, as text, from the core; and what fits them to this sandbox."""
    found = {"safeexec_runtime": Path(__file__).parent.with_name("guest_runtime.py").read_bytes()}
    for module, name in (("safeexec.guest", "safeexec_guest"), ("safeexec.wire", "safeexec_wire")):
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        found[name] = Path(spec.origin).read_bytes()
    return {f"{GUEST_FILES}{name}.py": data for name, data in found.items()}
