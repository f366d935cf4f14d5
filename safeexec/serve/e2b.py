"""An application that E2B's clients take for E2B: sandboxes that are created, used, renewed and ended over HTTP."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from safeexec import threads
from safeexec.errors import LimitExceeded, PolicyError, SessionBusy, SessionClosed
from safeexec.places import Places
from safeexec.serve import files
from safeexec.serve.connect import RpcError
from safeexec.serve.http import BadRequest, Hangup, Request, Response, TooMany, json_response
from safeexec.serve.interpreter import Interpreter, strings
from safeexec.serve.machine import Machine
from safeexec.serve.processes import Processes

ENVD_VERSION = "0.5.7"
"""What the clients are told: their features depend on it."""
INTERPRETER_PORT = "49999"
DEFAULT_TIMEOUT = 300
LONGEST_TIMEOUT = 86_400
MOST_SANDBOXES = 100
MOST_ASKED = 256 * 1024
"""Bytes of a request about sandboxes, not to one: what is asked of each is kept as long as it lives, and its names and labels are in everybody's list."""

MakeMachine = Callable[[Mapping[str, Any]], Machine]


class Sandbox:
    """One sandbox of the server."""

    def __init__(self, machine: Machine, asked: Mapping[str, Any], timeout: float) -> None:
        self.id = "i" + secrets.token_hex(10)
        self.token = secrets.token_hex(20)
        self.traffic_token = secrets.token_hex(20)
        self.asked = asked
        self.network: Any = None
        self.machine = machine
        self.processes = Processes(machine)
        self.interpreter = Interpreter(machine)
        self.started = time.time()
        self.renew(timeout)

    def renew(self, seconds: float) -> None:
        """It ends so many seconds from now."""
        self.ends = time.time() + seconds
        """For people. By that clock nothing is ended: somebody may set it."""
        self._until = time.monotonic() + seconds

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self._until <= time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until it ends."""
        return max(0.0, self._until - time.monotonic())

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request has the token for what it asks."""
        allowed = _same(headers.get("x-access-token"), self.token)
        if headers.get("e2b-sandbox-port") == INTERPRETER_PORT:
            # Of the interpreter's calls the clients send some with the one token, some with the other.
            allowed = allowed or _same(headers.get("e2b-traffic-access-token"), self.traffic_token)
        return allowed

    def handle(self, request: Request) -> Response:
        """A request to the sandbox itself."""
        if request.path == "/health":
            return Response(204)
        if not self.admits(request.headers):
            return _denied()
        try:
            return self._routed(request)
        except RpcError as error:
            return error.response()
        except (SessionBusy, SessionClosed) as error:
            return json_response({"code": 409, "message": str(error)}, 409)
        except (LimitExceeded, PolicyError) as error:
            return json_response({"code": 400, "message": str(error)}, 400)

    def _routed(self, request: Request) -> Response:
        if request.headers.get("e2b-sandbox-port") == INTERPRETER_PORT:
            return self.interpreter.handle(request)
        if request.path == "/files":
            return files.content(self.machine, request)
        service, _, method = request.path.strip("/").partition("/")
        if service == "process.Process":
            return self.processes.handle(method, request)
        if service == "filesystem.Filesystem":
            return files.service(self.machine, method, request)
        return json_response({"code": 404, "message": "no such route"}, 404)


