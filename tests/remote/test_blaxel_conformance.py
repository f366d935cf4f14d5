"""The conformance suite on the blaxel sandbox: Blaxel's own SDK, unmodified, over real sockets to a loopback server."""

from __future__ import annotations

import os
from typing import Any

import pytest

from safeexec import Policy
from safeexec.testing import conformance
from tests.remote.conftest import KEY, WORKSPACE
from tests.remote.deviations import NO_WALL
from tests.remote.loopback import Loopback

pytest.importorskip("blaxel", reason="the blaxel extra is not installed: pip install -e '.[blaxel]'")

from safeexec_backends.blaxel import BlaxelBackend, backend

pytestmark = pytest.mark.slow  # as for modal


@pytest.fixture(scope="module", autouse=True)
def server(pip_environment: dict[str, str]) -> Any:
    from blaxel.core.client.client import client

    loopback = Loopback("tests.remote.blaxel_server", {"key": KEY, "env": pip_environment})
    before = client._base_url
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("BL_")]:
            patch.delenv(name)
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setattr(backend, "_logged_in", None)  # what runs after this in the same process has a key of its own
        client.with_base_url(loopback.url)  # the SDK's address is fixed but for this
        yield loopback
    client.with_base_url(before)
    loopback.close()


TestBlaxel = conformance(
    BlaxelBackend,
    policy=Policy(),
    modules=("numpy", "pandas", "PIL", "matplotlib"),
    package="loopback_probe",
    deviations=NO_WALL,
    api_key=KEY,
    workspace=WORKSPACE,
    region="loopback",
)
