"""The server that speaks E2B's protocol, over an Executor: used by E2B's own SDK, and who may do what."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from safeexec import Executor, PolicyError
from safeexec.serve import machine as machines
from safeexec.serve.e2b import E2BServer
from safeexec.serve.http import Request
from safeexec.serve.machine import ExecutorMachine
from safeexec.testing.base import eventually
from tests.remote.conftest import KEY
from tests.remote.served import Served


def test_sdk_runs_code(sandbox: Any) -> None:
    lines: list[str] = []
    done = sandbox.run_code("x = 20\nprint('hi')\nx + 1", on_stdout=lambda message: lines.append(message.line))
    assert done.text == "21" and lines == ["hi\n"] and done.logs.stdout == ["hi\n"] and done.error is None
    assert sandbox.run_code("x").text == "20"
    failed = sandbox.run_code("1 / 0")
    assert failed.error.name == "ZeroDivisionError" and "division by zero" in failed.error.traceback


def test_sdk_sets_the_environment(sandbox: Any, served: Served) -> None:
    code = "import os\nos.environ.get('MINE'), os.environ.get('ALL')"
    assert sandbox.run_code(code).text == "(None, None)"
    assert sandbox.run_code(code, envs={"MINE": "it's"}).text == """("it's", None)"""
    assert sandbox.run_code(code).text == "(None, None)"
    assert sandbox.run_code("1 / 0", envs={"MINE": "1"}).error.name == "ZeroDivisionError"
    assert sandbox.run_code("sorted(n for n in globals() if 'safeexec' in n)").text == "[]"
    other = type(sandbox).create(api_key=KEY, envs={"ALL": "x"})
    assert other.run_code(code, envs={"ALL": "y"}).text == "(None, 'y')"
    assert other.run_code(code).text == "(None, 'x')"
    other.kill()
    asked = {"templateID": "base", "envVars": {"A": 1}}
    assert served.ask("POST", "/v2/sandboxes", asked, X_API_Key=KEY)[0] == 400


def test_sdk_has_contexts(sandbox: Any) -> None:
    one, two = sandbox.create_code_context(), sandbox.create_code_context()
    sandbox.run_code("x = 1", context=one)
    assert sandbox.run_code("x", context=two).error.name == "NameError"
    assert {c.id for c in sandbox.list_code_contexts()} == {one.id, two.id}
    sandbox.restart_code_context(one)
    assert sandbox.run_code("x", context=one).error.name == "NameError"
    sandbox.remove_code_context(two)
    from e2b import NotFoundException

    with pytest.raises(NotFoundException):
        sandbox.run_code("1", context=two)


def test_sdk_has_files(sandbox: Any) -> None:
    from e2b import NotFoundException

    sandbox.files.write("/home/user/d/a.txt", "text")
    sandbox.files.write("b.bin", bytes(range(256)))
    assert sandbox.run_code("open('d/a.txt').read()").text == "'text'"
    assert bytes(sandbox.files.read("b.bin", format="bytes")) == bytes(range(256))
    assert {(e.name, e.type.value) for e in sandbox.files.list("/home/user")} == {("d", "dir"), ("b.bin", "file")}
    assert sandbox.files.exists("b.bin") and not sandbox.files.exists("c.bin")
    sandbox.files.rename("b.bin", "c.bin")
    sandbox.files.remove("d")
    assert [e.name for e in sandbox.files.list("/home/user")] == ["c.bin"]
    with pytest.raises(NotFoundException):
        sandbox.files.read("d/a.txt")


def test_sdk_is_told_that_there_are_no_commands(sandbox: Any) -> None:
    from e2b import SandboxException

    with pytest.raises(SandboxException, match="no commands"):
        sandbox.commands.run("id")


def test_sdk_sees_a_sandbox_end(sandbox: Any) -> None:
    assert sandbox.is_running()
    sandbox.set_timeout(0)
    assert eventually(lambda: not sandbox.is_running())


def test_default_context_comes_back_after_a_crash(sandbox: Any) -> None:
    crashed = sandbox.run_code("import os\nos._exit(1)")
    assert crashed.error is not None
    assert sandbox.run_code("1 + 1").text == "2"


def test_sdk_hears_that_there_are_sandboxes_enough(
    sandbox: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from e2b import RateLimitException

    monkeypatch.setattr(served.app, "_most", len(served.app.sandboxes) + 1)
    last = type(sandbox).create(api_key=KEY)
    for _ in range(2):
        with pytest.raises(RateLimitException, match="no more"):
            type(sandbox).create(api_key=KEY)
    assert sandbox.run_code("1 + 1").text == "2" and last.run_code("2 + 2").text == "4", "nothing is lost for others"
    last.kill()
    again = type(sandbox).create(api_key=KEY)
    assert again.run_code("3").text == "3"
    again.kill()


def test_sdk_hears_that_there_are_contexts_enough(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from e2b import SandboxException

    monkeypatch.setattr(machines, "MOST_CONTEXTS", 2)
    one, two = sandbox.create_code_context(), sandbox.create_code_context()
    with pytest.raises(SandboxException, match=r"429.*may have no more"):
        sandbox.create_code_context()
    sandbox.restart_code_context(one)
    assert sandbox.run_code("1", context=two).text == "1" and sandbox.run_code("2").text == "2"
    sandbox.remove_code_context(two)
    assert sandbox.run_code("3", context=sandbox.create_code_context()).text == "3"


def test_sdk_that_hangs_up_interrupts_what_it_ran(sandbox: Any, tmp_path: Path) -> None:
    """As E2B's own server does: nobody can come back to an execution, and whoever runs the next must not wait for it."""
    from e2b import TimeoutException

    ended = tmp_path / "ended"
    with pytest.raises(TimeoutException):
        sandbox.run_code(
            f"import time\nx = 1\ntry:\n    while True:\n        time.sleep(0.01)\nfinally:\n    open({str(ended)!r}, 'w').close()",
            timeout=0.5,
        )
    assert eventually(ended.exists, 4), "it was interrupted, long before its time was over"
    assert sandbox.run_code("x").text == "1"


