"""The server that speaks E2B's protocol, over an Executor: used by E2B's own SDK, and attacked by hand."""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from safeexec import Executor, Policy, PolicyError, SessionBusy, SessionClosed
from safeexec.serve import machine as machines
from safeexec.serve.connect import envelope, stream
from safeexec.serve.e2b import E2BServer
from safeexec.serve.http import MAX_BODY, BadRequest, Request, Response, Server
from safeexec.serve.interpreter import _Waiting
from safeexec.serve.machine import Abandoned, Execution, ExecutorMachine
from safeexec.testing.base import eventually
from tests.remote.conftest import KEY
from tests.support.plain import PlainBackend


class Served:
    def __init__(self) -> None:
        policy = Policy(imports="*")
        self.executor = Executor(PlainBackend(policy), policy=policy)
        self.app = E2BServer(lambda asked: ExecutorMachine(self.executor, asked.get("envVars")), KEY)
        self.server = Server(self.app)
        self.url = self.server.url

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            connection.request(method, path, raw, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def create(self, **asked: Any) -> tuple[str, str]:
        status, sandbox = self.ask("POST", "/v2/sandboxes", {"templateID": "base", **asked}, X_API_Key=KEY)
        assert status == 201
        return sandbox["sandboxID"], sandbox["envdAccessToken"]

    def close(self) -> None:
        self.server.close()
        self.app.close()
        self.executor.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


# -- by E2B's own SDK -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sandbox(served: Served, environment: pytest.MonkeyPatch) -> Iterator[Any]:
    sdk = pytest.importorskip("e2b_code_interpreter", reason="the e2b extra is not installed: pip install -e '.[e2b]'")
    for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
        environment.setenv(name, served.url)
    sandbox = sdk.Sandbox.create(api_key=KEY)
    yield sandbox
    sandbox.kill()


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


# -- by hand --------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0\xff{}",
        struct.pack(">BI", 0, 2**32 - 1) + b"{}",
        struct.pack(">BI", 1, 2) + b"{}",
        envelope({}) * 2,
        envelope([]),
        struct.pack(">BI", 0, 100_000) + b"[" * 100_000,
    ],
)
def test_malformed_envelopes_are_refused(served: Served, body: bytes) -> None:
    sandbox, token = served.create()
    status, _ = served.ask("POST", "/process.Process/Start", body, E2b_Sandbox_Id=sandbox, X_Access_Token=token)
    assert status == 400
    served.app.end(sandbox)


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


def raw(served: Served, head: bytes) -> bytes:
    url = urlsplit(served.url)
    assert url.hostname is not None and url.port is not None
    with socket.create_connection((url.hostname, url.port), 10) as connection:
        connection.sendall(head)
        return connection.recv(4096)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: +5\r\n\r\nhello",
        b"Content-Length: 1_0\r\n\r\n",
        b"Content-Length: x\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        # What a server in front could read otherwise: the rest would be the next request, and somebody else's.
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}garbage\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 5000 + b"\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_malformed_lengths_are_refused(served: Served, head: bytes) -> None:
    answer = raw(served, b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: " + KEY.encode() + b"\r\n" + head)
    assert answer.startswith(b"HTTP/1.1 400")


def test_body_that_is_too_large_is_refused_unread(served: Served) -> None:
    head = b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1)
    assert raw(served, head).startswith(b"HTTP/1.1 413")


def test_trailers_are_no_request_of_their_own(served: Served) -> None:
    before = len(served.app.sandboxes)
    smuggled = b"DELETE /v2/sandboxes/x HTTP/1.1\r\nX-API-Key: " + KEY.encode() + b"\r\n"
    head = b"GET /health HTTP/1.1\r\nHost: x\r\nX-API-Key: " + KEY.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = everything(served, head + b"0\r\n" + smuggled + b"\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1 and len(served.app.sandboxes) == before


NEXT = b"DELETE /v2/sandboxes/next HTTP/1.1\r\nX-API-Key: " + KEY.encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"X: y\rContent-Length: 5\r\n\r\nhello",
        b"X: y\nContent-Length: 5\r\n\r\nhello",
        b"Content-Length : %d\r\n\r\n" % len(NEXT),
        b"no field\r\nContent-Length: %d\r\n\r\n" % len(NEXT),
        b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        b"X: \0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0;x\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\r\n\r\n",
        b"X-API-Key: other\r\n\r\n",
        b"E2b-Sandbox-Id: one\r\nE2b-Sandbox-Id: two\r\n\r\n",
    ],
)
def test_what_two_servers_could_read_as_one_request_and_as_two_is_none(served: Served, head: bytes) -> None:
    start = b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: " + KEY.encode() + b"\r\n"
    answer = everything(served, start + head + NEXT)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1 ") == 1
    assert not served.app.sandboxes