class E2BServer:
    """The application. `make` makes the machine of a new sandbox from what the client asked for, such as ``envVars``; `api_key` is what clients must send.

    Of `most` sandboxes at once, one that is being made among them, any more is refused with status 429, which E2B's clients raise as RateLimitException.
    Call :meth:`close` at the end. A sandbox that is not renewed ends at its time. Raises ValueError for an empty key, or `most` below 1.
    """

    def __init__(self, make: MakeMachine, api_key: str, most: int = MOST_SANDBOXES) -> None:
        if not api_key:
            # A client that sends none would have it: a variable that is not set must not open the server.
            raise ValueError("api_key must not be empty: it is all that keeps strangers out")
        if most < 1:
            raise ValueError(f"most must be at least 1, not {most}")
        self._make = make
        self._api_key = api_key
        self._most = most
        self._making = 0
        self._lock = threading.Lock()
        self.sandboxes: dict[str, Sandbox] = {}
        self._made: dict[str, Sandbox] = {}
        self._places = Places()
        self._stop = threading.Event()
        self._reaper = threading.Thread(target=self._reap, name="safeexec-serve-reaper", daemon=True)
        self._reaper.start()

    def admits(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether the body of a request is worth reading: not a stranger's."""
        target = headers.get("e2b-sandbox-id")
        if target is None:
            return _same(headers.get("x-api-key"), self._api_key)
        sandbox = self.sandboxes.get(target)
        return sandbox is not None and sandbox.admits(headers)

    def __call__(self, request: Request) -> Response:
        target = request.headers.get("e2b-sandbox-id")
        if target is not None:
            sandbox = self.sandboxes.get(target)
            if sandbox is None:
                # The words are E2B's proxy's: its clients tell an ended sandbox from a lost connection by them.
                return json_response({"sandboxId": target, "message": "The sandbox was not found", "code": 502}, 502)
            return sandbox.handle(request)
        if not _same(request.headers.get("x-api-key"), self._api_key):
            return json_response({"code": 401, "message": "the API key is wrong"}, 401)
        return self._api(request)

    def _api(self, request: Request) -> Response:
        if len(request.body) > MOST_ASKED:
            return json_response({"code": 413, "message": f"the body has more than {MOST_ASKED} bytes"}, 413)
        parts = request.path.strip("/").split("/")
        if parts[0] == "v2":
            parts = parts[1:]
        if parts[0] != "sandboxes" or len(parts) > 3:
            return json_response({"code": 404, "message": "no such route"}, 404)
        if len(parts) == 1:
            if request.method == "POST":
                return json_response(_created(self._create(request)), 201)
            with self._lock:
                sandboxes = list(self.sandboxes.values())
            return json_response([_detail(s) for s in sandboxes])
        sandbox = self.sandboxes.get(parts[1])
        if sandbox is None:
            return json_response({"code": 404, "message": f"sandbox {parts[1]} not found"}, 404)
        action = parts[2] if len(parts) == 3 else ""
        if request.method == "DELETE" and not action:
            self.end(sandbox.id)
            return Response(204)
        if request.method == "GET" and not action:
            return json_response(_detail(sandbox))
        if request.method == "POST" and action in ("timeout", "connect"):
            seconds = _timeout(request.json_object())
            sandbox.renew(seconds if action == "timeout" else max(seconds, sandbox.left))
            return Response(204) if action == "timeout" else json_response(_created(sandbox))
        if request.method == "PUT" and action == "network":
            sandbox.network = request.json_object()
            return Response(204)
        return json_response({"code": 404, "message": "no such route"}, 404)

    def _create(self, request: Request) -> Sandbox:
        asked = request.json_object()
        timeout = _timeout(asked)
        strings(asked.get("envVars"), "envVars")
        strings(
            asked.get("metadata"), "metadata"
        )  # whose list all clients see: one that cannot be shown would spoil it for them
        identity = request.headers.get("idempotency-key")
        # One that is repeated waits for the first; others do not wait for it, nor whoever lists or ends sandboxes.
        with self._places.of(identity) if identity is not None else nullcontext():
            with self._lock:
                if identity is not None and identity in self._made:
                    return self._made[identity]
                if len(self.sandboxes) + self._making >= self._most:
                    raise TooMany(
                        f"there are {self._most} sandboxes, and there may be no more: end one, or wait for one to end"
                    )
                self._making += 1
            sandbox: Sandbox | None = None
            try:
                sandbox = Sandbox(self._make(asked), asked, timeout)
            except PolicyError as error:
                raise BadRequest(str(error)) from None
            finally:
                with self._lock:  # at once: neither counted twice nor for a moment not at all
                    self._making -= 1
                    closed = self._stop.is_set()
                    if sandbox is not None and not closed:
                        self.sandboxes[sandbox.id] = sandbox
                        if identity is not None:
                            self._made[identity] = sandbox
        if closed:
            sandbox.machine.close()
            raise Hangup
        return sandbox

    def end(self, sandbox_id: str) -> None:
        """End a sandbox; nothing if there is none."""
        with self._lock:
            sandbox = self.sandboxes.pop(sandbox_id, None)
            self._made = {key: made for key, made in self._made.items() if made is not sandbox}
        if sandbox is not None:
            sandbox.machine.close()

    def _end_all(self, sandboxes: Iterable[Sandbox]) -> None:
        for sandbox in sandboxes:
            try:
                self.end(sandbox.id)
            except Exception:  # one that cannot be ended must not keep the others
                threads.report()

    def _reap(self) -> None:
        while not self._stop.wait(0.2):
            with self._lock:
                over = [sandbox for sandbox in self.sandboxes.values() if sandbox.expired]
            self._end_all(over)

    def close(self) -> None:
        """End every sandbox."""
        with self._lock:
            self._stop.set()
        self._reaper.join()
        self._end_all(list(self.sandboxes.values()))


def _denied() -> Response:
    return json_response({"code": 401, "message": "the access token is wrong"}, 401)


def _same(given: str | None, wanted: str) -> bool:
    """Whether a secret is right, in a time that does not tell how much of it is."""
    return hmac.compare_digest((given or "").encode(), wanted.encode())


def _timeout(data: Mapping[str, Any]) -> float:
    timeout = data.get("timeout", DEFAULT_TIMEOUT)
    if type(timeout) not in (int, float) or not 0 <= timeout <= LONGEST_TIMEOUT:
        raise BadRequest(f"timeout must be from 0 to {LONGEST_TIMEOUT} seconds")
    return float(timeout)


def _created(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "templateID": str(sandbox.asked.get("templateID", "base")),
        "sandboxID": sandbox.id,
        "clientID": "safeexec",
        "envdVersion": ENVD_VERSION,
        "envdAccessToken": sandbox.token,
        "trafficAccessToken": sandbox.traffic_token,
        "domain": None,
    }


def _detail(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "templateID": str(sandbox.asked.get("templateID", "base")),
        "sandboxID": sandbox.id,
        "clientID": "safeexec",
        "envdVersion": ENVD_VERSION,
        "startedAt": datetime.fromtimestamp(sandbox.started, UTC).isoformat(),
        "endAt": datetime.fromtimestamp(sandbox.ends, UTC).isoformat(),
        "state": "running",
        "cpuCount": 1,
        "memoryMB": 512,
        "diskSizeMB": 512,
        "metadata": dict(sandbox.asked.get("metadata") or {}),
    }
