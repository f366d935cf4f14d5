"""gVisor: the same suite on ``runtime="runsc"``."""

from __future__ import annotations

import shutil

import pytest

from safeexec import Executor, PolicyError
from safeexec.policy import Limits, Policy
from safeexec.testing import conformance

pytest.importorskip("docker", reason="the docker SDK is not installed: pip install 'safeexec[docker]'")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def runsc(docker_url: str) -> None:
    from tests.docker.conftest import missing

    if shutil.which("runsc") is None:
        missing("gVisor needs runsc (apt-get install runsc)")


TestGvisor = conformance("docker", runtime="runsc", pool=2)


def test_walls_of_gvisor_stand() -> None:
    with Executor("docker", runtime="runsc") as executor:
        missing_walls = {name for name, wall in executor.isolation.items() if not wall.active}
        assert missing_walls == {"seccomp", "language", "rollback"}
        assert executor.isolation["gvisor"].active
        kernel = executor.run("open('/proc/version').read()").value
        with open("/proc/version") as file:
            assert kernel != file.read(), "the host's kernel answered"


def test_memory_bomb_ends_the_session_and_not_the_daemon() -> None:
    policy = Policy(limits=Limits(memory=32 << 20, time=30))
    with Executor("docker", runtime="runsc", policy=policy) as executor, executor.session() as session:
        result = session.run("x = []\nwhile True:\n    x.append(bytes(10**6))")
        assert result.error is not None and result.error.kind in ("memory", "time") and session.closed
        assert executor.run("1 + 1").value == 2


def test_process_limit_that_gvisor_cannot_hold_is_refused() -> None:
    with pytest.raises(PolicyError, match="gVisor"):
        Executor("docker", runtime="runsc", policy=Policy(limits=Limits(processes=8)))
