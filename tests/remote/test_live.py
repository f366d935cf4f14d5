"""The conformance suite at the vendors themselves, walls included; runs where a key is set, and says so where none is."""

from __future__ import annotations

import os

import pytest

from safeexec import Policy
from safeexec.testing import conformance

NO_MODULES: tuple[str, ...] = ()


def absent(*names: str) -> str | None:
    """The reason why nothing is run: begins as tests/conftest.py wants it of a skip that stands in CI."""
    missing = [name for name in names if not os.environ.get(name)]
    return f"n/a: not run: no key ({', '.join(missing)} not set)" if missing else None


NO_E2B = absent("E2B_API_KEY")
NO_MODAL = absent("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")
NO_BLAXEL = absent("BL_API_KEY", "BL_WORKSPACE")

if NO_E2B is None:
    TestE2B = conformance("e2b", policy=Policy(), modules=("numpy", "pandas", "PIL", "matplotlib"), package="msgpack")
else:

    def test_e2b() -> None:
        pytest.skip(NO_E2B or "")


if NO_MODAL is None:
    TestModal = conformance("modal", policy=Policy(), modules=NO_MODULES, package="msgpack")
else:

    def test_modal() -> None:
        pytest.skip(NO_MODAL or "")


if NO_BLAXEL is None:
    TestBlaxel = conformance("blaxel", policy=Policy(), modules=NO_MODULES, package="msgpack")
else:

    def test_blaxel() -> None:
        pytest.skip(NO_BLAXEL or "")
