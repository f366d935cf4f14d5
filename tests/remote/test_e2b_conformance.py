"""The conformance suite on the e2b sandbox: its own SDK, unmodified, over real sockets to a loopback server."""

from __future__ import annotations

import os
from typing import Any

import pytest

from safeexec import Policy
from safeexec.testing import conformance
from tests.remote.conftest import KEY
from tests.remote.deviations import NO_WALL
from tests.remote.loopback import Loopback

pytest.importorskip("e2b_code_interpreter", reason="the e2b extra is not installed: pip install -e '.[e2b]'")

from safeexec_backends.e2b import E2BBackend


@pytest.fixture(scope="module", autouse=True)
def server(pip_environment: dict[str, str]) -> Any:
    loopback = Loopback("tests.remote.e2b_server", {"key": KEY, "env": pip_environment})
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("E2B_")]:
            patch.delenv(name)
        # What the SDK reads; a child of the tests that is looked at for leaks must not have the key.
        patch.setenv("E2B_API_URL", loopback.url)
        patch.setenv("E2B_SANDBOX_URL", loopback.url)
        yield loopback
    loopback.close()


TestE2B = conformance(
    E2BBackend,
    policy=Policy(),
    modules=("numpy", "pandas", "PIL", "matplotlib"),
    package="loopback_probe",
    deviations=NO_WALL,
    api_key=KEY,
)
