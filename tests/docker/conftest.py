from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec.testing.base import eventually

STRICT = os.environ.get("SAFEEXEC_STRICT") == "1"


def missing(reason: str) -> None:
    """Skip, or fail where everything has to be there."""
    if STRICT:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def docker_url() -> Iterator[str]:
    """The address of a private daemon with the local image in it; DOCKER_HOST names it to the sandbox."""
    try:
        import docker  # noqa: F401
    except ImportError:
        missing("the docker SDK is not installed: pip install 'safeexec[docker]'")
    if not sys.platform.startswith("linux") or shutil.which("dockerd") is None or os.getuid() != 0:
        missing("a private dockerd needs Linux, root, and dockerd (apt-get install docker.io)")
    from safeexec_backends.docker.setup import build_image
    from tests.docker.daemon import Daemon

    folder = Path(tempfile.mkdtemp(prefix="safeexec-dockerd-"))
    runsc = shutil.which("runsc")
    runtimes = {"runsc": [runsc, "--platform=ptrace", "--network=none"]} if runsc else {}
    try:
        daemon = Daemon(folder, runtimes)
    except RuntimeError as error:
        shutil.rmtree(folder, ignore_errors=True)
        missing(str(error))
    old = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = daemon.url
    try:
        build_image()
        yield daemon.url
    finally:
        if old is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = old
        daemon.close()


def watchers(url: str) -> list[str]:
    """The processes that wait to clean up on the daemon at `url`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:  # it ended just now
            continue
        if b"safeexec_backends.docker.watcher" in command and url.encode() in command + environment:
            found.append(folder.name)
    return found


@pytest.fixture(scope="session")
def client(docker_url: str) -> Iterator[Any]:
    import docker

    client = docker.DockerClient(base_url=docker_url)
    yield client
    left = client.containers.list(all=True, filters={"label": "safeexec.owner"})
    client.close()
    assert left == [], "containers were left behind"
    assert eventually(lambda: watchers(docker_url) == []), f"processes were left behind: {watchers(docker_url)}"


@pytest.fixture(autouse=True, scope="session")
def everything_is_removed(client: Any) -> None:
    """Every test needs the daemon, and what it leaves is found at the end."""
