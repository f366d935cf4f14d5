"""The conformance suite on the local sandbox."""

from __future__ import annotations

from safeexec.testing import conformance

TestLocal = conformance("local", modules=("numpy", "pandas", "PIL", "matplotlib"))
