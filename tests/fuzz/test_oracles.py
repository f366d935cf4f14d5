"""Each oracle sees its effect on an executor that holds nothing back, and sees none where there is none."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safeexec_fuzz import audit, cases, oracles, processes, supervisor, targets
from safeexec_fuzz.world import World, forms, seen, token

from .conftest import Run, children

WEAK = targets.target("weak")
PROOF = {
    "canary": "file-read-plain", "env": "secret-environ", "object": "tool-default-secret", "marker": "file-write-plain", "network": "net-tcp",
    "process": "proc-kill-bystander", "state": "iso-chdir", "time": "loop-while-true", "died": "proc-abort", "poisoned": "iso-shared-math",
    "cross": "iso-other-session-by-file", "left": "proc-double-fork-left", "memory": "memory-bytes", "output": "result-huge-value",
    "forgery": "proto-junk-on-every-descriptor", "live": "result-class-value", "late": "tool-beacon-from-thread-later",
}  # fmt: skip


def attack(code: str, effect: str = "canary", **more: object) -> cases.Case:
    return cases.Case("made-up", "test", "attack", "", (cases.Step(code),), effect=effect, **more)  # type: ignore[arg-type]


def test_every_effect_has_its_proof_here() -> None:
    assert set(PROOF) == set(cases.EFFECTS)


def test_every_oracle_sees_its_effect(run: Run) -> None:
    verdicts = run(WEAK, *PROOF.values())
    for effect, identity in PROOF.items():
        assert effect in dict(verdicts[identity].effects), (identity, verdicts[identity])
        assert verdicts[identity].outcome == "escaped" and verdicts[identity].validated


def test_harmless_code_has_no_effect(run: Run) -> None:
    verdict = run(WEAK, attack("print('nothing'); 1 + 1"))["made-up"]
    assert verdict.outcome == "contained" and not verdict.effects and not verdict.validated


@pytest.mark.parametrize(
    ("effect", "code"),
    [
        ("network", "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('@UNIX@')"),
        ("network", "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0@ABSTRACT@')"),
        ("network", "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @UDP@))"),
        ("marker", "import os\nos.truncate('@CANARY@', 0)"),
        ("process", "import os\nos.kill(@VICTIM@, 19)"),
        ("state", "import os\nos.environ['X_Y'] = '1'"),
        ("state", "import json\njson.JSONEncoder.zap = 1"),
        ("canary", "print(open('@CANARY@').read()[::-1])"),
        ("canary", "import base64\nprint(base64.b64encode(b'?' + open('@CANARY@', 'rb').read()))"),
        ("canary", "import os\nos.write(1, open('@CANARY@', 'rb').read())"),
        ("env", "print(open('/proc/self/environ').read())"),
        ("died", "import os\nos.closerange(3, 200)"),
        ("marker", "open('/dev/shm/@SHARED@', 'w').close()"),
        ("marker", "import os\nos.mkdir('/tmp/@SHARED@')"),
        ("marker", "import ctypes\nctypes.CDLL(None).shmget(@KEY@, ctypes.c_size_t(4096), 0o1666)"),
        ("process", "import os\nos.setpriority(0, @VICTIM@, 19 - (os.getpriority(0, @VICTIM@) == 19))"),
        ("process", "import resource\nresource.prlimit(@VICTIM@, resource.RLIMIT_NOFILE, (7, 7))"),
        ("state", "import os\nos.umask(0)"),
        ("state", "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.unshare(0x4000000) and libc.unshare(0x14000000)"),
        ("state", "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))"),
        ("forgery", "beacon([{'a': [type('Sly', (str,), {})('x')]}])"),
        ("forgery", "beacon({frozenset(): 1})"),
    ],
)
def test_an_effect_is_seen_however_it_is_brought_about(run: Run, effect: str, code: str) -> None:
    assert effect in dict(run(WEAK, attack(code, effect))["made-up"].effects)


IN_A_FILE = (
    "import os\nfd = os.memfd_create('x')\nfor _ in range({}): os.write(fd, bytes(2**20))\nimport time; time.sleep(0.6)"
)
IN_PIPES = (
    "import fcntl, os, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)\n"
    "ends = []\nfor _ in range({}):\n    ends.append(os.pipe())\n    fcntl.fcntl(ends[-1][1], 1031, 2**20)\n"
    "    os.write(ends[-1][1], bytes(2**20))\nimport time; time.sleep(0.6)"
)


@pytest.mark.parametrize("code", [IN_A_FILE, IN_PIPES])
def test_memory_that_is_no_process_s_is_seen(run: Run, code: str) -> None:
    if os.getuid() or resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("n/a: an ordinary user may fill only some of the kernel's pipes")
    # What other processes of the machine give back at the same moment hides it, so this is far more than what is too much.
    verdict = run(WEAK, attack(code.format(1900), "memory"))["made-up"]
    assert "in the kernel or in files in memory" in dict(verdict.effects).get("memory", ""), verdict
    ordinary = cases.Case("made-up", "test", "benign", "", (cases.Step(code.format(600)),), stdout="")
    assert run(WEAK, ordinary)["made-up"].outcome == "ok", "it does not answer for others on the machine"


def grows_to(held: processes.MemoryOfNoProcess, size: int) -> bool:
    deadline = time.monotonic() + 20
    while held.grown()[1] != size and time.monotonic() < deadline:
        time.sleep(0.01)
    return held.grown()[1] == size


def test_a_file_without_a_name_is_seen_whatever_others_give_back() -> None:
    code = IN_A_FILE.format(8).replace("time.sleep(0.6)", "input()")
    shell = subprocess.Popen(
        ["sh", "-c", 'read go; "$0" -c "$1"; read end', sys.executable, code], stdin=subprocess.PIPE, bufsize=0
    )
    assert shell.stdin is not None
    try:
        held = processes.MemoryOfNoProcess(shell.pid, shell.pid)
        shell.stdin.write(b"go\n")
        assert grows_to(held, 8 << 20)
        shell.stdin.write(b"end\n")
        assert grows_to(held, 0)
    finally:
        shell.communicate(b"end\n", timeout=20)


def test_memory_that_others_took_is_not_the_guest_s(monkeypatch: pytest.MonkeyPatch) -> None:
    lane, watched = supervisor.Lane({}, {**audit.LIMITS}), []

    class Host:
        broken, capabilities, batch, used, secret = "", frozenset[str](), True, 0, token()

    def watch(case: cases.Case, world: World, host: Host) -> oracles.Observation:
        watched.append(host)
        saw = oracles.Observation(report={"steps": [], "broken": ""})
        setattr(saw, *takes[len(watched) - 1])
        return saw

    monkeypatch.setattr(lane, "_host", Host)
    monkeypatch.setattr(lane, "_watch", watch)
    much = 1 << 30
    for takes, outcome in (
        ([("elsewhere", much), ("elsewhere", 0)], "contained"),
        ([("elsewhere", much), ("elsewhere", much)], "escaped"),
        ([("files", much)], "escaped"),
        ([("memory", much)], "escaped"),
    ):
        watched.clear()
        assert lane.run(attack("1", "memory"))["outcome"] == outcome
        assert len(watched) == len(takes)


def test_what_computes_after_the_end_is_seen(run: Run) -> None:
    burning = "import threading\ndef burn():\n    while True: pass\nthreading.Thread(target=burn, daemon=True).start()"
    assert "late" in dict(run(WEAK, attack(burning, "late", linger=1.1))["made-up"].effects)
    waiting = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert run(WEAK, attack(waiting, "late", linger=1.1))["made-up"].effects == ()


def test_shared_places_of_a_case_are_emptied_after_it(run: Run) -> None:
    code = "open('/dev/shm/@SHARED@', 'w').close()\nprint('@SHARED@')\nimport ctypes\nctypes.CDLL(None).shmget(@KEY@, ctypes.c_size_t(9), 0o1666)\nprint(@KEY@)"
    verdict = run(WEAK, attack(code, "marker"))["made-up"]
    name, key = verdict.text.split()
    assert f"/dev/shm/{name}" in dict(verdict.effects)["marker"] and f"shm {key}" in dict(verdict.effects)["marker"]
    assert not os.path.exists(f"/dev/shm/{name}")
    assert key not in [line.split()[0] for line in Path("/proc/sysvipc/shm").read_text().splitlines()]


def test_tokens_are_fresh_for_every_case(run: Run) -> None:
    code = "print(open('@CANARY@').read())\nimport os\nprint(os.environ['@ENV@'])"
    first, second = (run(WEAK, attack(code))["made-up"].text for _ in range(2))
    assert first.startswith("tk") and len(set(first.split()) | set(second.split())) == 4


def test_a_visitor_from_elsewhere_is_not_blamed_on_the_guest() -> None:
    import os
    import socket

    world = World(attack("1"))
    try:
        with socket.create_connection(world.listeners.tcp.getsockname()):
            world.listeners.look(world.victim.pid)  # nothing below the bystander came
        assert world.listeners.visits == []
        with socket.create_connection(world.listeners.tcp.getsockname()) as visitor:
            visitor.sendall(b"hello")
            world.listeners.look(os.getppid())
        assert [pid for _, pid, _ in world.listeners.visits] == [os.getpid()]
    finally:
        world.close()


@pytest.mark.parametrize("index", range(8))
def test_a_token_is_recognised_in_every_form(index: int) -> None:
    secret = token()
    assert seen(secret, b"before " + forms(secret)[index] + b" after")
    assert not seen(token(), b"before " + forms(secret)[index] + b" after")


def test_nothing_is_left_behind_by_the_harness(run: Run) -> None:
    before = children()
    run(WEAK, "proc-double-fork-left", "proc-daemon-left", "loop-while-true", "persist-nondaemon-thread")
    assert children() <= before
