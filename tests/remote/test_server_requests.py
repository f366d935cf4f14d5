"""Requests to the server that speaks E2B's protocol that no client of E2B's sends: malformed, ambiguous, too large, broken off."""

from __future__ import annotations

import http.client
import io
import socket
import struct
import time
import tracemalloc
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from safeexec.serve.connect import envelope, stream
from safeexec.serve.http import MAX_BODY, BadRequest, Request, Response, Server
from safeexec.testing.base import eventually
from tests.remote.conftest import KEY
from tests.remote.served import Served


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


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: +5\r\n\r\n{   }",
        b"Content-Length: 1_0\r\n\r\n",
        b"Content-Length: x\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{   }\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x5\r\n{   }\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        # What a server in front could read otherwise: the rest would be the next request, and somebody else's.
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n{   }",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}garbage\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 5000 + b"\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_malformed_lengths_are_refused(served: Served, head: bytes) -> None:
    answer = served.raw(b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: " + KEY.encode() + b"\r\n" + head)
    assert answer.startswith(b"HTTP/1.1 400") and b"not JSON" not in answer  # it was not asked what is in the body


def test_body_that_is_too_large_is_refused_unread(served: Served) -> None:
    head = b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1)
    assert served.raw(head).startswith(b"HTTP/1.1 413")


def test_trailers_are_no_request_of_their_own(served: Served) -> None:
    before = len(served.app.sandboxes)
    smuggled = b"DELETE /v2/sandboxes/x HTTP/1.1\r\nX-API-Key: " + KEY.encode() + b"\r\n"
    head = b"GET /health HTTP/1.1\r\nHost: x\r\nX-API-Key: " + KEY.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = served.everything(head + b"0\r\n" + smuggled + b"\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1 and len(served.app.sandboxes) == before


NEXT = b"DELETE /v2/sandboxes/next HTTP/1.1\r\nX-API-Key: " + KEY.encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"X: y\rContent-Length: 5\r\n\r\n{   }",
        b"X: y\nContent-Length: 5\r\n\r\n{   }",
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
    answer = served.everything(start + head + NEXT)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1 ") == 1 and b"not JSON" not in answer
    assert not served.app.sandboxes


def test_chunks_are_not_of_an_older_protocol(served: Served) -> None:
    start = b"POST /v2/sandboxes HTTP/1.0\r\nConnection: keep-alive\r\nX-API-Key: " + KEY.encode() + b"\r\n"
    answer = served.everything(start + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1 ") == 1 and b"not JSON" not in answer


@pytest.mark.parametrize(
    "head", [b"GET /\r\n\r\n", b"GET  / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n", b"\0" * 70_000]
)
def test_what_is_no_request_is_told_so(served: Served, head: bytes) -> None:
    assert served.everything(head).startswith((b"HTTP/1.1 400", b"HTTP/1.1 414"))


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
        ("multipart/form-data; boundary=" + "x" * 300, form((FILE % b"a", b"x")).replace(b"XYZ", b"x" * 300)),
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


@pytest.mark.parametrize("given", [b"", b"X-API-Key: wrong\r\n", b"E2b-Sandbox-Id: x\r\n"])
@pytest.mark.parametrize("length", [b"Content-Length: 60000000", b"Transfer-Encoding: chunked"])
def test_bodies_of_strangers_are_not_read(served: Served, given: bytes, length: bytes) -> None:
    answer = served.raw(b"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\n" + given + length + b"\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 502")) and b"Python" not in answer


def test_half_a_file_is_not_written(served: Served) -> None:
    sandbox, token = served.create()
    head = f"POST /files?path=half.txt HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: {sandbox}\r\nX-Access-Token: {token}\r\n"
    assert served.everything(head.encode() + b"Content-Length: 100\r\n\r\nhalf of it") == b""
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
    served.check()
