"""The e2b sandbox and E2B's own SDK against a loopback server: lifecycle, faults, keys, packages, the code interpreter."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy, wire
from safeexec.errors import BackendUnavailable, PolicyError, SessionClosed
from safeexec.testing.base import eventually
from tests.remote.conftest import KEY
from tests.remote.loopback import Loopback

pytest.importorskip("e2b_code_interpreter", reason="the e2b extra is not installed: pip install -e '.[e2b]'")

SEND = "process.Process/SendInput"
START = "process.Process/Start"
CONNECT = "process.Process/Connect"
CREATE = "POST /v2/sandboxes"


@pytest.fixture(scope="module")
def running(pip_environment: dict[str, str]) -> Iterator[Loopback]:
    loopback = Loopback("tests.remote.e2b_server", {"key": KEY, "env": pip_environment})
    yield loopback
    loopback.close()


@pytest.fixture
def server(running: Loopback, environment: pytest.MonkeyPatch) -> Iterator[Loopback]:
    environment.setenv("E2B_API_URL", running.url)
    environment.setenv("E2B_SANDBOX_URL", running.url)
    environment.setenv("E2B_API_KEY", KEY)
    running.faults()
    yield running
    running.faults()
    assert eventually(lambda: running.state() == []), "a sandbox was left behind"


def fault(match: str, action: int | str, **more: Any) -> dict[str, Any]:
    return {"match": match, "action": action, **more}


# -- lifecycle ------------------------------------------------------------------------------------------------------------


def test_what_is_asked_of_e2b(server: Loopback) -> None:
    with Executor("e2b", template="mine", timeout=77, metadata={"team": "red"}) as executor:
        with executor.session() as session:
            (sandbox,) = server.state()
            asked = sandbox["asked"]
            assert asked["templateID"] == "mine" and asked["timeout"] == 77
            assert asked["metadata"] == {"safeexec": "session", "team": "red"}
            assert asked["allow_internet_access"] is False
            assert session.run("6 * 7").value == 42
        assert server.state() == [] and server.calls("DELETE /sandboxes/") == 1


def test_hosts_by_permission_and_the_whole_internet_exclude_each_other(server: Loopback) -> None:
    for options, what in (({"internet": True}, "internet=True"), ({"native": True}, "network")):
        with pytest.raises(PolicyError, match=what):
            Executor("e2b", policy=Policy(network=("api.test",)), **options)
    assert server.state() == []
    with Executor("e2b", policy=Policy(network=("api.test",))) as executor, executor.session():
        assert server.state()[0]["asked"]["allow_internet_access"] is False


def test_internet_only_when_asked_for(server: Loopback) -> None:
    with Executor("e2b", internet=True) as executor:
        assert not executor.isolation["network"].active
        with executor.session():
            assert server.state()[0]["asked"]["allow_internet_access"] is True
    with Executor("e2b") as executor:
        assert executor.isolation["network"].active and not executor.isolation["imports"].active


def test_sandbox_is_kept_alive_while_a_session_is_open(server: Loopback) -> None:
    with Executor("e2b", timeout=15) as executor:
        executor._backend._keeper._interval = 0.1  # type: ignore[attr-defined]
        with executor.session() as session:
            (before,) = server.state()
            assert eventually(lambda: server.calls("/timeout") >= 3)
            assert server.state()[0]["ends"] > before["ends"]
            assert session.run("1").value == 1


def test_sandbox_that_expired_ends_its_session(server: Loopback) -> None:
    from e2b import Sandbox

    with Executor("e2b") as executor, executor.session(policy=Policy(limits=Limits(time=30))) as session:
        sandbox_id = session._guest.transport.name  # type: ignore[attr-defined]
        threading.Timer(0.3, lambda: Sandbox.set_timeout(sandbox_id, 0)).start()
        result = session.run("print('before')\nwhile True:\n    pass")
        assert result.error is not None and result.error.kind == "crash", result.error
        assert result.stdout == "before\n"
        with pytest.raises(SessionClosed, match="crash"):
            session.run("1")


def test_sandbox_that_expired_while_idle_is_noticed_by_the_keeper(server: Loopback) -> None:
    from e2b import Sandbox

    with Executor("e2b", timeout=15) as executor:
        executor._backend._keeper._interval = 0.1  # type: ignore[attr-defined]
        with executor.session() as session:
            Sandbox.kill(session._guest.transport.name)  # type: ignore[attr-defined]
            assert eventually(lambda: session._guest._ended is not None)  # type: ignore[attr-defined]
            result = session.run("1")
            assert result.error is not None and result.error.kind == "crash"


def test_executor_that_is_dropped_ends_its_sandboxes(server: Loopback) -> None:
    executor = Executor("e2b")
    session = executor.session()
    assert len(server.state()) == 1
    del session
    import gc

    gc.collect()
    assert eventually(lambda: server.state() == [])
    executor.close()


# -- faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [429, 500, 503, "drop", "lose", "chop"])
def test_passing_faults_of_input_do_not_show(server: Loopback, action: int | str) -> None:
    """Lost on the way, or carried out and its answer lost: sent again, and done once."""
    made: list[int] = []
    with Executor("e2b") as executor, executor.session({"f": made.append}) as session:
        server.faults(fault(SEND, action, times=2))
        result = session.run("f(1)\nf(2)\n'x' * 100_000")
        assert result.ok and len(result.value) == 100_000 and made == [1, 2]
        server.faults(fault(SEND, action, times=1))
        session.variables["y"] = b"z" * 600_000
        assert session.run("len(y)").value == 600_000


def test_delay_only_delays(server: Loopback) -> None:
    with Executor("e2b") as executor, executor.session() as session:
        server.faults(fault(SEND, "delay", seconds=0.4))
        started = time.monotonic()
        assert session.run("1").value == 1
        assert time.monotonic() - started >= 0.4


def test_lasting_fault_of_input_ends_the_session_and_the_sandbox(server: Loopback) -> None:
    with Executor("e2b") as executor, executor.session() as session:
        server.faults(fault(SEND, 500, times=1000))
        result = session.run("1")
        assert (
            result.error is not None and result.error.kind == "crash" and "could not be reached" in result.error.message
        )
        assert 2 <= server.calls(SEND) <= 10
        assert eventually(lambda: server.state() == [])
        with pytest.raises(SessionClosed):
            session.run("1")


@pytest.mark.parametrize("pieces", [3, 4, 6])
def test_output_that_breaks_off_is_taken_up_again(server: Loopback, pieces: int) -> None:
    """The relay sends again what the broken connection lost; whatever comes twice is taken once."""
    made: list[int] = []
    with Executor("e2b") as executor:
        server.faults(fault(START, "truncate", pieces=pieces), fault(CONNECT, "truncate", times=4, pieces=pieces))
        with executor.session({"f": made.append}) as session:
            result = session.run("for i in range(30):\n    f(i)\n    print(i)\n'x' * 300_000")
            assert result.ok, result.error
            assert made == list(range(30)) and result.stdout.split() == [str(i) for i in range(30)]
            assert len(result.value) == 300_000 and session.run("1").value == 1
        assert server.calls(CONNECT) >= 2 and server.calls(START) == 1


def test_connection_that_breaks_for_an_idle_session(server: Loopback) -> None:
    with Executor("e2b") as executor:
        server.faults(fault(START, "truncate", pieces=3))  # the start, hello, and the answer to init; not to the next
        with executor.session() as session:
            assert [session.run(f"x = {n}\nx").value for n in range(5)] == list(range(5))


def test_connection_that_only_breaks_is_given_up(server: Loopback) -> None:
    with Executor("e2b") as executor:
        server.faults(fault(START, "truncate", pieces=4), fault(CONNECT, "truncate", times=1000, pieces=1))
        with executor.session() as session:
            result = session.run("import time\nfor _ in range(100):\n    print('x')\n    time.sleep(0.01)")
            assert result.error is not None and result.error.kind == "crash", result.error
        assert server.calls(CONNECT) < 50


def test_step_that_may_have_begun_is_not_run_again(server: Loopback) -> None:
    made: list[int] = []
    with Executor("e2b") as executor:
        server.faults(fault(START, "truncate", pieces=6), fault(CONNECT, 500, times=100))
        with executor.session({"f": made.append}) as session:
            result = session.run("for i in range(50):\n    f(i)")
            assert result.error is not None and result.error.kind == "crash", result.error
            assert made == list(range(len(made)))
        assert server.calls(START) == 1 and server.calls(CREATE) == 1


@pytest.mark.parametrize("action", [500, "drop", "truncate"])
def test_guest_that_cannot_be_started_leaves_no_sandbox(server: Loopback, action: int | str) -> None:
    with Executor("e2b") as executor:
        server.faults(fault(START, action, pieces=1))
        with pytest.raises(BackendUnavailable):
            executor.session()
        assert eventually(lambda: server.state() == [])
        assert executor.run("1").value == 1


def test_guest_whose_python_is_missing_says_so(server: Loopback) -> None:
    with Executor("e2b", python="python-that-is-not-there") as executor:
        with pytest.raises(BackendUnavailable, match="python-that-is-not-there"):
            executor.session()


@pytest.mark.parametrize("action", [429, 500, 503, "lose"])
def test_creating_is_tried_again_and_makes_one_sandbox(server: Loopback, action: int | str) -> None:
    with Executor("e2b") as executor:
        server.faults(fault(CREATE, action))
        with executor.session() as session:
            assert len(server.state()) == 1 and session.run("1").value == 1
        keys = {entry["headers"].get("idempotency-key") for entry in server.record() if entry["call"] == CREATE}
        assert len(keys) == 1 and None not in keys and server.calls(CREATE) == 2


def test_creating_is_given_up(server: Loopback) -> None:
    with Executor("e2b") as executor:
        server.faults(fault(CREATE, 500, times=100))
        with pytest.raises(BackendUnavailable, match=r"E2B did not start a sandbox.*500"):
            executor.session()
        assert server.calls(CREATE) <= 5


def test_killing_is_tried_again_and_a_failure_is_said(server: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    with Executor("e2b") as executor:
        session = executor.session()
        server.faults(fault("DELETE", 500, times=2))
        session.close()
        assert server.state() == []
        session = executor.session()
        name = session._guest.transport.name  # type: ignore[attr-defined]
        server.faults(fault("DELETE", 500, times=100))
        session.close()
        assert any(name in record.getMessage() and record.levelno == logging.WARNING for record in caplog.records)
        server.faults()
    from e2b import Sandbox

    Sandbox.kill(name)


def test_network_that_hangs_does_not_hold_up_the_end(server: Loopback) -> None:
    with Executor("e2b") as executor, executor.session(policy=Policy(limits=Limits(time=0.4))) as session:
        server.faults(fault(SEND, "hang", times=100, seconds=4))
        started = time.monotonic()
        result = session.run("1")
        assert result.error is not None and result.error.kind == "time"
        assert time.monotonic() - started < 4, "it waited for the network"


# -- keys -----------------------------------------------------------------------------------------------------------------


def test_without_a_key(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="E2B_API_KEY"):
        Executor("e2b")


def test_wrong_key(server: Loopback) -> None:
    wrong = "e2b_" + "bad0" * 10
    with Executor("e2b", api_key=wrong) as executor:
        with pytest.raises(BackendUnavailable, match="E2B_API_KEY") as caught:
            executor.session()
        assert wrong not in str(caught.value) and caught.value.__suppress_context__
        assert server.calls(CREATE) == 1


def test_key_goes_to_the_api_and_nowhere_else(server: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Executor("e2b", policy=Policy(packages=("loopback_probe",), imports="*")) as executor:
        with executor.session({"f": lambda: None}) as session:
            code = "import os\nfound = str(dict(os.environ))\nfor p in os.listdir('/proc'):\n    if p.isdigit():\n        try:\n            with open(f'/proc/{p}/cmdline') as file:\n                found += file.read()\n        except OSError:\n            pass\nf()\nfound"
            seen = session.run(code)
            assert seen.ok and "PATH" in seen.value
            assert KEY not in seen.value
            backend = executor._backend
            for thing in (
                executor,
                session,
                backend,
                session._guest,
                session._guest.transport,
                vars(backend),
                vars(session._guest.transport),
            ):  # type: ignore[attr-defined]
                assert KEY not in repr(thing)
    assert KEY not in caplog.text
    for entry in server.record():
        inside = "e2b-sandbox-id" in entry["headers"]
        assert KEY not in entry["body"] and KEY not in entry["call"]
        for name, value in entry["headers"].items():
            assert (KEY in value) == (name == "x-api-key" and not inside), (entry["call"], name)


# -- policy ---------------------------------------------------------------------------------------------------------------


def test_network_is_shut_after_packages_are_installed(server: Loopback) -> None:
    with Executor("e2b", policy=Policy(packages=("loopback_probe==1.0",), imports=("loopback_probe",))) as executor:
        with executor.session() as session:
            (sandbox,) = server.state()
            assert sandbox["asked"]["allow_internet_access"] is True
            assert sandbox["network"] == {"allow_internet_access": False}
            order = [entry["call"].rpartition("/")[2] for entry in server.record()]
            assert order.index("Start") < order.index("network") < len(order) - 1 - order[::-1].index("Start")
            assert session.run("import loopback_probe\nloopback_probe.ANSWER").value == 42


def test_sandbox_whose_network_cannot_be_shut_is_not_used(server: Loopback) -> None:
    with Executor("e2b", policy=Policy(packages=("loopback_probe",))) as executor:
        server.faults(fault("/network", 500, times=100))
        with pytest.raises(BackendUnavailable, match="500"):
            executor.session()
        assert server.calls(START) == 1 and eventually(lambda: server.state() == [])


def test_package_that_does_not_exist(server: Loopback) -> None:
    with Executor("e2b", policy=Policy(packages=("no-such-distribution",))) as executor:
        with pytest.raises(BackendUnavailable, match="no-such-distribution"):
            executor.session()


@pytest.mark.parametrize("package", ["--index-url=http://x", "a; id", "../x", "x @ file:///etc", "-r", "a b", ""])
def test_package_that_is_no_name_is_refused(server: Loopback, package: str) -> None:
    with pytest.raises(PolicyError, match=r"Policy\.packages"):
        Executor("e2b", policy=Policy(packages=(package,)))


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (Policy(limits=Limits(disk=1)), "disk"),
        (Policy(limits=Limits(processes=1)), "processes"),
        (Policy(rollback="limits"), "rollback"),
        (Policy(require=("disk",)), "disk"),
        (Policy(require=("seccomp",)), "seccomp"),
    ],
)
def test_what_cannot_be_honoured_is_refused(server: Loopback, policy: Policy, field: str) -> None:
    with pytest.raises(PolicyError, match=field):
        Executor("e2b", policy=policy)
    with Executor("e2b") as executor, pytest.raises(PolicyError, match=field):
        executor.session(policy=policy)


# -- output of programs ---------------------------------------------------------------------------------------------------


def test_output_of_programs_is_the_steps(server: Loopback) -> None:
    code = "import os\nprint('first')\nos.system('echo out; echo err >&2')\nos.write(1, b'raw')"
    with Executor("e2b") as executor, executor.session() as session:
        for _ in range(5):
            result = session.run(code)
            assert result.stdout in ("first\nout\nraw",) and result.stderr == "err\n", result
        flood = session.run("import os\nos.system('yes | head -c 3000000')")
        assert flood.truncated and len(flood.stdout) == 1_000_000
        assert session.run("print('next')").stdout == "next\n"


# -- speed ----------------------------------------------------------------------------------------------------------------


def test_tool_call_takes_less_than_ten_milliseconds(server: Loopback) -> None:
    with Executor("e2b") as executor, executor.session({"f": lambda: 1}) as session:
        session.run("f()")
        times = []
        for _ in range(5):
            started = time.monotonic()
            assert session.run("for _ in range(20):\n    f()").ok
            times.append((time.monotonic() - started) / 20)
        assert min(times) <= 0.010, times


# -- the code interpreter -------------------------------------------------------------------------------------------------


@pytest.fixture
def native(server: Loopback) -> Iterator[Executor]:
    with Executor("e2b", native=True) as executor:
        yield executor


def test_native_runs_steps(native: Executor) -> None:
    with native.session() as session:
        pieces: list[str] = []
        result = session.run(
            "x = 1\nprint('hi')\nimport sys\nprint('err', file=sys.stderr)\nx + 1", on_output=pieces.append
        )
        assert result.value == 2 and result.stdout == "hi\n" and result.stderr == "err\n" and "hi\n" in pieces
        assert session.run("x").value == 1
        assert session.run("print('nothing')").value is None
        error = session.run("1 / 0").error
        assert error is not None and (error.kind, error.type) == ("exception", "ZeroDivisionError")
        assert "division by zero" in error.traceback


def test_native_variables(native: Executor) -> None:
    data = {"a": [1, -2.5, None, True, "it's", b"\0"], "b": (1, {"c"})}
    with native.session(variables={"x": data}) as session:
        assert session.run("x['a'][1]").value == -2.5
        assert session.variables["x"] == data and "x" in list(session.variables)
        session.variables["y"] = 5
        assert session.run("x['b'], y").value == ((1, {"c"}), 5)
        del session.variables["y"]
        with pytest.raises(KeyError):
            session.variables["y"]
        with pytest.raises(OSError, match="literal"):
            session.variables["z"] = float("nan")
        assert session.run("1").value == 1


def test_native_values_that_are_no_data(native: Executor) -> None:
    with native.session() as session:
        value = session.run("object()").value
        assert type(value).__name__ == "Opaque" and "object object" in value.repr


def test_native_displays(native: Executor) -> None:
    code = "class H:\n    def _repr_html_(self):\n        return '<b>x</b>'\ndisplay(H())\n5"
    with native.session() as session:
        result = session.run(code)
        assert result.value == 5 and any(d.data.get("text/html") == "<b>x</b>" for d in result.displays)


def test_native_files(server: Loopback) -> None:
    policy = Policy(files={"in.txt": b"given"})
    with Executor("e2b", native=True, policy=policy) as executor, executor.session() as session:
        assert session.run("open('in.txt').read()").value == "given"
        session.run("import os\nos.mkdir('d')\nwith open('d/out.txt', 'w') as f:\n    _ = f.write('made')")
        assert session.files.read("d/out.txt") == b"made"
        assert [f.name for f in session.files.list()] == ["d/out.txt", "in.txt"]
        session.files.remove("in.txt")
        with pytest.raises(FileNotFoundError):
            session.files.read("in.txt")


def test_native_reads_no_more_of_a_file_than_was_asked_for(native: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be as large as the vendor's disk."""
    taken = 0
    with native.session() as session:
        session.run("with open('big', 'wb') as f:\n    f.seek(50 * 2**20)\n    f.write(b'x')")
        stream = session._guest.sandbox.files.read("/home/user/big", format="stream")  # type: ignore[attr-defined]
        stream.close()
        real = type(stream).__next__

        def counted(self: Any) -> bytes:
            nonlocal taken
            piece: bytes = real(self)
            taken += len(piece)
            return piece

        monkeypatch.setattr(type(stream), "__next__", counted)
        answer: dict[str, Any] = {}
        encoder = wire.Encoder(2**20)
        header = {"name": "big", "at": 100, "size": 1000}
        session._guest._do_read(header, (), answer, encoder, None)  # type: ignore[attr-defined]
        assert wire.Decoder(encoder.blobs).decode(answer["v"]) == bytes(1000)
    assert 1100 <= taken < 16 * 2**20


