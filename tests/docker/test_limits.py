"""Each limit, run into: which error the step ends with, and whether the session goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy, Result
from safeexec.testing.base import eventually
from safeexec_backends.docker import DockerBackend

MIB = 2**20

EAT = "x = bytearray(400 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
CHILD_EATS = f"import os, subprocess, sys\nr = subprocess.run([sys.executable, '-c', {EAT!r}]).returncode\n"
FORK_EATS = "import os\npid = os.fork()\nif pid == 0:\n    x = []\n    while True:\n        x.append(bytes(10**6))\n"


class Stdio(DockerBackend):
    """Frames through the daemon, as where it sees none of this machine's files."""

    _files_shared = False


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor("docker") as made:
        yield made


def end(executor: Executor, code: str, **limits: Any) -> Result:
    """What came of a step after which the session goes on."""
    with executor.session(policy=Policy(limits=Limits(**{"time": 30, **limits}))) as session:
        result = session.run(code)
        assert session.run("1 + 1").value == 2
        return result


def lost(executor: Executor, code: str, kind: str, type: str, message: str, **limits: Any) -> None:
    """A step that nobody undoes: its session is over. Those that are undone: ``test_rollback``."""
    with executor.session(policy=Policy(limits=Limits(**{"time": 30, **limits}), rollback="never")) as session:
        result = session.run("print('before')\n" + code)
        assert result.error is not None and (result.error.kind, result.error.type) == (kind, type), result
        assert message in result.error.message and result.stdout.startswith("before\n")
        assert session.closed


def kept(executor: Executor, code: str, type: str, message: str, **limits: Any) -> None:
    with executor.session(policy=Policy(limits=Limits(**{"time": 30, **limits}))) as session:
        error = session.run(code).error
        assert error is not None and (error.kind, error.type) == ("exception", type) and message in error.message
        assert session.run("1 + 1").value == 2


# -- memory -----------------------------------------------------------------------------------------------------------


def test_memory_that_is_used_up(executor: Executor) -> None:
    code = "x = []\nwhile True:\n    x.append(bytes(10**6))"
    lost(executor, code, "memory", "MemoryError", "Limits.memory", memory=32 * MIB)


def test_memory_that_no_machine_has(executor: Executor) -> None:
    lost(executor, "x = bytes(2**45)", "memory", "MemoryError", "", memory=32 * MIB)


def test_memory_of_a_child_counts_and_its_parent_lives(executor: Executor) -> None:
    """The kernel kills the largest process. The parent sees what a parent sees, and the session goes on."""
    for code, value in ((CHILD_EATS + "r", -9), (FORK_EATS + "os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])", -9)):
        with executor.session(policy=Policy(limits=Limits(memory=64 * MIB, time=30))) as session:
            result = session.run(code)
            assert (result.value, result.error) == (value, None)
            assert session.run("1 + 1").value == 2


@pytest.mark.parametrize("leave", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_memory_of_a_child_that_takes_its_parent_along(executor: Executor, leave: str) -> None:
    """The exit code says nothing then, not even 0."""
    lost(executor, CHILD_EATS + leave, "memory", "MemoryError", "Limits.memory", memory=64 * MIB)


def test_files_in_memory_are_no_way_around_the_limit(executor: Executor) -> None:
    """A file without a name is bounded in size, and many of them by the memory."""
    kept(executor, "import os\nf = os.memfd_create('x')\nwhile True:\n    os.write(f, bytes(2**20))", "OSError", "Errno 27", disk=4 * MIB)  # fmt: skip
    many = "import os\nwhile True:\n    os.write(os.memfd_create('x'), bytes(2**20))"
    lost(executor, many, "memory", "MemoryError", "Limits.memory", memory=32 * MIB, disk=4 * MIB)


# -- disk -------------------------------------------------------------------------------------------------------------


def test_disk_that_is_full(executor: Executor) -> None:
    with executor.session(policy=Policy(limits=Limits(disk=4 * MIB, time=30))) as session:
        for folder in ("/sandbox", "/tmp", "/dev/shm"):
            code = f"for i in range(9):\n    with open(f'{folder}/{{i}}', 'wb') as f:\n        f.write(bytes(2**20))"
            error = session.run(code).error
            assert error is not None and (error.kind, error.type) == ("exception", "OSError")
            assert "Errno 28" in error.message and session.run("1 + 1").value == 2


def test_file_that_is_too_large(executor: Executor) -> None:
    kept(executor, "with open('f', 'wb') as f:\n    f.write(bytes(5 << 20))", "OSError", "Errno 27", disk=4 * MIB)


def test_file_that_is_too_large_for_a_program_that_is_killed_for_it(executor: Executor) -> None:
    code = "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_DFL)\nwith open('f', 'wb') as f:\n    f.write(bytes(5 << 20))"
    lost(executor, code, "crash", "Crash", "Limits.disk", disk=4 * MIB)
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {code!r}]).returncode"
    result = end(executor, child, disk=4 * MIB)
    assert (result.value, result.error) == (-25, None)


