"""A server that speaks E2B's protocol, over plain sandboxes, and requests to it."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from safeexec import Executor, Policy
from safeexec.serve.e2b import E2BServer
from safeexec.serve.http import Server
from safeexec.serve.machine import ExecutorMachine
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

    def execute(self, code: str, sandbox: str, token: str, **more: Any) -> list[dict[str, Any]]:
        headers = {"E2b_Sandbox_Id": sandbox, "X_Access_Token": token, "E2b_Sandbox_Port": "49999"}
        status, answer = self.ask("POST", "/execute", {"code": code, **more}, **headers)
        assert status == 200
        return [json.loads(line) for line in answer.splitlines()] if isinstance(answer, bytes) else [answer]

    def raw(self, head: bytes) -> bytes:
        url = urlsplit(self.url)
        assert url.hostname is not None and url.port is not None
        with socket.create_connection((url.hostname, url.port), 10) as connection:
            connection.sendall(head)
            return connection.recv(4096)

    def everything(self, data: bytes) -> bytes:
        url = urlsplit(self.url)
        with socket.create_connection((str(url.hostname), int(url.port or 0)), 10) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            found = b""
            while piece := connection.recv(65536):
                found += piece
            return found

    def check(self) -> None:
        """It still serves, and has kept nothing of the tests before."""
        sandbox, token = self.create()
        lines = self.execute("1 + 1", sandbox, token)
        assert [line["type"] for line in lines] == ["number_of_executions", "result", "end_of_execution"]
        assert lines[1]["text"] == "2"
        self.app.end(sandbox)
        assert self.app.sandboxes == {}

    def close(self) -> None:
        self.server.close()
        self.app.close()
        self.executor.close()
