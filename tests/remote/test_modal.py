"""The modal sandbox and Modal's own SDK against a loopback server: lifecycle, faults, tokens, images."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy
from safeexec.errors import BackendUnavailable, PolicyError, SessionClosed
from safeexec.testing.base import eventually
from tests.remote.conftest import TOKEN
from tests.remote.loopback import Loopback

pytest.importorskip("modal", reason="the modal extra is not installed: pip install -e '.[modal]'")

WRITE = "TaskExecStdinWrite"
READ = "TaskExecStdioRead"
START = "TaskExecStart"
CREATE = "SandboxCreateV2"
END = "SandboxTerminateV2"


@pytest.fixture(scope="module")
def running(pip_environment: dict[str, str]) -> Iterator[Loopback]:
    loopback = Loopback("tests.remote.modal_server", {"token": TOKEN, "env": pip_environment})
    yield loopback
    loopback.close()


@pytest.fixture
def server(running: Loopback, environment: pytest.MonkeyPatch) -> Iterator[Loopback]:
    environment.setenv("MODAL_SERVER_URL", running.url)
    environment.setenv("MODAL_TOKEN_ID", TOKEN[0])
    environment.setenv("MODAL_TOKEN_SECRET", TOKEN[1])
    running.faults()
    yield running
    running.faults()
    assert eventually(lambda: running.state() == []), "a sandbox was left behind"


def fault(match: str, action: str, **more: Any) -> dict[str, Any]:
    return {"match": match, "action": action, **more}


def test_what_is_asked_of_modal(server: Loopback) -> None:
    policy = Policy(limits=Limits(memory=300 * 2**20))
    with Executor("modal", policy=policy, timeout=77, image="example/mine:1") as executor:
        with executor.session() as session:
            (sandbox,) = server.state()
            assert sandbox["timeout"] == 77 and sandbox["memory"] == 556
            assert any(command.startswith("FROM example/mine:1") for image in sandbox["images"] for command in image)
            assert sandbox["network"] == 2  # NetworkAccess.BLOCKED, modal_proto/api.proto
            assert session.run("6 * 7").value == 42
        assert server.state() == [] and server.calls(END) == 1


def test_internet_only_when_asked_for(server: Loopback) -> None:
    with Executor("modal", internet=True) as executor, executor.session():
        assert not executor.isolation["network"].active
        assert server.state()[0]["network"] == 1  # OPEN
    with Executor("modal") as executor:
        assert executor.isolation["network"].active


def test_sandbox_that_expired_ends_its_session(server: Loopback) -> None:
    with Executor("modal", timeout=2) as executor, executor.session(policy=Policy(limits=Limits(time=30))) as session:
        result = session.run("print('before')\nwhile True:\n    pass")
        assert result.error is not None and result.error.kind == "crash", result.error
        assert result.stdout == "before\n"
        with pytest.raises(SessionClosed, match="crash"):
            session.run("1")


@pytest.mark.parametrize("action", ["UNAVAILABLE", "INTERNAL", "lose"])
def test_passing_faults_of_input_do_not_show(server: Loopback, action: str) -> None:
    made: list[int] = []
    with Executor("modal") as executor, executor.session({"f": made.append}) as session:
        server.faults(fault(WRITE, action, times=3))
        result = session.run("f(1)\nf(2)\n'x' * 100_000")
        assert result.ok and len(result.value) == 100_000 and made == [1, 2]


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_output_that_breaks_off_is_taken_up_again(server: Loopback, pieces: int) -> None:
    """The SDK comes back with an offset; whatever it repeats, each piece is taken once."""
    made: list[int] = []
    with Executor("modal") as executor:
        server.faults(fault(READ, "truncate", times=3, pieces=pieces))
        with executor.session({"f": made.append}) as session:
            result = session.run("for i in range(20):\n    f(i)\n    print(i)")
            assert result.ok and made == list(range(20)) and result.stdout.split() == [str(i) for i in range(20)]


def test_lasting_fault_of_input_ends_the_session_and_the_sandbox(server: Loopback) -> None:
    with Executor("modal") as executor, executor.session() as session:
        server.faults(fault(WRITE, "RESOURCE_EXHAUSTED", times=10_000))
        result = session.run("1")
        assert result.error is not None and result.error.kind == "crash", result.error
        assert eventually(lambda: server.state() == [])
        with pytest.raises(SessionClosed):
            session.run("1")


def test_guest_that_cannot_be_started_leaves_no_sandbox(server: Loopback) -> None:
    with Executor("modal") as executor:
        server.faults(fault(START, "INVALID_ARGUMENT"))
        with pytest.raises(BackendUnavailable, match="injected"):
            executor.session()
        assert eventually(lambda: server.state() == [])
        assert executor.run("1").value == 1


def test_guest_whose_python_is_missing_says_so(server: Loopback) -> None:
    with Executor("modal", python="python-that-is-not-there") as executor:
        with pytest.raises(BackendUnavailable, match="python-that-is-not-there"):
            executor.session()


@pytest.mark.parametrize("action", ["UNAVAILABLE", "lose"])
def test_creating_is_tried_again_and_makes_one_sandbox(server: Loopback, action: str) -> None:
    with Executor("modal") as executor:
        server.faults(fault(CREATE, action))
        with executor.session() as session:
            assert len(server.state()) == 1 and session.run("1").value == 1
        assert server.calls(CREATE) == 2


def test_rate_limit_on_creation_is_said(server: Loopback) -> None:
    with Executor("modal") as executor:
        server.faults(fault(CREATE, "RESOURCE_EXHAUSTED", times=100))
        with pytest.raises(BackendUnavailable, match="Modal did not start a sandbox"):
            executor.session()


def test_ending_that_fails_is_said(server: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    with Executor("modal", timeout=20) as executor:
        session = executor.session()
        name = session._guest.transport.name  # type: ignore[attr-defined]
        server.faults(fault(END, "RESOURCE_EXHAUSTED", times=100))
        session.close()
        assert any(name in record.getMessage() and record.levelno == logging.WARNING for record in caplog.records)
        assert [s["id"] for s in server.state()] == [name]
        server.faults()
        session._guest.transport.destroy()  # type: ignore[attr-defined]


def test_network_that_hangs_does_not_hold_up_the_end(server: Loopback) -> None:
    with Executor("modal") as executor, executor.session(policy=Policy(limits=Limits(time=0.4))) as session:
        server.faults(fault(WRITE, "hang", times=100, seconds=4))
        started = time.monotonic()
        result = session.run("1")
        assert result.error is not None and result.error.kind == "time"
        assert time.monotonic() - started < 4, "it waited for the network"


def test_without_a_token(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="MODAL_TOKEN_ID"):
        Executor("modal")


def test_wrong_token(server: Loopback) -> None:
    wrong = "as-" + "bad0" * 5
    with Executor("modal", token_secret=wrong) as executor:
        with pytest.raises(BackendUnavailable, match="MODAL_TOKEN_SECRET") as caught:
            executor.session()
        assert wrong not in str(caught.value) and caught.value.__suppress_context__


def test_token_goes_to_the_control_plane_and_nowhere_else(server: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    code = "import os\nfound = str(dict(os.environ))\nfor p in os.listdir('/proc'):\n    if p.isdigit():\n        try:\n            with open(f'/proc/{p}/cmdline') as file:\n                found += file.read()\n        except OSError:\n            pass\nf()\nfound"
    with Executor("modal") as executor, executor.session({"f": lambda: None}) as session:
        seen = session.run(code)
        assert seen.ok and "PATH" in seen.value
        backend: Any = executor._backend
        guest: Any = session._guest
        things = [executor, session, backend, guest, vars(backend), vars(guest.transport)]
        for secret in TOKEN:
            assert secret not in seen.value and not any(secret in repr(thing) for thing in things)
    router = [entry for entry in server.record() if entry["call"].startswith("Task")]
    assert router
    for secret in TOKEN:
        assert secret not in caplog.text
        assert not any(secret in entry["body"] for entry in server.record())
        assert not any(secret in str(entry["headers"]) for entry in router)


def test_packages_are_built_into_the_image(server: Loopback) -> None:
    policy = Policy(packages=("loopback_probe==1.0",), imports=("loopback_probe",))
    with Executor("modal", policy=policy) as executor, executor.session() as session:
        assert session.run("import loopback_probe\nloopback_probe.ANSWER").value == 42
        assert server.state()[0]["network"] == 2


def test_package_that_does_not_exist(server: Loopback) -> None:
    with Executor("modal", policy=Policy(packages=("no-such-distribution",))) as executor:
        with pytest.raises(BackendUnavailable):
            executor.session()


def test_package_that_is_no_name_is_refused(server: Loopback) -> None:
    with pytest.raises(PolicyError, match=r"Policy\.packages"):
        Executor("modal", policy=Policy(packages=("--index-url=http://x",)))


def test_sessions_from_many_threads_share_a_client(server: Loopback) -> None:
    with Executor("modal") as executor:
        values: list[Any] = []
        threads = [threading.Thread(target=lambda n=n: values.append(executor.run(f"{n}").value)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(values) == [0, 1, 2, 3]
        assert server.calls("AppGetOrCreate") == 1


def test_tool_call_takes_less_than_ten_milliseconds(server: Loopback) -> None:
    with Executor("modal") as executor, executor.session({"f": lambda: 1}) as session:
        session.run("f()")
        times = []
        for _ in range(5):
            started = time.monotonic()
            assert session.run("for _ in range(20):\n    f()").ok
            times.append((time.monotonic() - started) / 20)
        assert min(times) <= 0.010, times
