"""A host that has no descriptors left gets no further session, and keeps those that it has."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("n/a: the sandboxes have the descriptors that are counted here on Linux", allow_module_level=True)

PROGRAM = """
import json, resource, sys
from safeexec import BackendUnavailable, Executor, Limits, Policy
sandbox, options, rollback, files = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
executor = Executor(sandbox, policy=Policy(rollback=rollback, limits=Limits(time=0.3)), **options)
sessions, said = [], {}
def refused(name, make):
    try:
        made = make()
    except BackendUnavailable as error:
        said[name] = str(error)
    else:
        said[name] = "made"
        made.close()
try:
    while len(sessions) < 400:
        sessions.append(executor.session())
        assert sessions[-1].run(f"x = {len(sessions)}").error is None
except BackendUnavailable as error:
    said["full"] = str(error)
refused("again", executor.session)
refused("once more", executor.session)
if rollback == "limits":
    refused("branch", sessions[3].fork)
    said["undone"] = [sessions[5].run("x = 0\\nwhile True: pass").rolled_back, sessions[5].run("x").value]
said["there"] = [session.run("x").value for session in sessions] == list(range(1, len(sessions) + 1))
for session in sessions[:20]:
    session.close()
with executor.session() as later:
    said["later"] = later.run("40 + 2").value
if rollback == "limits":
    with sessions[30].fork() as branch:
        said["later"] += branch.run("x").value
said["sessions"] = len(sessions)
print(json.dumps(said))
"""


@pytest.mark.parametrize("spare", range(3))
@pytest.mark.parametrize(
    ("sandbox", "options", "rollback"),
    [
        ("local", {}, "limits"),
        ("local", {}, "never"),
        ("wasm", {}, "limits"),
        ("wasm", {"isolation": "session"}, "limits"),
    ],
    ids=["local", "local without states", "wasm", "wasm, a worker each"],
)
def test_sessions_outlive_that_there_is_no_room_for_more(
    sandbox: str, options: dict[str, Any], rollback: str, spare: int
) -> None:
    asked = json.dumps([sandbox, options, rollback, 220 + spare])  # what is lacking first depends on how many are left
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, asked], capture_output=True, text=True, timeout=100, check=False
    )
    assert not done.returncode, done.stderr
    said = json.loads(done.stdout)
    for moment in ("full", "again", "once more"):
        assert (
            f"Too many open files; this process may have {220 + spare} (ulimit -n)" in said[moment]
            or said[moment] == "made"
        )
    assert said["full"] != "made" and said["there"], said
    assert said["later"] == 42 + 31 * (rollback == "limits")
    if rollback == "limits":
        assert "no room" in said["branch"] or said["branch"] == "made", said
        assert said["undone"] == [True, 6], said
