"""A process that ends without closing anything leaves no sandbox at the vendor."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from safeexec.testing.base import eventually
from tests.remote.conftest import KEY, TOKEN, WORKSPACE
from tests.remote.loopback import ROOT, Loopback

VENDORS: dict[str, dict[str, Any]] = {
    "e2b": {
        "sdk": "e2b_code_interpreter",
        "settings": {"key": KEY},
        "env": {"E2B_API_KEY": KEY, "E2B_API_URL": "{url}", "E2B_SANDBOX_URL": "{url}"},
    },
    "modal": {
        "sdk": "modal",
        "settings": {"token": TOKEN},
        "env": {"MODAL_TOKEN_ID": TOKEN[0], "MODAL_TOKEN_SECRET": TOKEN[1], "MODAL_SERVER_URL": "{url}"},
    },
    "blaxel": {
        "sdk": "blaxel",
        "settings": {"key": KEY},
        "env": {"BL_API_KEY": KEY, "BL_WORKSPACE": WORKSPACE, "BL_REGION": "loopback", "DO_NOT_TRACK": "1"},
    },
}
PROGRAM = """
import sys
if sys.argv[1] == "blaxel":
    from blaxel.core.client.client import client
    client.with_base_url(sys.argv[2])
from safeexec import Executor
executor = Executor(sys.argv[1])
sessions = [executor.session(), executor.session()]
print([session.run("40 + 2").value for session in sessions], flush=True)
if sys.argv[3] == "raise":
    raise SystemExit(3)
"""


FORKS = """
import os
child = os.fork()
if not child:
    raise SystemExit(0)  # as a child of multiprocessing ends, its hooks included
os.waitpid(child, 0)
print([session.run("40 + 2").value for session in sessions], flush=True)
"""


@pytest.mark.slow
def test_a_forked_child_that_ends_leaves_the_sandboxes_to_its_parent() -> None:
    about = VENDORS["e2b"]
    pytest.importorskip(about["sdk"], reason="the e2b extra is not installed: pip install -e '.[e2b]'")
    server = Loopback("tests.remote.e2b_server", {**about["settings"], "env": {}})
    try:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("E2B_")}
        env = clean | {name: value.format(url=server.url) for name, value in about["env"].items()}
        words = [sys.executable, "-c", PROGRAM + FORKS, "e2b", server.url, "return"]
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout == "[42, 42]\n" * 2, done.stderr
        assert eventually(lambda: server.state() == [], 5), done.stderr
    finally:
        server.close()


@pytest.mark.parametrize("how", ["return", "raise"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_sandboxes_end_with_the_process(vendor: str, how: str) -> None:
    about = VENDORS[vendor]
    pytest.importorskip(about["sdk"], reason=f"the {vendor} extra is not installed: pip install -e '.[{vendor}]'")
    server = Loopback(f"tests.remote.{vendor}_server", {**about["settings"], "env": {}})
    try:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("E2B_", "MODAL_", "BL_"))}
        env = clean | {name: value.format(url=server.url) for name, value in about["env"].items()}
        words = [sys.executable, "-c", PROGRAM, vendor, server.url, how]
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout == "[42, 42]\n" and done.returncode == (3 if how == "raise" else 0), done.stderr
        assert eventually(lambda: server.state() == [], 5), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
    finally:
        server.close()