def test_native_environment(server: Loopback) -> None:
    with Executor("e2b", native=True, policy=Policy(env={"MINE": "it's"})) as executor:
        assert executor.run("import os\nos.environ['MINE']").value == "it's"


def test_native_limits(server: Loopback) -> None:
    with Executor("e2b", native=True, policy=Policy(limits=Limits(time=0.5))) as executor:
        session = executor.session()
        result = session.run("print('begun')\nwhile True:\n    pass")
        assert result.error is not None and result.error.kind == "time" and result.stdout == "begun\n"
        assert session.closed
        assert eventually(lambda: server.state() == [])


def test_native_refuses_what_it_cannot(native: Executor) -> None:
    with pytest.raises(PolicyError, match="tools"):
        native.session(tools={"f": lambda: 1})
    with pytest.raises(PolicyError, match="imports"):
        native.session(policy=Policy(imports=("math",)))
    with pytest.raises(PolicyError, match="memory"):
        native.session(policy=Policy(limits=Limits(memory=2**20)))
    assert not native.isolation["memory"].active


@pytest.mark.parametrize(
    "text", ["-" * 15_000 + "1", "[" * 5000, "1+" * 5000 + "1", "__import__('os')", "(" * 21 + ")" * 21]
)
def test_native_text_that_would_strain_a_parser_stays_text(text: str) -> None:
    from safeexec_backends.e2b.native import _is_literal

    assert not _is_literal(text)


def test_native_execution_is_not_run_again(native: Executor, server: Loopback) -> None:
    with native.session() as session:
        server.faults(fault("/execute", "lose"))
        result = session.run("1")
        assert result.error is not None and result.error.kind == "crash"
        assert server.calls("/execute") == 1 and eventually(lambda: server.state() == [])
