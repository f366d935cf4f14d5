"""The commands of one sandbox: envd's service ``process.Process``."""

from __future__ import annotations

import base64
import binascii
import queue
import signal
import threading
from collections.abc import Iterator
from typing import Any

from safeexec.serve.connect import RpcError, messages, single, stream
from safeexec.serve.http import Request, Response, json_response
from safeexec.serve.machine import Machine, Process, Unsupported

KEEPALIVE = 30.0
"""Seconds after which a silent stream says that it lives."""
_SIGNALS = {"SIGNAL_SIGTERM": signal.SIGTERM, "SIGNAL_SIGKILL": 9, 15: signal.SIGTERM, 9: 9}
_HELD = 64


class _Running:
    """A process, what it was started as, and who listens to it."""

    def __init__(self, process: Process, config: dict[str, Any]) -> None:
        self.process = process
        self.config = config
        self._lock = threading.Lock()
        self._listeners: list[queue.Queue[tuple[str, Any]]] = []
        self._input = threading.Lock()
        self.ended = False

    def listen(self) -> queue.Queue[tuple[str, Any]]:
        # Bounded: a client that does not read holds the process back, as a pipe would.
        listener: queue.Queue[tuple[str, Any]] = queue.Queue(_HELD)
        with self._lock:
            self._listeners.append(listener)
        return listener

    def leave(self, listener: queue.Queue[tuple[str, Any]]) -> None:
        with self._lock:
            self._listeners.remove(listener)

    def pump(self) -> None:
        for event in self.process.events():
            with self._lock:
                listeners = list(self._listeners)
            for listener in listeners:
                while True:
                    try:
                        listener.put(event, timeout=0.2)
                        break
                    except queue.Full:
                        with self._lock:
                            if listener not in self._listeners:
                                break

    def write(self, data: bytes) -> None:
        with self._input:  # two requests must not mix
            try:
                self.process.write(data)
            except (OSError, ValueError):
                raise RpcError("not_found", "the process takes no more input") from None


class Processes:
    """Start, connect to, feed, signal and list commands."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._running: dict[int, _Running] = {}

    def handle(self, method: str, request: Request) -> Response:
        """One call. Raises RpcError, BadRequest."""
        if method == "Start":
            return self._start(single(request))
        if method == "Connect":
            running = self._find(single(request))
            return self._streamed(running, running.listen())
        if method == "StreamInput":
            return self._stream_input(request)
        data = request.json_object()
        if method == "List":
            with self._lock:
                known = list(self._running.values())
            return json_response({"processes": [{"config": r.config, "pid": r.process.pid} for r in known]})
        if method == "SendInput":
            self._find(data).write(_input(data.get("input")))
        elif method == "CloseStdin":
            self._find(data).process.close_input()
        elif method == "SendSignal":
            number = _SIGNALS.get(data.get("signal", ""))
            if number is None:
                raise RpcError("invalid_argument", "no such signal")
            self._find(data).process.signal(int(number))
        else:
            raise RpcError("unimplemented", f"there is no method {method}")
        return json_response({})

    def _find(self, data: dict[str, Any]) -> _Running:
        selector = data.get("process")
        pid = selector.get("pid") if isinstance(selector, dict) else None
        with self._lock:
            running = self._running.get(pid) if isinstance(pid, int) else None
        if running is None:
            raise RpcError("not_found", f"process with pid {pid} not found")
        return running

    def _start(self, data: dict[str, Any]) -> Response:
        config = data.get("process")
        if not isinstance(config, dict) or not isinstance(config.get("cmd"), str):
            raise RpcError("invalid_argument", "no command")
        words = [config["cmd"], *map(str, config.get("args", ()))]
        env = {str(k): str(v) for k, v in (config.get("envs") or {}).items()}
        try:
            process = self._machine.start(words, env, config.get("cwd"))
        except Unsupported as error:
            raise RpcError("unimplemented", str(error)) from None
        except OSError as error:
            raise RpcError("invalid_argument", f"{type(error).__name__}: {error.strerror}") from None
        running = _Running(process, config)
        with self._lock:
            self._running[process.pid] = running
        listener = running.listen()
        if not data.get("stdin"):
            process.close_input()

        def pump() -> None:
            try:
                running.pump()
            finally:
                with self._lock:
                    self._running.pop(process.pid, None)

        threading.Thread(target=pump, name="safeexec-serve-process", daemon=True).start()
        return self._streamed(running, listener)

    def _streamed(self, running: _Running, listener: queue.Queue[tuple[str, Any]]) -> Response:
        # Not by the end of the events themselves: a client that is gone before the first was sent would hold the process back for ever.
        return stream(self._events(running, listener), lambda: running.leave(listener))

    def _events(self, running: _Running, listener: queue.Queue[tuple[str, Any]]) -> Iterator[Any]:
        yield {"event": {"start": {"pid": running.process.pid}}}
        while True:
            try:
                kind, value = listener.get(timeout=KEEPALIVE)
            except queue.Empty:
                yield {"event": {"keepalive": {}}}
                continue
            if kind == "exit":
                end: dict[str, Any] = {"exitCode": value, "exited": value >= 0, "status": f"exit status {value}"}
                if value < 0:
                    end["error"] = end["status"] = f"signal: {-value}"
                yield {"event": {"end": end}}
                return
            yield {"event": {"data": {kind: base64.b64encode(value).decode()}}}

    def _stream_input(self, request: Request) -> Response:
        running: _Running | None = None
        for message in messages(request.body):
            if "start" in message:
                running = self._find(message["start"])
            elif "data" in message and running is not None:
                running.write(_input(message["data"].get("input")))
        return stream([{}])


def _input(data: Any) -> bytes:
    text = data.get("stdin") if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise RpcError("invalid_argument", "no input")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise RpcError("invalid_argument", "input that is not base64") from None