@pytest.mark.parametrize("key", ["", "wrong", KEY[:-1], KEY + "x", "ä"])
def test_wrong_key_is_refused(served: Served, key: str) -> None:
    before = len(served.app.sandboxes)
    status, _ = served.ask("POST", "/v2/sandboxes", {"templateID": "base"}, X_API_Key=key)
    assert status == 401 and len(served.app.sandboxes) == before


def test_a_key_that_is_not_set_opens_no_server() -> None:
    with pytest.raises(ValueError, match="api_key"):
        E2BServer(lambda asked: ExecutorMachine(Executor("local")), "")


@pytest.mark.parametrize("path", ["/files?path=x", "/process.Process/List", "/filesystem.Filesystem/Stat"])
def test_wrong_token_is_refused(served: Served, path: str) -> None:
    sandbox, _ = served.create()
    for token in ("", "wrong", KEY):
        status, _ = served.ask("POST", path, {}, E2b_Sandbox_Id=sandbox, E2b_Sandbox_Port="49983", X_Access_Token=token)
        assert status == 401
    served.app.end(sandbox)


@pytest.mark.parametrize(("method", "path"), [("POST", "/execute"), ("GET", "/contexts"), ("POST", "/contexts")])
def test_code_is_not_run_without_a_token(served: Served, method: str, path: str) -> None:
    sandbox, _ = served.create()
    where = {"E2b_Sandbox_Id": sandbox, "E2b_Sandbox_Port": "49999"}
    for headers in ({}, {"X_Access_Token": "wrong"}, {"E2b_Traffic_Access_Token": ""}, {"X_API_Key": KEY}):
        assert served.ask(method, path, {"code": "1"}, **where, **headers)[0] == 401
    served.app.end(sandbox)


