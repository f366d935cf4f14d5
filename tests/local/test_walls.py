"""What an escape gets to see when the language wall has fallen: attacks with the whole of Python, judged by their effect.

Every attack runs as root, as an ordinary user, and as either where the kernel grants no namespaces and Landlock has to hold.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from safeexec_backends._hardening import landlock
from tests.local.as_user import AsUser
from tests.local.walls_attacks import ATTACKS, CALLS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="n/a: these walls are Linux's"),
    pytest.mark.skipif(os.name == "posix" and os.getuid() != 0, reason="changing to other users needs root"),
]

DRIVER = Path(__file__).with_name("walls_driver.py").read_text()
CANARY = "file-canary-0c1d"
LIMITS = {"memory": 128 * 2**20, "time": 20.0, "wall": 40.0}
DISK = 64 * 2**20


class Target:
    """What an escaped program would go for: a secret file, listeners, a process."""

    def __init__(self, uid: int, stack: ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="walls-target-", dir="/tmp"))
        os.chmod(folder, 0o777)
        self.canary = Path(folder, "secret.txt")
        self.canary.write_text(CANARY)
        os.chmod(self.canary, 0o666)
        for path in (folder, self.canary):
            os.chown(path, uid, uid)  # the user's own file: no permission of the file system stands before it
        os.utime(self.canary, (1_000_000, 1_000_000))
        self.attributes = {path: self._attributes(path) for path in (folder, str(self.canary), os.__file__)}
        self.heard: list[bytes] = []
        name = os.urandom(8).hex()
        listeners = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix": (socket.AF_UNIX, socket.SOCK_STREAM, f"{folder}/socket"),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, "\0" + name),
            "abstract_datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, "\0" + name + "d"),
        }
        self.sockets: dict[str, socket.socket] = {}
        for label, (family, kind, address) in listeners.items():
            sock = stack.enter_context(socket.socket(family, kind))
            sock.bind(address)
            if kind == socket.SOCK_STREAM:
                sock.listen()
            self.sockets[label] = sock
        os.chmod(f"{folder}/socket", 0o777)
        self.victim = subprocess.Popen(
            ["sleep", "600"], user=uid if uid else None, group=uid if uid else None, start_new_session=True
        )
        stack.callback(self.victim.wait)
        stack.callback(self.victim.kill)
        self.known: dict[str, Any] = {
            "canary": str(self.canary),
            "tcp_port": self.sockets["tcp"].getsockname()[1],
            "udp_port": self.sockets["udp"].getsockname()[1],
            "unix_path": f"{folder}/socket",
            "abstract": name,
            "victim_pid": self.victim.pid,
        }

    @staticmethod
    def _attributes(path: str) -> tuple[int, int]:
        status = os.stat(path)
        return status.st_mode, status.st_mtime_ns if not os.path.isdir(path) else 0

    def changed(self) -> list[str]:
        """The files whose mode or time is another."""
        return [path for path, old in self.attributes.items() if self._attributes(path) != old]

    def reached(self) -> list[str]:
        """The listeners that heard from anyone."""
        heard = []
        for label, sock in self.sockets.items():
            sock.setblocking(False)
            try:
                sock.accept() if sock.type == socket.SOCK_STREAM else sock.recv(100)
            except BlockingIOError:
                continue
            heard.append(label)
        return heard


class Report:
    """What the attacks of one run brought."""

    def __init__(self, target: Target, answer: dict[str, Any]) -> None:
        self.target = target
        self.isolation: dict[str, list[Any]] = answer["isolation"]
        self.results: dict[str, dict[str, Any]] = answer["results"]
        self.after = answer["after"]
        self.folder: str = answer["folder"]

    def value(self, name: str) -> Any:
        """What an attack evaluated to; it must have run to its end."""
        result = self.results[name]
        assert result["error"] is None, result["error"]
        return result["value"]

    def active(self, wall: str) -> bool:
        return bool(self.isolation[wall][0])


RUNS: dict[str, dict[str, Any]] = {
    "root": {"uid": 0},
    "nobody": {"uid": 65534},
    "root, no namespaces": {"uid": 0, "deny_namespaces": "all"},
    "nobody, no namespaces": {"uid": 65534, "deny_namespaces": "all"},
    "root, no namespaces for cells": {"uid": 0, "deny_namespaces": "late"},
    "nobody, no namespaces for cells": {"uid": 65534, "deny_namespaces": "late"},
    "root, no Landlock": {"uid": 0, "options": {"_deny": ["landlock"]}},
    "root, after a rollback": {"uid": 0, "undone": True},
    "nobody, after a rollback": {"uid": 65534, "undone": True},
}


_SLOW = ("nobody, after a rollback",)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in RUNS]
)
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    run = RUNS[request.param]
    if run.get("deny_namespaces") and not landlock.abi():
        pytest.skip("this kernel has no Landlock to fall back to")
    with ExitStack() as stack:
        target = Target(run["uid"], stack)
        place = stack.enter_context(AsUser(run["uid"]))
        # Without a mount namespace files go to a real disk and their sum has no bound: do not fill it.
        attacks = {
            k: v for k, v in ATTACKS.items() if not run.get("deny_namespaces") or k not in ("disk", "file_flood")
        }
        job = {**run, "attacks": attacks, "known": target.known, "limits": LIMITS}
        done = place.run(DRIVER, input=json.dumps(job))
        assert done.returncode == 0, done.stderr
        yield Report(target, json.loads(done.stdout))


def test_the_walls_that_stand_are_reported(report: Report) -> None:
    always = [
        "seccomp",
        "no_new_privs",
        "capabilities",
        "not_dumpable",
        "rlimits",
        "closed_fds",
        "empty_environment",
        "parent_death",
    ]
    assert all(report.active(wall) for wall in always), report.isolation
    assert report.active("landlock") or report.active("mount_namespace")
    assert all(bool(active) != bool(reason) for active, reason in report.isolation.values())
    assert not report.active("language")


def test_files_of_the_host_cannot_be_read(report: Report) -> None:
    assert report.value("read_files") == {}


def test_folders_of_the_host_cannot_be_listed(report: Report) -> None:
    listed = report.value("list_folders")
    # The way to the interpreter's own library may lead through one of these.
    assert not set(listed) - {"/root", "/home"}, listed
    for names in listed.values():
        assert set(names) <= {".pyenv", "venvs", "miniconda3", *os.path.realpath(sys.base_prefix).split("/")}


def test_nothing_outside_the_working_directory_can_be_written(report: Report) -> None:
    assert report.value("write_files") == []
    assert report.target.canary.read_text() == CANARY
    assert report.target.changed() == []
    assert not [p for p in [Path("/"), Path("/usr/lib"), Path(os.__file__).parent] if (p / "walls-marker").exists()]


def test_the_working_directory_and_tmp_can_be_used(report: Report) -> None:
    assert report.value("own_files") == ["mine", ["x"], "0o700"]


def test_ordinary_library_code_works_behind_the_walls(report: Report) -> None:
    assert report.value("interpreter_works") == [
        [1, 2],
        [[2]],
        [0, 1, 4, 9, 16],
        "2d71",
        "1",
        "2026-01-01 00:00:00+01:00",
    ]


def test_sockets_and_locks_work_behind_the_walls(report: Report) -> None:
    assert report.value("own_sockets") == ["x", True, 0, True]
    assert report.value("own_locks") == ["held", "database is locked", [[1], [3]]]


def test_no_network_is_reached(report: Report) -> None:
    assert report.value("network") == []
    assert report.target.reached() == []


@pytest.mark.parametrize(
    "attack",
    [
        "programs",
        "signals",
        "signals_by_file_owner",
        "raise_limits",
        "change_identity",
        "terminal",
        "socket_options",
    ],
)
def test_attempts_that_must_all_fail(report: Report, attack: str) -> None:
    assert report.value(attack) == []


def test_programs_cannot_be_put_into_memory(report: Report) -> None:
    assert report.value("programs_from_memory") < 0


def test_the_host_process_lives_and_was_not_stopped(report: Report) -> None:
    assert report.target.victim.poll() is None
    state = Path(f"/proc/{report.target.victim.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "S"
    assert report.after == "alive"


def test_a_process_may_signal_itself(report: Report) -> None:
    assert report.value("own_signals") == 2


def test_threads_are_counted(report: Report) -> None:
    if not report.active("user_namespace") and not report.active("unprivileged_uid"):
        pytest.skip("n/a: the kernel counts no threads of root's; address space bounds them")
    assert 4 <= report.value("threads") < 32


def test_host_memory_is_out_of_reach(report: Report) -> None:
    assert report.value("host_memory") is None


def test_no_environment_arrives(report: Report) -> None:
    python, process = report.value("environment")
    # Python 3.13's doctest imports readline, which tells the process how large no terminal is.
    assert (python, [entry for entry in process if not entry.startswith(("LINES=", "COLUMNS="))]) == ({}, [])
    assert report.value("own_memory_has_no_secret") == []


def test_shared_memory_of_the_host_is_out_of_reach(report: Report) -> None:
    assert report.value("shared_memory") == {}


def test_memory_is_limited(report: Report) -> None:
    assert 32 <= report.value("memory") <= 128
    assert report.value("memory_by_mapping") <= 128 * 2**20
    assert report.value("memory_by_pipes") <= 64 * 2**20
    pairs, held = report.value("memory_by_sockets")
    assert (
        pairs > 100 and held <= 64 * 2**20
    )  # of no limit's memory; with what a program may ask for it was as many megabytes for each


def test_disk_is_limited(report: Report) -> None:
    if not report.active("mount_namespace"):
        pytest.skip("n/a: without a mount namespace only single files are limited, and isolation says so")
    assert 0.8 * DISK <= report.value("disk") <= DISK
    assert 1000 <= report.value("file_flood") <= 16_384


def test_descriptors_are_limited_and_none_is_inherited(report: Report) -> None:
    assert report.value("descriptor_flood") < 256
    assert report.value("descriptors_by_threads") < 256
    assert report.value("inherited_descriptors") == ["device", "device", "device", "socket"]


@pytest.mark.parametrize("name", CALLS)
def test_dangerous_system_calls_are_refused(report: Report, name: str) -> None:
    result = report.results["call " + name]
    if result["error"] is not None:
        kind, _, message = result["error"]
        assert kind == "crash" and "seccomp" in message
    else:
        assert result["value"] in (-1, -22, -38) and result["value"] < 0, result["value"]


def test_nothing_is_left_in_the_file_system(report: Report) -> None:
    assert bool(report.folder) != report.active("mount_namespace")
    assert not report.folder or not os.path.exists(report.folder)


def test_no_process_is_left(report: Report) -> None:
    mine = [p for p in os.listdir("/proc") if p.isdigit() and _parent_is_gone_zygote(int(p))]
    assert mine == []


def _parent_is_gone_zygote(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return False
    return b"safeexec_backends.local.zygote" in command and parent == 1
