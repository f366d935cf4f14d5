"""The conformance suite on the modal sandbox: Modal's own SDK, unmodified, over real sockets to a loopback server."""

from __future__ import annotations

import os
from typing import Any

import pytest

from safeexec import Policy
from safeexec.testing import conformance
from tests.remote.conftest import TOKEN
from tests.remote.deviations import NO_WALL
from tests.remote.loopback import Loopback

pytest.importorskip("modal", reason="the modal extra is not installed: pip install -e '.[modal]'")

from safeexec_backends.modal import ModalBackend

pytestmark = pytest.mark.slow  # two minutes; the other vendors' rooms share the transport with e2b, which always runs


@pytest.fixture(scope="module", autouse=True)
def server(pip_environment: dict[str, str]) -> Any:
    loopback = Loopback("tests.remote.modal_server", {"token": TOKEN, "env": pip_environment})
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MODAL_")]:
            patch.delenv(name)
        patch.setenv("MODAL_SERVER_URL", loopback.url)
        yield loopback
    loopback.close()


TestModal = conformance(
    ModalBackend,
    policy=Policy(),
    modules=("numpy", "pandas", "PIL", "matplotlib"),
    package="loopback_probe",
    deviations=NO_WALL,
    token_id=TOKEN[0],
    token_secret=TOKEN[1],
)
