"""A user's own podman, without any right of the machine's: the sandbox finds its socket, runs in it, and says what such a daemon cannot hold."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from safeexec.testing.base import eventually
from tests.docker.conftest import missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
# The ids that the user may give to containers are named in a file of the system's, which only this service sees.
SERVICE = """
mount --bind "$1/ids" /etc/subuid && mount --bind "$1/ids" /etc/subgid && shift &&
exec "$@" podman --runtime=runc --cgroup-manager=cgroupfs --storage-driver=vfs system service -t 0 "unix://$XDG_RUNTIME_DIR/podman/podman.sock"
"""
PROGRAM = """
import json
from safeexec import BackendUnavailable, Executor, Policy
from safeexec_backends.docker import setup
setup.build_image()
try:
    Executor("docker").close()
    refused = ""
except BackendUnavailable as error:
    refused = str(error)
with Executor("docker", policy=Policy(require=())) as executor:
    with executor.session(tools={"double": lambda x: 2 * x}) as session:
        result = session.run("import os\\nprint('hi')\\nopen('/proc/self/uid_map').read().split(), double(21)")
    walls = {name: wall.active for name, wall in executor.isolation.items()}
print(json.dumps([refused, walls, result.value, result.stdout, executor._backend.facts["daemon"]]))
"""


@pytest.fixture
def user() -> Iterator[dict[str, str]]:
    """The environment of a user whose podman serves at the usual place."""
    needed = ("podman", "unshare", "setpriv", "newuidmap")
    if os.getuid() != 0 or any(shutil.which(program) is None for program in needed):
        missing(f"a user's podman needs root to make the user, and {', '.join(needed)} (apt-get install podman uidmap)")
    folder = Path(tempfile.mkdtemp(prefix="safeexec-rootless-"))
    folder.chmod(0o755)
    run = folder / "run"
    for path in (folder / "home", run, run / "podman"):
        path.mkdir(mode=0o700)
        os.chown(path, 65534, 65534)
    (folder / "ids").write_text("nobody:100000:65536\n")
    # podman's own limits are higher than what a machine may allow.
    (folder / "containers.conf").write_text('[containers]\ndefault_ulimits=["nofile=1024:20000","nproc=4096:4096"]\n')
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(run),
        "TMPDIR": str(run),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
    }
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", SERVICE, "sh", str(folder), *USER],
            env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        if not eventually(lambda: (run / "podman" / "podman.sock").exists() or service.poll() is not None, 30):
            missing("a user's podman did not come up")
        if service.poll() is not None:
            missing(f"a user's podman ended: {(folder / 'log').read_text()[-500:]}")
        yield environment
    finally:
        # The whole group: podman makes itself anew in a namespace of the user's, and who is told to end may be gone before it tells that one.
        os.killpg(service.pid, signal.SIGTERM)
        service.wait(30)
        assert eventually(lambda: not group(service.pid), 30), "a user's podman stayed"
        # It leaves a process that holds the user's namespace.
        for path in run.rglob("pause.pid"):
            with suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)
        shutil.rmtree(folder)


def group(number: int) -> list[str]:
    """The processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if fields[2] == str(number) and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def test_user_s_own_podman_serves_and_what_it_cannot_hold_is_refused(user: dict[str, str]) -> None:
    def python(program: str) -> subprocess.CompletedProcess[str]:
        command = [*USER, sys.executable, "-c", program]
        return subprocess.run(command, env=user, cwd="/", capture_output=True, text=True, timeout=240)

    # The interpreter is started before all rights are gone, and finds its library, or another's, without them.
    if python("import sys, safeexec, docker; open(sys.executable, 'rb').close()").returncode:
        pytest.skip("n/a: other users cannot run this interpreter, which lies in somebody's home")
    ran = python(PROGRAM)
    assert ran.returncode == 0, ran.stderr
    refused, walls, (uids, doubled), printed, facts = json.loads(ran.stdout)
    assert "podman" in facts and user["XDG_RUNTIME_DIR"] in facts
    assert doubled == 42 and printed == "hi\n"
    assert uids[1] != "0" and walls["user_namespace"], "the container's root is nobody on the machine"
    assert [name for name in ALWAYS if not walls[name]] == []
    # Without a control group of its own it can bound neither memory nor swap nor processes, and the default is not to run.
    assert walls["memory_limit"] == walls["pids_limit"] and (walls["memory_limit"] or not walls["swap_off"])
    assert ("'memory_limit' is required and missing" in refused) == (not walls["memory_limit"])


ALWAYS: Any = (
    "seccomp", "network_namespace", "capabilities", "no_new_privs", "unprivileged_uid", "read_only_root", "pid_namespace", "init",
)  # fmt: skip
