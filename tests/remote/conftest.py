"""Fixtures of the remote sandboxes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.remote.served import Served

KEY = "e2b_" + "5afe" * 10
"""What the loopback server takes for a key; tests look for it where it must not be."""
TOKEN = ("ak-" + "5afe" * 5, "as-" + "5afe" * 5)
"""The same for Modal."""
WORKSPACE = "tests"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with one small wheel, the only thing that can be installed."""
    import zipfile

    folder = tmp_path_factory.mktemp("wheels")
    info = "loopback_probe-1.0.dist-info"
    with zipfile.ZipFile(folder / "loopback_probe-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("loopback_probe.py", "ANSWER = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: loopback-probe\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return str(folder)


@pytest.fixture(scope="session")
def pip_environment(wheels: str) -> dict[str, str]:
    """The environment of commands in a loopback sandbox: pip sees the one wheel."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without any vendor's variables."""
    for name in list(os.environ):
        if name.startswith(("E2B_", "MODAL_", "BL_")):
            monkeypatch.delenv(name)
    yield monkeypatch


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server that speaks E2B's protocol, one for each file of tests."""
    from tests.remote.served import Served

    served = Served()
    yield served
    served.close()


@pytest.fixture
def sandbox(served: Served, environment: pytest.MonkeyPatch) -> Iterator[Any]:
    """A sandbox of it, held by E2B's own SDK."""
    sdk = pytest.importorskip("e2b_code_interpreter", reason="the e2b extra is not installed: pip install -e '.[e2b]'")
    for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
        environment.setenv(name, served.url)
    sandbox = sdk.Sandbox.create(api_key=KEY)
    yield sandbox
    sandbox.kill()
