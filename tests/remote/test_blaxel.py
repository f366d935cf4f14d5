"""The blaxel sandbox and Blaxel's own SDK against a loopback server: lifecycle, faults, keys, packages."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy
from safeexec.errors import BackendUnavailable, PolicyError, SessionClosed
from safeexec.testing.base import eventually
from tests.remote.conftest import KEY, WORKSPACE
from tests.remote.loopback import Loopback

pytest.importorskip("blaxel", reason="the blaxel extra is not installed: pip install -e '.[blaxel]'")

WRITE = "/process/safeexec/stdin"
START = "/process"
CREATE = "POST /sandboxes"


@pytest.fixture(scope="module")
def running(pip_environment: dict[str, str]) -> Iterator[Loopback]:
    loopback = Loopback("tests.remote.blaxel_server", {"key": KEY, "env": pip_environment})
    yield loopback
    loopback.close()


@pytest.fixture
def server(running: Loopback, environment: pytest.MonkeyPatch) -> Iterator[Loopback]:
    from blaxel.core.client.client import client

    from safeexec_backends.blaxel import backend

    environment.setenv("BL_API_KEY", KEY)
    environment.setenv("BL_WORKSPACE", WORKSPACE)
    environment.setenv("BL_REGION", "loopback")
    environment.setenv("DO_NOT_TRACK", "1")
    environment.setattr(backend, "_logged_in", None)
    before = client._base_url
    client.with_base_url(running.url)
    running.faults()
    yield running
    running.faults()
    assert eventually(lambda: running.state() == []), "a sandbox was left behind"
    client.with_base_url(before)


def fault(match: str, action: int | str, **more: Any) -> dict[str, Any]:
    return {"match": match, "action": action, **more}


def test_what_is_asked_of_blaxel(server: Loopback) -> None:
    with Executor("blaxel", image="mine/py:1", memory=1024, timeout=333) as executor:
        with executor.session() as session:
            (sandbox,) = server.state()
            runtime = sandbox["asked"]["spec"]["runtime"]
            assert (runtime["image"], runtime["memory"], runtime["ttl"]) == ("mine/py:1", 1024, "333s")
            assert sandbox["networks"][0]["firewall"] == {"rulesets": ["proxy"]}
            assert session.run("6 * 7").value == 42
        assert server.state() == [] and server.calls("DELETE /sandboxes/") == 1


def test_network_is_not_claimed_to_be_shut(server: Loopback) -> None:
    with Executor("blaxel") as executor:
        assert not executor.isolation["network"].active
        with pytest.raises(PolicyError, match="network"):
            executor.session(policy=Policy(require=("network",)))
    with Executor("blaxel", internet=True) as executor, executor.session():
        assert server.state()[0]["networks"] == [None]


@pytest.mark.parametrize("action", [429, 500, 503, "drop", "lose"])
def test_passing_faults_of_input_do_not_show(server: Loopback, action: int | str) -> None:
    made: list[int] = []
    with Executor("blaxel") as executor, executor.session({"f": made.append}) as session:
        server.faults(fault(WRITE, action, times=2))
        result = session.run("f(1)\nf(2)\n'x' * 100_000")
        assert result.ok and len(result.value) == 100_000 and made == [1, 2]
        server.faults(fault(WRITE, action, times=1))
        session.variables["y"] = b"z" * 600_000
        assert session.run("len(y)").value == 600_000


def test_lasting_fault_of_input_ends_the_session_and_the_sandbox(server: Loopback) -> None:
    with Executor("blaxel") as executor, executor.session() as session:
        server.faults(fault(WRITE, 500, times=1000))
        result = session.run("1")
        assert (
            result.error is not None and result.error.kind == "crash" and "could not be reached" in result.error.message
        )
        assert eventually(lambda: server.state() == [])
        with pytest.raises(SessionClosed):
            session.run("1")


def test_step_that_may_have_begun_is_not_run_again(server: Loopback) -> None:
    made: list[int] = []
    with Executor("blaxel") as executor:
        server.faults(fault(f"{START}", "truncate", pieces=6))
        with executor.session({"f": made.append}) as session:
            result = session.run("for i in range(50):\n    f(i)")
            assert result.error is not None and result.error.kind == "crash", result.error
            assert made == list(range(len(made)))
        calls = [entry["call"] for entry in server.record()]
        assert calls.count(CREATE) == 1 and sum(call.endswith("/process") for call in calls) == 1


@pytest.mark.parametrize("action", [500, "drop", "truncate"])
def test_guest_that_cannot_be_started_leaves_no_sandbox(server: Loopback, action: int | str) -> None:
    with Executor("blaxel") as executor:
        server.faults(fault(START, action, pieces=0))
        with pytest.raises(BackendUnavailable):
            executor.session()
        assert eventually(lambda: server.state() == [])
        assert executor.run("1").value == 1


def test_guest_whose_python_is_missing_says_so(server: Loopback) -> None:
    with Executor("blaxel", python="python-that-is-not-there") as executor:
        with pytest.raises(BackendUnavailable, match="python-that-is-not-there"):
            executor.session()


@pytest.mark.parametrize("action", [429, 503, 500, "lose", "drop"])
def test_creating_is_tried_again_and_makes_one_sandbox(server: Loopback, action: int | str) -> None:
    with Executor("blaxel") as executor:
        server.faults(fault(CREATE, action))
        with executor.session() as session:
            assert len(server.state()) == 1 and session.run("1").value == 1


def test_creating_is_given_up(server: Loopback) -> None:
    with Executor("blaxel") as executor:
        server.faults(fault(CREATE, 503, times=100))
        with pytest.raises(BackendUnavailable, match=r"Blaxel did not start a sandbox.*503"):
            executor.session()


def test_ending_that_fails_is_said(server: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    with Executor("blaxel") as executor:
        session = executor.session()
        transport: Any = session._guest.transport  # type: ignore[attr-defined]
        server.faults(fault("DELETE", 503, times=100))
        session.close()
        assert any(transport.name in r.getMessage() and r.levelno == logging.WARNING for r in caplog.records)
        server.faults()
        transport.destroy()


def test_network_that_hangs_does_not_hold_up_the_end(server: Loopback) -> None:
    with Executor("blaxel") as executor, executor.session(policy=Policy(limits=Limits(time=0.4))) as session:
        server.faults(fault(WRITE, "hang", times=100, seconds=4))
        started = time.monotonic()
        result = session.run("1")
        assert result.error is not None and result.error.kind == "time"
        assert time.monotonic() - started < 4, "it waited for the network"


def test_without_a_key(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="BL_API_KEY"):
        Executor("blaxel")


def test_wrong_key(server: Loopback) -> None:
    wrong = "bad0" * 10
    with Executor("blaxel", api_key=wrong) as executor:
        with pytest.raises(BackendUnavailable, match="BL_API_KEY") as caught:
            executor.session()
        assert wrong not in str(caught.value) and caught.value.__suppress_context__


def test_one_key_in_a_process(server: Loopback) -> None:
    with Executor("blaxel"):
        with pytest.raises(BackendUnavailable, match="one key"):
            Executor("blaxel", api_key="another")


def test_key_goes_to_the_control_plane_and_nowhere_else(server: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Executor("blaxel") as executor, executor.session({"f": lambda: None}) as session:
        seen = session.run("import os\nf()\nstr(dict(os.environ)) + open('/proc/self/cmdline').read()")
        assert seen.ok and "PATH" in seen.value and KEY not in seen.value
        backend: Any = executor._backend
        guest: Any = session._guest
        for thing in (executor, session, backend, guest, vars(backend), vars(guest.transport)):
            assert KEY not in repr(thing)
    assert KEY not in caplog.text
    inside = [entry for entry in server.record() if "/inside/" in entry["call"]]
    assert inside
    for entry in server.record():
        assert KEY not in entry["body"] and KEY not in entry["call"]
    for entry in inside:
        assert KEY not in str(entry["headers"]) and "x-blaxel-preview-token" in entry["headers"]


def test_network_is_asked_to_shut_after_packages_are_installed(server: Loopback) -> None:
    policy = Policy(packages=("loopback_probe==1.0",), imports=("loopback_probe",))
    with Executor("blaxel", policy=policy) as executor, executor.session() as session:
        (sandbox,) = server.state()
        assert sandbox["networks"][0] is None and sandbox["networks"][1]["firewall"] == {"rulesets": ["proxy"]}
        order = [entry["call"] for entry in server.record()]
        starts = [n for n, call in enumerate(order) if call.endswith("/process")]
        assert starts[0] < next(n for n, call in enumerate(order) if call.startswith("PUT")) < starts[1]
        assert session.run("import loopback_probe\nloopback_probe.ANSWER").value == 42


def test_package_that_does_not_exist(server: Loopback) -> None:
    with Executor("blaxel", policy=Policy(packages=("no-such-distribution",))) as executor:
        with pytest.raises(BackendUnavailable, match="no-such-distribution"):
            executor.session()


def test_tool_call_takes_less_than_ten_milliseconds(server: Loopback) -> None:
    with Executor("blaxel") as executor, executor.session({"f": lambda: 1}) as session:
        session.run("f()")
        times = []
        for _ in range(5):
            started = time.monotonic()
            assert session.run("for _ in range(20):\n    f()").ok
            times.append((time.monotonic() - started) / 20)
        assert min(times) <= 0.010, times
