"""podman's service behind the docker SDK: the same sandbox, with what podman lacks named in ``isolation``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from safeexec import Executor, Limits, Policy
from safeexec.testing import conformance
from safeexec.testing.base import eventually
from safeexec_backends.docker import daemon, reaper, setup
from tests.docker.conftest import missing
from tests.docker.images import BUILD

pytest.importorskip("docker", reason="the docker SDK is not installed: pip install 'safeexec[docker]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if shutil.which("podman") is None or os.getuid() != 0:
        missing("podman's service needs podman and root (apt-get install podman)")
    folder = Path(tempfile.mkdtemp(prefix="safeexec-podman-"))
    (folder / "containers.conf").write_text('[containers]\ndefault_ulimits=["nofile=1024:20000","nproc=4096:4096"]\n')
    address = f"unix://{folder}/podman.sock"
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen(
            ["podman", "--root", str(folder / "root"), "--runroot", str(folder / "run"), "--runtime=runc",
             "--cgroup-manager=cgroupfs", "--storage-driver=overlay", "system", "service", "-t", "0", address],
            env={**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")},
            # In a folder of its own: where a container runs out of memory, conmon leaves a file named "oom".
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        if not eventually(lambda: (folder / "podman.sock").exists(), 30):
            missing(f"podman's service did not come up: {(folder / 'log').read_text()[-500:]}")
        setup.build_image(address)
        yield address
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(30)
        # What cleans up after the last container runs on for a moment, and mounts the storage again.
        assert eventually(lambda: removed(folder), 30), f"{folder} stayed"


def removed(folder: Path) -> bool:
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", line.split()[1]], check=False)
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.fixture(autouse=True, scope="module")
def podman(url: str) -> Iterator[None]:
    """DOCKER_HOST names it to the sandbox."""
    old = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = url
    try:
        yield
    finally:
        if old is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = old


TestPodman = conformance("docker")


def test_podman_serves_and_says_what_it_lacks(url: str) -> None:
    with Executor("docker", url=url) as executor:
        missing_walls = {name for name, wall in executor.isolation.items() if not wall.active}
        assert missing_walls == {"gvisor", "disk_limit", "user_namespace", "language", "rollback"}
        with executor.session(tools={"double": lambda x: 2 * x}) as session:
            result = session.run("print('hi')\ndouble(21)")
            assert result.value == 42 and result.stdout == "hi\n"
            for path in ("/", "/run", "/var/tmp", "/etc"):
                code = f"try:\n    open('{path}/canary', 'w').close()\n    r = 'written'\nexcept OSError:\n    r = 'refused'\nr"
                assert session.run(code).value == "refused", path
        policy = Policy(limits=Limits(time=0.5))
        result = executor.run("import os\nwhile True:\n    os.write(1, b'x' * 65536)", policy=policy)
        assert result.error is not None and result.error.kind in ("time", "output")
        code = (
            "import os, subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = bytearray(1 << 29)'])\nos._exit(0)"
        )
        result = executor.run(code, policy=Policy(limits=Limits(memory=64 << 20, time=30)))
        assert result.error is not None and result.error.kind == "memory", "of a child, and with exit code 0"
    client = daemon.connect(url)
    try:
        assert eventually(lambda: reaper.find(client) == [])
    finally:
        client.close()


def test_packages_are_installed_there_too() -> None:
    with Executor("docker", policy=Policy(packages=("msgpack",)), **BUILD) as executor:
        assert executor.run("import msgpack\nmsgpack.unpackb(msgpack.packb([1, 'a']))").value == [1, "a"]
        assert executor.run("open('/proc/net/route').read().count('\\n')").value <= 1
