"""A loopback Blaxel: the routes of its control plane and of a sandbox's own API that the SDK uses. Started by ``Loopback``."""

from __future__ import annotations

import json
import queue
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from safeexec.serve.http import Request, Response, Server, json_response
from tests.remote.faults import Faults
from tests.remote.machines import LocalMachine, LocalProcess


class Sandbox:
    def __init__(self, asked: dict[str, Any], env: dict[str, str]) -> None:
        self.asked = asked
        self.machine = LocalMachine(None, env)
        self.tokens: list[str] = []
        self.processes: dict[str, LocalProcess] = {}
        self.networks: list[Any] = [asked["spec"].get("network")]

    def handle(self, request: Request, parts: list[str]) -> Response:
        if request.headers.get("x-blaxel-preview-token") not in self.tokens:
            return json_response({"error": "AUTHENTICATION_FAILED", "code": 401}, 401)
        if parts == ["process"] and request.method == "POST":
            return self._start(request.json_object())
        if len(parts) == 3 and parts[0] == "process" and parts[2] == "stdin":
            process = self.processes.get(parts[1])
            if process is None:
                return json_response({"error": "process not found"}, 404)
            try:
                process.write(request.body)
            except (OSError, ValueError):
                return json_response({"error": "stdin is closed"}, 409)
            return json_response({"message": "ok"})
        return json_response({"error": "no such route"}, 404)

    def _start(self, asked: dict[str, Any]) -> Response:
        name = asked.get("name") or secrets.token_hex(4)
        process = self.machine.start(["/bin/sh", "-c", asked["command"]], {}, None)
        assert isinstance(process, LocalProcess)
        if not asked.get("stdin"):
            process.close_input()
        self.processes[name] = process
        return Response(200, self._follow(name, process), {"Content-Type": "application/x-ndjson"})

    def _follow(self, name: str, process: LocalProcess) -> Iterator[bytes]:
        # By line, as the vendor has it: what is no whole line yet waits, and the line break is taken off.
        events: queue.Queue[tuple[str, Any]] = queue.Queue(64)

        def pump() -> None:
            for event in process.events():
                events.put(event)

        threading.Thread(target=pump, daemon=True).start()
        rest = {"stdout": b"", "stderr": b""}
        while True:
            kind, value = events.get()
            if kind == "exit":
                break
            *lines, rest[kind] = (rest[kind] + value).split(b"\n")
            yield b"".join(
                json.dumps({"type": kind, "data": line.decode("utf-8", "replace")}).encode() + b"\n" for line in lines
            )
        result = {
            "command": "",
            "completedAt": "",
            "exitCode": value,
            "logs": "",
            "name": name,
            "pid": str(process.pid),
            "startedAt": "",
            "status": "completed" if value == 0 else "failed",
            "stderr": "",
            "stdout": "",
            "workingDir": "",
        }
        yield json.dumps({"type": "result", "data": json.dumps(result)}).encode() + b"\n"


class Blaxel:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.sandboxes: dict[str, Sandbox] = {}
        self.url = ""
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        parts = request.path.strip("/").split("/")
        if parts[0] == "inside":
            sandbox = self.sandboxes.get(parts[1])
            if sandbox is None:
                return json_response({"error": "WORKLOAD_NOT_FOUND", "code": 404}, 404)
            return sandbox.handle(request, parts[2:])
        authorization = request.headers.get("x-blaxel-authorization")
        if (authorization, request.headers.get("x-blaxel-workspace")) != (f"Bearer {self.settings['key']}", "tests"):
            return json_response({"error": "UNAUTHORIZED", "code": 401, "message": "the key is wrong"}, 401)
        if parts[0] != "sandboxes":
            return json_response({"error": "no such route", "code": 404}, 404)
        if len(parts) == 1:
            return self._create(request)
        sandbox = self.sandboxes.get(parts[1])
        if sandbox is None:
            return json_response({"error": "NOT_FOUND", "code": 404, "message": "no such sandbox"}, 404)
        if len(parts) == 2:
            if request.method == "DELETE":
                with self._lock:
                    self.sandboxes.pop(parts[1], None)
                sandbox.machine.close()
            elif request.method == "PUT":
                sandbox.asked = request.json_object()
                sandbox.networks.append(sandbox.asked["spec"].get("network"))
            return json_response(sandbox.asked)
        if parts[2:] == ["previews"]:
            preview = request.json_object()
            preview["metadata"]["resourceName"] = parts[1]
            preview["spec"]["url"] = f"{self.url}/inside/{parts[1]}"
            return json_response(preview)
        token = secrets.token_hex(16)
        sandbox.tokens.append(token)
        spec = {**request.json_object().get("spec", {}), "token": token}
        return json_response({"metadata": {"name": "t"}, "spec": spec})

    def _create(self, request: Request) -> Response:
        asked = request.json_object()
        name = asked["metadata"]["name"]
        with self._lock:
            if name in self.sandboxes:
                if request.query.get("createIfNotExist") != "true":
                    return json_response({"error": "SANDBOX_ALREADY_EXISTS", "code": 409, "message": "it exists"}, 409)
            else:
                self.sandboxes[name] = Sandbox(asked, self.settings["env"])
        return json_response({**asked, "status": "DEPLOYED"})

    def state(self) -> Any:
        return [{"asked": s.asked, "networks": s.networks, "time": time.time()} for s in list(self.sandboxes.values())]


def main() -> None:
    blaxel = Blaxel(json.loads(sys.stdin.readline()))
    server = Server(Faults(blaxel, blaxel.state))
    blaxel.url = server.url
    print(server.url, flush=True)
    sys.stdin.read()
    server.close()
    for sandbox in list(blaxel.sandboxes.values()):
        sandbox.machine.close()


if __name__ == "__main__":
    main()