def test_chunks_are_not_of_an_older_protocol(served: Served) -> None:
    start = b"POST /v2/sandboxes HTTP/1.0\r\nConnection: keep-alive\r\nX-API-Key: " + KEY.encode() + b"\r\n"
    answer = everything(served, start + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "head", [b"GET /\r\n\r\n", b"GET  / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n", b"\0" * 70_000]
)
def test_what_is_no_request_is_told_so(served: Served, head: bytes) -> None:
    assert everything(served, head).startswith((b"HTTP/1.1 400", b"HTTP/1.1 414"))


def test_json_that_would_grow_is_refused_before_it_is_built(served: Served) -> None:
    many = b'{"metadata":{},"x":[' + b"[]," * 3_000_000 + b"0]}"
    tracemalloc.start()
    try:
        assert served.ask("POST", "/v2/sandboxes", many, X_API_Key=KEY)[0] == 413
        sandbox, token = served.create()
        headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token}
        assert served.ask("POST", "/execute", many, E2b_Sandbox_Port="49999", **headers)[0] == 400
        assert served.ask("POST", "/process.Process/Start", bytes(5 * 2**20), **headers)[0] == 400
        assert tracemalloc.get_traced_memory()[1] < 8 * len(many)
    finally:
        tracemalloc.stop()
    served.app.end(sandbox)


def form(*parts: tuple[bytes, bytes], end: bytes = b"--XYZ--\r\n") -> bytes:
    return b"".join(b"--XYZ\r\n%b\r\n\r\n%b\r\n" % part for part in parts) + end


FILE = b'Content-Disposition: form-data; name="file"; filename="%b"'


def test_files_in_forms_are_written_as_they_are(served: Served) -> None:
    contents = {
        "plain": b"text\r\nof two lines\n",
        "empty": b"",
        "binary": bytes(range(256)) * 100 + b"\r\n--XY\r\n--XYZW\r\n \r\n--XYZ--x\r\n",
        "mail": b"From: x\r\n\r\nhello",
        "form": form((FILE % b"other", b"x")).replace(b"XYZ", b"ABC"),
        "\xe9 \u20ac": b"named",
    }
    kinds = {"mail": b"message/rfc822", "form": b"multipart/form-data; boundary=ABC"}
    parts = [
        (FILE % name.encode() + b"\r\nContent-Type: " + kinds.get(name, b"text/plain"), data)
        for name, data in contents.items()
    ]
    sandbox, token = served.create()
    headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token}
    kind = {"Content_Type": "multipart/form-data; boundary=XYZ"}
    status, written = served.ask("POST", "/files", b"preamble\r\n" + form(*parts), **kind, **headers)
    assert status == 200 and [entry["path"] for entry in written] == list(contents)
    for name, data in contents.items():
        assert served.app.sandboxes[sandbox].machine.read(name) == data, name
    served.app.end(sandbox)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", form((FILE % b"a", b"x"))),
        ("multipart/form-data; boundary=" + "x" * 300, form((FILE % b"a", b"x"))),
        ("multipart/form-data; boundary=XYZ", b""),
        ("multipart/form-data; boundary=XYZ", b"no form"),
        ("multipart/form-data; boundary=XYZ", form((FILE % b"a", b"x"), end=b"")),
        (
            "multipart/form-data; boundary=XYZ",
            form((FILE % b"a", b"x"), end=b"--XYZ\r\nContent-Type: text/plain\r\n--XYZ--"),
        ),
        ("multipart/form-data; boundary=XYZ", form((FILE % b"a" + b"\r\nX: " + b"y" * 10_000, b"x"))),
        ("multipart/form-data; boundary=XYZ", form(*[(FILE % b"a", b"x")] * 1001)),
    ],
)
def test_malformed_forms_are_refused_and_nothing_of_them_is_written(served: Served, kind: str, body: bytes) -> None:
    sandbox, token = served.create()
    headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token}
    assert served.ask("POST", "/files", body, Content_Type=kind, **headers)[0] == 400
    assert served.ask("GET", "/files?path=a", **headers)[0] == 404
    served.app.end(sandbox)


