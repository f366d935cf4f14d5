"""Without a vendor's SDK, its sandbox says what to install; with it, nothing of it is loaded before it is used."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from safeexec import Executor
from safeexec.errors import BackendUnavailable

VENDORS = {"e2b": "e2b_code_interpreter", "modal": "modal", "blaxel": "blaxel"}


@pytest.mark.parametrize("vendor", VENDORS)
def test_absent_sdk(vendor: str, environment: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    environment.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == VENDORS[vendor] else found(name, *rest)
    )
    with pytest.raises(BackendUnavailable, match=rf"safeexec\[{vendor}\]"):
        Executor(vendor)


def test_vendors_are_loaded_on_use_only() -> None:
    code = "import sys\nimport safeexec, safeexec.serve.e2b\n"
    code += "".join(f"import safeexec_backends.{vendor}\n" for vendor in VENDORS)
    code += "print(sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    words = [sys.executable, "-c", code, *VENDORS.values(), "e2b", "grpclib", "httpx", "connectrpc"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
