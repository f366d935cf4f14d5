"""The code interpreter of one sandbox: ``/execute``, whose answer is one JSON object a line, and ``/contexts``."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from safeexec.cli.values import shown
from safeexec.errors import BackendUnavailable, LimitExceeded, SafeExecError
from safeexec.result import Result
from safeexec.serve.http import BadRequest, Request, Response, TooMany, json_response
from safeexec.serve.machine import Abandoned, Execution, Machine
from safeexec.step import Output

KEEPALIVE = 10.0
"""Seconds after which a silent answer says that it lives."""
_LOOK = 1.0
"""Seconds after which it is looked whether the client is still there."""
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
            return self._execute(request)
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
        except LimitExceeded as error:
            raise TooMany(str(error)) from None
        except KeyError:
            return json_response({"code": 404, "message": f"context {parts[0]} not found"}, 404)
        return json_response({"code": 404, "message": "no such route"}, 404)

    def _execute(self, request: Request) -> Response:
        data = request.json_object()
        code, context, language = data.get("code"), data.get("context_id"), data.get("language")
        if not isinstance(code, str):
            raise BadRequest("no code")
        if language not in (None, "python"):
            raise BadRequest(f"the only language is python, not {language!r}")
        env = strings(data.get("env_vars"), "env_vars")
        if isinstance(context, str) and context not in self._machine.contexts():
            return json_response({"code": 404, "message": f"context {context} not found"}, 404)
        self._count += 1
        lines = self._lines(code, context, env, self._count, request.silent)
        return Response(200, lines, {"Content-Type": "application/x-ndjson"})

    def _lines(
        self, code: str, context: str | None, env: dict[str, str], count: int, silent: Callable[[], bool]
    ) -> Iterator[bytes]:
        events, execution = _Waiting(), Execution()

        def on_output(piece: Output) -> None:
            events.output(piece.stream, str(piece))

        def work() -> None:
            try:
                for event in _events(self._machine.execute(context, code, on_output, env, execution)):
                    events.put(event)
            except Abandoned:
                pass  # there is nobody to tell
            except (SafeExecError, KeyError) as error:
                events.put(_trouble(error))
            except BaseException:
                events.put(_trouble(RuntimeError("the server failed")))
                raise  # to threading.excepthook: for whoever runs the server
            finally:
                events.put(None)

        yield _line({"type": "number_of_executions", "execution_count": count})
        threading.Thread(target=work, name="safeexec-serve-execute", daemon=True).start()
        try:
            yield from self._told(events, silent)
        except GeneratorExit:
            # Nobody can come back to an execution in this protocol: what went on would only keep its context, and the machine, from others.
            execution.abandon()
            raise
        yield _line({"type": "end_of_execution"})

    def _told(self, events: _Waiting, silent: Callable[[], bool]) -> Iterator[bytes]:
        """What happens until the end; a line at least in every KEEPALIVE seconds, at once to a client that may have hung up: its answer says."""
        said = time.monotonic()
        while True:
            try:
                event = events.get(_LOOK)
            except TimeoutError:
                if not silent() and time.monotonic() < said + KEEPALIVE:
                    continue
                event = {"type": "keepalive"}
            if event is None:
                return
            yield _line(event)
            said = time.monotonic()


class _Waiting:
    """Events that a client has not taken yet. Output that waits is one event: a program that prints a million single characters must not make a million."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: deque[dict[str, Any] | None] = deque()
        self._pieces: list[str] | None = None
        """Of the last event, where that is output."""

    def output(self, stream: str, text: str) -> None:
        with self._changed:
            last = self._events[-1] if self._events else None
            if last is not None and self._pieces is not None and last["type"] == stream:
                self._pieces.append(text)
                return
            self._pieces = [text]
            self._put({"type": stream, "text": self._pieces, "timestamp": time.time_ns()})

    def put(self, event: dict[str, Any] | None) -> None:
        with self._changed:
            self._pieces = None
            self._put(event)

    def _put(self, event: dict[str, Any] | None) -> None:
        self._events.append(event)
        self._changed.notify()

    def get(self, seconds: float) -> dict[str, Any] | None:
        """The next one. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._events, seconds):
                raise TimeoutError
            event = self._events.popleft()
            if not self._events:
                self._pieces = None
        if event is not None and type(event.get("text")) is list:
            event["text"] = "".join(event["text"])
        return event


def _trouble(error: Exception) -> dict[str, Any]:
    # Why there is no sandbox tells of the server's machine: sockets, images, paths.
    text = "no sandbox can be had" if isinstance(error, BackendUnavailable) else str(error)
    return {"type": "error", "name": type(error).__name__, "value": text, "traceback": ""}


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
        yield {"type": "result", "is_main_result": True, "text": shown(result.value)}


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