def test_forms_cost_no_more_than_they_are_long() -> None:
    from safeexec.serve import forms

    nested = b"".join(b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (n, n + 1) for n in range(200))
    for data in (b"a\n" * 2**21, b"\r" * 2**22, nested + b"x\n" * 2**20):
        began = time.process_time()
        tracemalloc.start()
        try:
            (part,) = forms.parts(
                form((FILE % b"a" + b"\r\nContent-Type: multipart/mixed; boundary=b0", data)),
                "multipart/form-data; boundary=XYZ",
            )
            assert part.data == data and tracemalloc.get_traced_memory()[1] < 4 * len(data)
        finally:
            tracemalloc.stop()
        assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b'Content-Disposition: form-data; name="f"; filename="a b.txt"', "a b.txt"),
        (b'content-disposition:form-data;filename="a\\"b;=.txt";name=f', 'a"b;=.txt'),
        (b"Content-Type: text/plain\r\nCONTENT-DISPOSITION: form-data; name=f;\r\n FileName=plain.txt ; ", "plain.txt"),
        (b"Content-Disposition: form-data; filename=\"?\"; filename*=UTF-8''%e2%82%ac.txt", "\u20ac.txt"),
        (b'Content-Disposition: form-data; name="filename"', None),
        (b'X: content-disposition: form-data; filename="x"', None),
        (b'Content-Disposition: form-data; filename="\xff"', "\udcff"),
    ],
)
def test_what_a_part_calls_its_file(head: bytes, name: str | None) -> None:
    from safeexec.serve import forms

    (part,) = forms.parts(form((head, b"x")), 'multipart/form-data; charset=utf-8; boundary="XYZ"')
    assert part == (name, b"x")


@pytest.mark.parametrize(
    "padding",
    [b";" * 7000, b"a=b;" * 1900, b'x="a"' * 1400, b'x="\\"' * 1200, b";x=" * 2000, b" ;" * 3500, b'; x="' * 1400],
)
def test_heads_of_forms_cost_no_more_than_they_are_long(padding: bytes) -> None:
    from safeexec.serve import forms

    began = time.process_time()
    with suppress(BadRequest):
        for _ in forms.parts(form(*[(FILE % b"a" + b";" + padding, b"x")] * 300), "multipart/form-data; boundary=XYZ"):
            pass
    with suppress(BadRequest):
        for _ in forms.parts(b"--XYZ--", "multipart/form-data;" + 8 * padding.decode() + "; boundary=XYZ"):
            pass
    assert time.process_time() - began < 2


def everything(served: Served, data: bytes) -> bytes:
    url = urlsplit(served.url)
    with socket.create_connection((str(url.hostname), int(url.port or 0)), 10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


@pytest.mark.parametrize("given", [b"", b"X-API-Key: wrong\r\n", b"E2b-Sandbox-Id: x\r\n"])
@pytest.mark.parametrize("length", [b"Content-Length: 60000000", b"Transfer-Encoding: chunked"])
def test_bodies_of_strangers_are_not_read(served: Served, given: bytes, length: bytes) -> None:
    answer = raw(served, b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\n" + given + length + b"\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 502")) and b"Python" not in answer


def test_half_a_file_is_not_written(served: Served) -> None:
    sandbox, token = served.create()
    head = f"POST /files?path=half.txt HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: {sandbox}\r\nX-Access-Token: {token}\r\n"
    assert everything(served, head.encode() + b"Content-Length: 100\r\n\r\nhalf of it") == b""
    headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token}
    assert served.ask("GET", "/files?path=half.txt", **headers)[0] == 404
    served.app.end(sandbox)


def test_bodies_of_all_connections_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from safeexec.serve import http as serving

    monkeypatch.setattr(serving, "MAX_BODIES", 1_000_000)
    server = Server(lambda request: Response(200, b"%d" % len(request.body)))
    place = ("127.0.0.1", urlsplit(server.url).port or 0)

    def asked(rest: bytes) -> socket.socket:
        connection = socket.create_connection(place, 10)
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + rest)
        return connection

    def answered(connection: socket.socket) -> bytes:
        with connection:
            try:
                return connection.recv(4096).split(b"\r\n")[0]
            except ConnectionResetError:  # it was answered unread, and the answer overtaken by the end
                return b""

    try:
        slow = [asked(b"Content-Length: 400000\r\n\r\n"), asked(b"Transfer-Encoding: chunked\r\n\r\n61a80\r\n")]
        whole = b"Content-Length: 300000\r\n\r\n" + bytes(300_000)
        assert eventually(lambda: b" 503 " in answered(asked(whole)))
        assert b" 503 " in answered(asked(b"Transfer-Encoding: chunked\r\n\r\n493e0\r\n"))
        assert b" 200 " in answered(asked(b"Content-Length: 5\r\n\r\nhello"))
        slow[0].close()
        slow[1].sendall(bytes(400_000) + b"\r\n0\r\n\r\n")
        assert b" 200 " in answered(slow[1])
        for _ in range(5):  # what was answered, or broke off, has given its room back
            assert eventually(lambda: b" 200 " in answered(asked(whole)))
    finally:
        server.close()