# -- processes --------------------------------------------------------------------------------------------------------


def test_processes_that_are_used_up(executor: Executor) -> None:
    code = "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(60)\n        os._exit(0)"
    kept(executor, code, "BlockingIOError", "Errno 11", processes=8)


def test_threads_that_are_used_up(executor: Executor) -> None:
    code = "import threading\ne = threading.Event()\ntry:\n    for _ in range(99):\n        threading.Thread(target=e.wait, daemon=True).start()\nfinally:\n    e.set()"
    kept(executor, code, "RuntimeError", "can't start new thread", processes=8)


# -- time -------------------------------------------------------------------------------------------------------------

BLIND = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass",
        "import time\ntime.sleep(60)",
        BLIND + "while True:\n    pass",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])",
    ],
    ids=["busy", "asleep", "blind", "stopped", "child"],
)
def test_time_that_is_used_up(executor: Executor, code: str) -> None:
    lost(executor, code, "time", "TimeoutError", "Limits.time", time=0.7)


# -- output -----------------------------------------------------------------------------------------------------------

FLOODS = {
    "printed": "while True:\n    print('x' * 60000)",
    "written": "import os\nwhile True:\n    os.write(1, b'x' * 60000)",
    "errors": "import os\nwhile True:\n    os.write(2, b'x' * 60000)",
    "child": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: print(\"x\" * 60000)'])",
    "fork": "import os\nif os.fork() == 0:\n    while True:\n        os.write(1, b'x' * 60000)\nos.wait()",
    "blind": BLIND
    + "import os\nif os.fork() == 0:\n    while True:\n        os.write(1, b'x' * 60000)\nwhile True:\n    pass",
}


@pytest.mark.parametrize(("flood", "stdio"), [*((name, False) for name in FLOODS), ("written", True), ("blind", True)])
def test_output_without_end(flood: str, stdio: bool) -> None:
    """Whoever writes it, and whatever the step itself does meanwhile."""
    policy = Policy(limits=Limits(output=100_000, time=30), rollback="never")
    with Executor(Stdio(policy), policy=policy) if stdio else Executor("docker", policy=policy) as executor:
        with executor.session() as session:
            result = session.run(FLOODS[flood])
            assert result.error is not None and result.error.kind == "output", result
            assert result.error.type == "OutputLimitExceeded" and result.truncated and session.closed
            assert len(result.stderr if flood == "errors" else result.stdout) == 100_000


def test_output_past_the_limit_is_cut_and_the_session_goes_on(executor: Executor) -> None:
    code = "import os\nfor _ in range(10):\n    os.write(1, b'x' * 60000)\n7"
    result = end(executor, code, output=100_000)
    assert (result.value, result.error, result.truncated, len(result.stdout)) == (7, None, True, 100_000)


def test_child_that_floods_between_steps_ends_nothing(executor: Executor) -> None:
    """There is no step to answer: what it writes is dropped, and the next step is not held to account."""
    code = """
import os, time
pid = os.fork()
if pid == 0:
    while not os.path.exists("go"):
        time.sleep(0.01)
    for _ in range(100):
        os.write(1, b"x" * 60000)
    open("done", "w").close()
    os._exit(0)
"""
    with executor.session(policy=Policy(limits=Limits(output=100_000, time=30))) as session:
        assert session.run(code).ok
        session.files.write("go", b"")
        assert eventually(lambda: any(f.name == "done" for f in session.files.list()) or session.closed, 20)
        result = session.run("print('mine')\nos.waitpid(pid, 0)[1]")
        assert (result.value, result.error, result.stdout, result.truncated) == (0, None, "mine\n", False)
