"""Death, removal, the pool, and hosts that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from time import monotonic
from typing import Any

import pytest

from safeexec import BackendUnavailable, Executor, Limits, Policy
from safeexec.testing.base import eventually
from safeexec_backends.docker import DockerBackend, reaper

MIB = 2**20


def ours(client: Any) -> list[str]:
    return [found.id for found in reaper.find(client)]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import os\nos._exit(0)", "crash"),
        ("import os\nos.kill(os.getpid(), 9)", "crash"),
        ("import os\nos.abort()", "crash"),
    ],
)
def test_death_is_named(code: str, kind: str) -> None:
    with Executor("docker") as executor:
        error = executor.run(code).error
        assert error is not None and error.kind == kind and "exit code" in error.message


class Stdio(DockerBackend):
    """Frames through the daemon, as where it sees none of this machine's files: there an unread stream holds up the daemon itself."""

    _files_shared = False


WEDGED = {
    "output": "import os\nwhile True:\n    os.write(1, b'x' * 65536)",
    "errors": "import os\nwhile True:\n    os.write(2, b'x' * 65536)",
    "many": "import os\nfor _ in range(20):\n    if os.fork() == 0:\n        while True:\n            os.write(1, b'x' * 65536)\nwhile True:\n    pass",
    "masked": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True:\n    pass",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("stdio", [False, True], ids=["sockets", "stdio"])
def test_wedged_container_is_gone_within_a_second(client: Any, stdio: bool) -> None:
    """Nobody reads what it writes, and it listens to nobody. A busy machine gets three attempts; the minute of an unread stream none."""
    policy = Policy(limits=Limits(time=60, output=10**12))
    with Executor(Stdio(policy), policy=policy) if stdio else Executor("docker", policy=policy) as executor:
        for name, code in WEDGED.items():
            spent: list[float] = []
            while not spent or (min(spent) >= 1 and len(spent) < 3):
                session = executor.session()
                reading, release = threading.Event(), threading.Event()

                def unread(_: object, reading: threading.Event = reading, release: threading.Event = release) -> None:
                    reading.set()
                    release.wait(60)

                step = threading.Thread(
                    target=session.run, args=(f"print('go')\n{code}",), kwargs={"on_output": unread}
                )
                step.start()
                assert reading.wait(30)
                identity = session._guest.id  # type: ignore[attr-defined]
                started = monotonic()
                session.kill()
                assert eventually(lambda identity=identity: identity not in ours(client), 60)
                spent.append(monotonic() - started)
                release.set()
                step.join(30)
                assert not step.is_alive()
            assert min(spent) < 1, (name, spent)
    assert ours(client) == []


def test_step_that_floods_or_wedges_ends_and_its_container_goes(client: Any) -> None:
    with Executor("docker", policy=Policy(limits=Limits(time=0.5))) as executor:
        for code in ("while True:\n    print('x' * 60000)", *WEDGED.values()):
            with executor.session() as session:
                result = session.run(code)
                assert result.error is not None and result.error.kind in ("time", "output"), result
                assert result.rolled_back and not session.closed
            assert eventually(lambda: ours(client) == [])


def test_callback_that_blocks_does_not_delay_the_kill(client: Any) -> None:
    release = threading.Event()
    with Executor("docker") as executor:
        session = executor.session()
        thread = threading.Thread(
            target=lambda: session.run("while True:\n    print('x' * 60000)", on_output=lambda _: release.wait(30))
        )
        thread.start()
        session.kill()
        assert eventually(lambda: ours(client) == [], 10)
        release.set()
        thread.join(30)
        assert not thread.is_alive()


def test_pool_hands_out_each_container_once(client: Any) -> None:
    with Executor("docker", pool=2) as executor:
        pool = executor._backend._pool  # type: ignore[attr-defined]
        seen = set()
        for _ in range(4):
            assert eventually(lambda: len(pool) >= 2)
            with executor.session() as session:
                assert session.run("import os\nos.path.exists('/tmp/mark')").value is False
                session.run("open('/tmp/mark', 'w').close()")
                seen.add(session._guest.id)  # type: ignore[attr-defined]
        assert len(seen) == 4
    assert ours(client) == []


def test_pooled_container_that_somebody_removed_is_not_handed_out(client: Any) -> None:
    with Executor("docker", pool=1) as executor:
        pool = executor._backend._pool  # type: ignore[attr-defined]
        assert eventually(lambda: len(pool) >= 1)
        for identity in ours(client):
            reaper.remove(client, identity)
        assert executor.run("1 + 1").value == 2


@pytest.mark.parametrize("option", ["idle", "lifetime"])
def test_idle_and_lifetime_end_a_session(option: str) -> None:
    options: dict[str, Any] = {option: 0.5}
    with Executor("docker", **options) as executor, executor.session() as session:
        assert session.run("1").value == 1
        guest = session._guest
        assert eventually(lambda: not guest.alive())  # type: ignore[attr-defined]
        result = session.run("1")
        assert result.error is not None and option in result.error.message and session.closed


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_host_that_dies_leaves_nothing(client: Any, how: signal.Signals, state: str) -> None:
    script = os.path.join(os.path.dirname(__file__), "host.py")
    with subprocess.Popen(
        [sys.executable, script, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as host:
        assert host.stdout is not None and host.stdout.readline() == b"running\n"
        assert ours(client)
        host.send_signal(how)
        host.wait(30)
        assert eventually(lambda: ours(client) == [])


def test_exception_on_the_host_leaves_nothing(client: Any) -> None:
    """One that leaves the ``with``, and one that ends a program that never heard of closing."""
    with pytest.raises(ZeroDivisionError), Executor("docker", pool=1) as executor, executor.session() as session:
        assert session.run("1 + 1").value == 2
        raise ZeroDivisionError
    assert eventually(lambda: ours(client) == [])
    program = (
        "from safeexec import Executor\nsession = Executor('docker', pool=1).session()\n"
        "print(session.run('6 * 7').value, flush=True)\nraise ZeroDivisionError"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "42\n" and ran.stderr.endswith("ZeroDivisionError\n"), ran.stderr
    assert eventually(lambda: ours(client) == [])


def test_next_start_removes_what_a_killed_host_and_watcher_left(client: Any) -> None:
    script = os.path.join(os.path.dirname(__file__), "host.py")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None and host.stdout.readline() == b"running\n"
        with open(f"/proc/{host.pid}/task/{host.pid}/children") as file:
            children = [int(pid) for pid in file.read().split()]
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        held = ours(client)
        assert held and not any(found.orphaned for found in reaper.find(client))
        with Executor("docker"):  # the owner lives: nothing of its is touched
            assert set(held) <= set(ours(client))
        host.kill()
        host.wait(30)
    assert set(held) <= set(ours(client))  # there is no watcher: they stay, and are found to be orphans
    assert all(found.orphaned for found in reaper.find(client))
    with Executor("docker") as executor:
        assert not set(held) & set(ours(client))
        assert executor.run("1").value == 1
    assert eventually(lambda: ours(client) == [])  # the daemon may be busy removing the last one


def test_taken_over_process_id_owns_nothing() -> None:
    labels = reaper.labels("b", "session")
    assert reaper._orphaned(labels) is False
    assert reaper._orphaned({**labels, reaper.OWNER: f"{os.getpid()}.1"}) is True
    assert reaper._orphaned({**labels, reaper.HOST: "another"}) is None
    assert reaper._orphaned({}) is None


def test_no_daemon_says_what_to_do() -> None:
    with pytest.raises(BackendUnavailable, match="start Docker"):
        Executor("docker", url="unix:///nonexistent/docker.sock")


def test_missing_image_and_runtime_say_what_to_do(docker_url: str) -> None:
    with pytest.raises(BackendUnavailable, match="docker pull"):
        Executor("docker", image="safeexec-no-such-image:1")
    with pytest.raises(BackendUnavailable, match=r"daemon\.json"):
        Executor("docker", runtime="no-such-runtime")
    with pytest.raises(BackendUnavailable, match="python="):
        Executor("docker", python="python0")


def test_interrupt_never_reaches_the_next_step() -> None:
    with Executor("docker") as executor, executor.session() as session:
        for number in range(40):
            timer = threading.Timer(0.002 * (number % 5), session.interrupt)
            timer.start()
            session.run("sum(range(20000))")
            timer.join()
            assert session.run("sum(range(20000))").ok