class _Keyed:
    """Answers everybody; knows who has the key."""

    def admits(self, path: str, headers: Any) -> bool:
        return headers.get("x-api-key") == KEY

    def __call__(self, request: Request) -> Response:
        return Response(200, b"here")


def test_more_connections_than_there_may_be_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from safeexec.serve import http as serving

    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 3)
    server = Server(_Keyed())
    asked = f"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n".encode()

    def connected() -> socket.socket:
        return socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), 10)

    def answered(connection: socket.socket) -> bool:
        connection.sendall(asked)
        return connection.recv(1000).startswith(b"HTTP/1.1 200")

    try:
        silent = [connected() for _ in range(3)]
        assert eventually(lambda: len(server._http._connections) == 3)
        known = []
        for stranger in silent:  # the oldest of those who showed no key has to go, and none who did
            known.append(connected())
            assert answered(known[-1]) and stranger.recv(1) == b""
        assert len(server._http._connections) == 3
        with connected() as surplus:
            assert surplus.recv(1) == b""
        assert all(map(answered, known))
        for connection in (*silent, *known):
            connection.close()
        assert eventually(lambda: not server._http._connections)
        with connected() as later:
            assert answered(later)
    finally:
        server.close()


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
    import time

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


def lines_of(served: Served, code: str, sandbox: str, token: str, **more: Any) -> list[dict[str, Any]]:
    headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token, "E2b_Sandbox_Port": "49999"}
    status, answer = served.ask("POST", "/execute", {"code": code, **more}, **headers)
    assert status == 200
    return [json.loads(line) for line in answer.splitlines()] if isinstance(answer, bytes) else [answer]


def test_a_value_that_has_no_decimal_digits_is_shown(served: Served) -> None:
    sandbox, token = served.create()
    (found,) = [line for line in lines_of(served, "[10 ** 5000]", sandbox, token) if line["type"] == "result"]
    assert found["text"].startswith("[0x")
    served.app.end(sandbox)