def test_token_of_another_sandbox_is_refused(served: Served) -> None:
    one, token = served.create()
    two, _ = served.create()
    assert served.ask("POST", "/process.Process/List", {}, E2b_Sandbox_Id=one, X_Access_Token=token)[0] == 200
    assert served.ask("POST", "/process.Process/List", {}, E2b_Sandbox_Id=two, X_Access_Token=token)[0] == 401
    served.app.end(one)
    served.app.end(two)


def test_unknown_sandbox_is_not_found_as_e2b_says_it(served: Served) -> None:
    status, answer = served.ask("GET", "/health", E2b_Sandbox_Id="nope")
    assert status == 502 and "was not found" in answer["message"]
    assert served.ask("DELETE", "/sandboxes/nope", X_API_Key=KEY)[0] == 404


@pytest.mark.parametrize("timeout", [-1, 1e9, "5", None, True, float("inf")])
def test_timeout_that_makes_no_sense_is_refused(served: Served, timeout: Any) -> None:
    status, _ = served.ask("POST", "/v2/sandboxes", {"templateID": "base", "timeout": timeout}, X_API_Key=KEY)
    assert status == 400


def test_repeated_creation_makes_one_sandbox(served: Served) -> None:
    before = len(served.app.sandboxes)
    headers = {"X_API_Key": KEY, "Idempotency_Key": "same"}
    first = served.ask("POST", "/v2/sandboxes", {"templateID": "base"}, **headers)[1]
    again = served.ask("POST", "/v2/sandboxes", {"templateID": "base"}, **headers)[1]
    assert first["sandboxID"] == again["sandboxID"] and len(served.app.sandboxes) == before + 1
    served.app.end(first["sandboxID"])


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "", "/home/user", "a\0b"])
def test_files_outside_cannot_be_reached(served: Served, path: str) -> None:
    from urllib.parse import quote

    sandbox, token = served.create()
    headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token}
    status, answer = served.ask("GET", f"/files?path={quote(path)}", **headers)
    assert status in (400, 404) and b"root:" not in str(answer).encode()
    status, answer = served.ask("POST", f"/files?path={quote(path)}", b"x", **headers)
    assert status in (200, 400)  # an absolute path is one below the sandbox's own folder
    served.app.end(sandbox)


def test_what_fails_here_is_told_to_nobody_outside(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(asked: Any) -> Any:
        raise OSError(2, "no such file", "/home/operator/secret")

    monkeypatch.setattr(served.app, "_make", failing)
    status, answer = served.ask("POST", "/v2/sandboxes", {"templateID": "base"}, X_API_Key=KEY)
    assert status == 500 and "secret" not in str(answer)
    assert "/home/operator/secret" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [{"metadata": "x"}, {"metadata": {"a": 1}}, {"envVars": {"A=B": "1"}}])
def test_creation_that_makes_no_sense_is_refused(served: Served, asked: Any) -> None:
    assert served.ask("POST", "/v2/sandboxes", {"templateID": "base", **asked}, X_API_Key=KEY)[0] == 400
    assert served.ask("GET", "/v2/sandboxes", X_API_Key=KEY) == (200, [])


def test_what_is_kept_of_a_sandbox_is_bounded(served: Served) -> None:
    sandbox, _ = served.create(metadata={"label": "x" * 1000})
    large = {"metadata": {str(n): "x" * 1000 for n in range(300)}}
    for method, path in (("POST", "/v2/sandboxes"), ("PUT", f"/sandboxes/{sandbox}/network")):
        assert served.ask(method, path, large, X_API_Key=KEY)[0] == 413
    assert (
        len(served.ask("GET", "/v2/sandboxes", X_API_Key=KEY)[1]) == 1 and served.app.sandboxes[sandbox].network is None
    )
    served.app.end(sandbox)


