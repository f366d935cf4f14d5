"""A host that has no descriptors or no processes left gets no further session, and keeps those that it has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.local.as_user import AsUser

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


FEW = """
import json, resource, sys
from safeexec import BackendUnavailable, Executor, Limits, Policy
resource.setrlimit(resource.RLIMIT_NPROC, (40, 40))
executor = Executor("local", policy=Policy(rollback=sys.argv[1], limits=Limits(time=0.5)))
sessions, said = [], []
try:
    while len(sessions) < 100:
        sessions.append(executor.session())
        sessions[-1].run(f"x = {len(sessions)}")
except BackendUnavailable as error:
    said.append(str(error))
for _ in range(3):
    try:
        executor.session().close()
    except BackendUnavailable as error:
        said.append(str(error))
values = []
for _ in range(3):  # there is no process for the copies that these want
    values.append([(session.run("x").value, session.run("y = x").error) for session in sessions])
for session in sessions[:8]:
    session.close()
with executor.session() as later:
    last = later.run("40 + 2").value
ended = sessions[8].run("x = 0\\nwhile True: pass")
undone = ended.rolled_back, sessions[8].run("x").value if ended.rolled_back else None
print(json.dumps([said, values, last, undone]))
"""


@pytest.mark.parametrize("rollback", ["limits", "never"])
def test_sessions_outlive_that_there_are_no_processes_for_more(rollback: str) -> None:
    if os.getuid():
        pytest.skip("n/a: an ordinary user's other processes count as well")
    with AsUser(uid=64_321) as user:  # nobody else's, so that nobody else's processes count
        done = user.run(FEW, rollback)
    assert not done.returncode, done.stderr
    said, values, last, undone = json.loads(done.stdout)
    assert said and all("temporarily unavailable" in reason for reason in said), said
    assert len(values[0]) > 8 and values == [[[x, None] for x in range(1, len(values[0]) + 1)]] * 3
    assert last == 42
    assert undone == ([True, 9] if rollback == "limits" else [False, None])