def test_executions_of_one_context_take_turns(served: Served) -> None:
    """What one has in its environment is not the other's, and neither is refused."""
    sandbox, token = served.create()
    code = "import os, time\ntime.sleep(0.05)\nos.environ.get('WHO')"
    said: list[str] = []

    def work(who: str) -> None:
        env = {"env_vars": {"WHO": who}} if who else {}
        lines = lines_of(served, code, sandbox, token, **env)
        said.append(
            who
            + ":"
            + str([line.get("text") or line.get("value") for line in lines if line["type"] in ("result", "error")])
        )

    threads = [threading.Thread(target=work, args=(who,)) for who in ("a", "b", "", "")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [":[]", ":[]", """a:["'a'"]""", """b:["'b'"]"""]
    served.app.end(sandbox)


def test_not_without_end_wait_for_one_context(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks and goes away leaves a thread each time."""
    monkeypatch.setattr(machines, "MOST_WAITING", 2)
    machine = ExecutorMachine(served.executor)
    begun, go_on = threading.Event(), threading.Event()

    def hold(piece: Any) -> None:
        begun.set()
        assert go_on.wait(20)

    def work(on_output: Any = lambda piece: None) -> None:
        machine.execute(None, "print(1)", on_output, {})

    threads = [threading.Thread(target=work, args=(hold,)), threading.Thread(target=work)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    context = machine._context(None)
    assert eventually(lambda: len(context._waiting) == 2)
    with pytest.raises(SessionBusy):
        work()
    go_on.set()
    for thread in threads:
        thread.join()
    work()
    machine.close()


def test_an_execution_that_nobody_waits_for_does_not_begin(served: Served) -> None:
    machine = ExecutorMachine(served.executor)
    begun, go_on = threading.Event(), threading.Event()
    said: list[str] = []

    def hold(piece: Any) -> None:
        begun.set()
        assert go_on.wait(20)

    def gone(execution: Execution) -> None:
        with pytest.raises(Abandoned):
            machine.execute(None, "came = 1", lambda piece: None, {}, execution)
        said.append("gone")

    first = threading.Thread(target=lambda: machine.execute(None, "print(1)", hold, {}))
    first.start()
    assert begun.wait(10)
    execution = Execution()
    second = threading.Thread(target=gone, args=(execution,))
    second.start()
    try:
        context = machine._context(None)
        assert eventually(lambda: len(context._waiting) == 2)
        execution.abandon()
        second.join(10)
        assert said == ["gone"] and len(context._waiting) == 1, "its place is free before its turn would have come"
    finally:
        go_on.set()
        first.join()
    gone(execution)
    assert machine.execute(None, "'came' in globals()", lambda piece: None, {}).value is False
    machine.close()


def test_a_client_that_waits_hears_what_comes_after_a_silence(sandbox: Any) -> None:
    lines: list[str] = []
    code = "import time\ntime.sleep(2.2)\nprint('late')\ntime.sleep(1.2)\n7"
    done = sandbox.run_code(code, on_stdout=lambda message: lines.append(message.line), timeout=8)
    assert done.text == "7" and lines == ["late\n"]


def test_a_client_that_only_listens_hears_the_end(served: Served) -> None:
    """Half a connection closed is no client gone."""
    sandbox, token = served.create()
    body = json.dumps({"code": "import time\ntime.sleep(2.5)\n7"}).encode()
    head = (
        f"POST /execute HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: {sandbox}\r\nX-Access-Token: {token}\r\n"
        f"E2b-Sandbox-Port: 49999\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = everything(served, head.encode() + body)
    assert b'"text": "7"' in answer and b"end_of_execution" in answer
    served.app.end(sandbox)


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


def test_a_sandbox_that_has_ended_runs_nothing_more(served: Served) -> None:
    machine = ExecutorMachine(served.executor)
    assert machine.execute(None, "1 + 1", lambda piece: None, {}).value == 2
    machine.close()
    for call in (
        lambda: machine.execute(None, "1", lambda piece: None, {}),
        lambda: machine.add_context("x"),
        lambda: machine.read("x"),
    ):
        with pytest.raises(SessionClosed):
            call()
    assert not machine._sessions


def test_output_that_waits_for_a_slow_client_takes_what_it_has_and_no_more() -> None:
    waiting = _Waiting()
    tracemalloc.start()
    try:
        for _ in range(200_000):
            waiting.output("stdout", "x")
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    waiting.output("stderr", "e")
    waiting.put(None)
    assert taken < 4_000_000
    assert waiting.get(1)["text"] == "x" * 200_000 and waiting.get(1)["text"] == "e" and waiting.get(1) is None  # type: ignore[index]
    waiting.output("stdout", "a")
    assert waiting.get(1)["text"] == "a"  # type: ignore[index]
    waiting.output("stdout", "b")
    assert waiting.get(1)["text"] == "b"  # type: ignore[index]


def test_a_client_that_is_gone_before_the_first_byte_holds_no_process_back() -> None:
    left: list[bool] = []
    response = stream(iter(()), lambda: left.append(True))

    class Gone(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            raise BrokenPipeError

    served = Server(lambda request: response)
    try:
        monkeypatched = served._http.RequestHandlerClass
        handler = monkeypatched.__new__(monkeypatched)
        handler.wfile, handler.command, handler.path = Gone(), "GET", "/"  # type: ignore[misc, attr-defined, assignment]
        handler.headers = http.client.HTTPMessage()  # type: ignore[attr-defined]
        vars(handler).update(server=served._http, connection=None)
        handler.rfile, handler.request_version, handler.requestline = io.BytesIO(), "HTTP/1.1", ""  # type: ignore[attr-defined]
        handler.do_GET()  # type: ignore[attr-defined]
    finally:
        served.close()
    assert left == [True] and handler.close_connection  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b"[" * 100_000, b"\xff"])
def test_bodies_that_are_no_object_are_refused(served: Served, body: bytes) -> None:
    assert served.ask("POST", "/v2/sandboxes", body, X_API_Key=KEY)[0] == 400
    sandbox, token = served.create()
    headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token}
    assert served.ask("POST", "/process.Process/SendInput", body, **headers)[0] == 400
    assert served.ask("POST", "/execute", body, E2b_Sandbox_Port="49999", **headers)[0] == 400
    served.app.end(sandbox)


def test_server_is_well_after_all_that(served: Served) -> None:
    sandbox, token = served.create()
    headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token}
    status, answer = served.ask("POST", "/execute", {"code": "1 + 1"}, E2b_Sandbox_Port="49999", **headers)
    assert status == 200
    lines = [json.loads(line) for line in answer.splitlines()]
    assert [line["type"] for line in lines] == ["number_of_executions", "result", "end_of_execution"]
    assert lines[1]["text"] == "2"
    served.app.end(sandbox)
    assert served.app.sandboxes == {}