def test_a_slow_creation_holds_up_nobody(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    make, headers = served.app._make, {"X_API_Key": KEY, "Idempotency_Key": "slow"}
    made: list[Any] = []

    def slow(asked: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return make(asked)

    monkeypatch.setattr(served.app, "_make", slow)
    same = [
        threading.Thread(target=lambda: made.append(served.ask("POST", "/v2/sandboxes", {}, **headers))) for _ in "ab"
    ]
    for thread in same:
        thread.start()
    try:
        assert begun.wait(10)
        assert served.ask("GET", "/v2/sandboxes", X_API_Key=KEY) == (200, [])
    finally:
        go_on.set()
        for thread in same:
            thread.join()
    assert made[0][1]["sandboxID"] == made[1][1]["sandboxID"] and not len(served.app._places)
    served.app.end(made[0][1]["sandboxID"])


def test_a_clock_that_is_set_ends_nothing_and_keeps_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:

    sandbox, _ = served.create(timeout=300)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 7 * 86_400)
    assert not served.app.sandboxes[sandbox].expired
    other, _ = served.create(timeout=0)
    monkeypatch.setattr(time, "time", lambda: now() - 7 * 86_400)
    assert eventually(lambda: other not in served.app.sandboxes) and sandbox in served.app.sandboxes
    served.app.end(sandbox)


def test_one_that_cannot_be_ended_keeps_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: said.append(str(args.exc_value)))
    ended: list[str] = []

    class Stuck:
        def __init__(self, asked: Any) -> None:
            self.name = asked["templateID"]

        def close(self) -> None:
            ended.append(self.name)
            if self.name == "stuck":
                raise OSError("stuck")

    app = E2BServer(Stuck, KEY)  # type: ignore[arg-type]
    for name in ("stuck", "other"):
        body = json.dumps({"templateID": name, "timeout": 0}).encode()
        app(Request("POST", "/sandboxes", {}, {"x-api-key": KEY}, body))
    assert eventually(lambda: sorted(ended) == ["other", "stuck"]) and said == ["stuck"]
    app(Request("POST", "/sandboxes", {}, {"x-api-key": KEY}, b'{"templateID": "later", "timeout": 0}'))
    assert eventually(lambda: "later" in ended), "the thread that ends them goes on"
    app.close()


def test_a_server_for_no_sandbox_is_refused() -> None:
    with pytest.raises(ValueError, match="most"):
        E2BServer(lambda asked: ExecutorMachine(Executor("local")), KEY, most=0)


def test_sandboxes_that_are_being_made_count(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    make = served.app._make

    def slow(asked: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return make(asked)

    monkeypatch.setattr(served.app, "_make", slow)
    monkeypatch.setattr(served.app, "_most", len(served.app.sandboxes) + 1)
    made: list[Any] = []
    first = threading.Thread(target=lambda: made.append(served.create()))
    first.start()
    try:
        assert begun.wait(10)
        status, answer = served.ask("POST", "/v2/sandboxes", {}, X_API_Key=KEY)
        assert status == 429 and answer["code"] == 429
    finally:
        go_on.set()
        first.join()
    served.app.end(made[0][0])

    def failing(asked: Any) -> Any:
        raise PolicyError("no")

    monkeypatch.setattr(served.app, "_make", failing)
    assert served.ask("POST", "/v2/sandboxes", {}, X_API_Key=KEY)[0] == 400
    monkeypatch.setattr(served.app, "_make", make)
    served.app.end(served.create()[0])


def test_renaming_a_file_to_itself_keeps_it(served: Served) -> None:
    sandbox, token = served.create()
    headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token}
    assert served.ask("POST", "/files?path=a.txt", b"kept", **headers)[0] == 200
    move = {"source": "/home/user/a.txt", "destination": "a.txt"}
    served.ask("POST", "/filesystem.Filesystem/Move", move, **headers)
    assert served.ask("GET", "/files?path=a.txt", **headers)[1] == b"kept"
    served.app.end(sandbox)


def test_server_is_well_after_all_that(served: Served) -> None:
    served.check()
