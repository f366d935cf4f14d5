"""The code interpreter of one sandbox: ``/execute``, whose answer is one JSON object a line, and ``/contexts``."""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from safeexec.errors import SafeExecError
from safeexec.result import Result
from safeexec.serve.http import BadRequest, Request, Response, json_response
from safeexec.serve.machine import Machine
from safeexec.step import Output

KEEPALIVE = 10.0
_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "text/latex": "latex",
    "application/json": "json",
}


class Interpreter:
    """Contexts and executions."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._count = 0

    def handle(self, request: Request) -> Response:
        """One request. Raises BadRequest."""
        parts = request.path.strip("/").split("/")
        if request.method == "POST" and parts == ["execute"]:
            return self._execute(request.json_object())
        if parts[0] == "contexts":
            return self._contexts(request, parts[1:])
        return json_response({"code": 404, "message": "no such route"}, 404)

    def _contexts(self, request: Request, parts: list[str]) -> Response:
        try:
            if request.method == "GET" and not parts:
                return json_response([_context(name) for name in self._machine.contexts()])
            if request.method == "POST" and not parts:
                name = str(uuid.uuid4())
                self._machine.add_context(name)
                return json_response(_context(name))
            if request.method == "DELETE" and len(parts) == 1:
                self._machine.remove_context(parts[0])
                return Response(204)
            if request.method == "POST" and len(parts) == 2 and parts[1] == "restart":
                self._machine.restart_context(parts[0])
                return Response(204)
        except KeyError:
            return json_response({"code": 404, "message": f"context {parts[0]} not found"}, 404)
        return json_response({"code": 404, "message": "no such route"}, 404)

    def _execute(self, data: dict[str, Any]) -> Response:
        code, context, language = data.get("code"), data.get("context_id"), data.get("language")
        if not isinstance(code, str):
            raise BadRequest("no code")
        if language not in (None, "python"):
            raise BadRequest(f"the only language is python, not {language!r}")
        env = strings(data.get("env_vars"), "env_vars")
        if isinstance(context, str) and context not in self._machine.contexts():
            return json_response({"code": 404, "message": f"context {context} not found"}, 404)
        self._count += 1
        return Response(200, self._lines(code, context, env, self._count), {"Content-Type": "application/x-ndjson"})

    def _lines(self, code: str, context: str | None, env: dict[str, str], count: int) -> Iterator[bytes]:
        events: queue.Queue[dict[str, Any] | None] = queue.Queue()

        def on_output(piece: Output) -> None:
            events.put({"type": piece.stream, "text": str(piece), "timestamp": time.time_ns()})

        def work() -> None:
            try:
                for event in _events(self._machine.execute(context, code, on_output, env)):
                    events.put(event)
            except (SafeExecError, KeyError) as error:
                events.put({"type": "error", "name": type(error).__name__, "value": str(error), "traceback": ""})
            finally:
                events.put(None)

        yield _line({"type": "number_of_executions", "execution_count": count})
        threading.Thread(target=work, name="safeexec-serve-execute", daemon=True).start()
        while True:
            try:
                event = events.get(timeout=KEEPALIVE)
            except queue.Empty:
                event = {"type": "keepalive"}
            if event is None:
                break
            yield _line(event)
        yield _line({"type": "end_of_execution"})


def _events(result: Result) -> Iterator[dict[str, Any]]:
    for display in result.displays:
        event: dict[str, Any] = {"type": "result", "is_main_result": False}
        for mime, body in display.data.items():
            event[_FIELDS.get(mime, mime)] = base64.b64encode(body).decode() if isinstance(body, bytes) else body
        yield event
    if result.error is not None:
        error = result.error
        yield {"type": "error", "name": error.type, "value": error.message, "traceback": error.traceback or str(error)}
    elif result.value is not None:
        yield {"type": "result", "is_main_result": True, "text": repr(result.value)}


def strings(data: Any, name: str) -> dict[str, str]:
    """A mapping of strings; None is an empty one. Raises BadRequest."""
    if data is None:
        return {}
    if type(data) is not dict or not all(type(value) is str for value in data.values()):
        raise BadRequest(f"{name} must be an object of strings")
    return data


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _context(name: str) -> dict[str, str]:
    return {"id": name, "language": "python", "cwd": Machine.home}
