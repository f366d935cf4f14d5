"""Faults that a loopback server injects when its test says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from safeexec.serve.http import App, Hangup, Request, Response, json_response


@dataclass
class Rule:
    """What to do to the next `times` requests whose method and path contain `match`, after letting `skip` of them pass.

    `action` is an HTTP status; "drop": hang up before the request is looked at; "lose": hang up after it was carried out; "delay": answer after
    `seconds`; "truncate": cut the answer's stream after `pieces`; "hang": do not answer for `seconds`, then hang up; "chop": carry out
    the request with half its input, then hang up.
    """

    match: str
    action: int | str
    times: int = 1
    skip: int = 0
    seconds: float = 0.3
    pieces: int = 3


class Faults:
    """An application around another: keeps a record of requests and injects faults.

    ``POST /_faults`` with a list of rules replaces those in force; ``GET /_record`` answers what has been asked; ``GET /_state`` what `state` says.
    """

    def __init__(self, app: App, state: Any) -> None:
        self._app = app
        self._state = state
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._record: list[dict[str, Any]] = []

    def __call__(self, request: Request) -> Response:
        if request.path == "/_faults":
            with self._lock:
                self._rules = [Rule(**rule) for rule in request.json()]
                self._record.clear()
            return Response(204)
        if request.path == "/_record":
            with self._lock:
                return json_response(self._record)
        if request.path == "/_state":
            return json_response(self._state())
        entry = {
            "call": f"{request.method} {request.path}",
            "headers": dict(request.headers),
            "body": request.body[:200_000].decode("utf-8", "replace"),
            "time": time.time(),
        }
        with self._lock:
            self._record.append(entry)
            rule = next((r for r in self._rules if r.times > 0 and r.match in entry["call"]), None)
            if rule is not None and rule.skip > 0:
                rule.skip -= 1
                rule = None
            elif rule is not None:
                rule.times -= 1
        return self._app(request) if rule is None else self._inject(rule, request)

    def _inject(self, rule: Rule, request: Request) -> Response:
        if isinstance(rule.action, int):
            return json_response({"code": rule.action, "message": f"injected {rule.action}"}, rule.action)
        if rule.action == "drop":
            raise Hangup
        if rule.action == "hang":
            threading.Event().wait(rule.seconds)
            raise Hangup
        if rule.action == "delay":
            threading.Event().wait(rule.seconds)
            return self._app(request)
        if rule.action == "chop":
            self._app(_halved(request))
            raise Hangup
        response = self._app(request)
        if rule.action == "lose":
            raise Hangup
        assert rule.action == "truncate", rule.action
        response.body = _cut(response.body, rule.pieces)
        return response


def _halved(request: Request) -> Request:
    import base64
    import json

    data = json.loads(request.body)
    text = base64.b64decode(data["input"]["stdin"])
    data["input"]["stdin"] = base64.b64encode(text[: len(text) // 2]).decode()
    return Request(request.method, request.path, request.query, request.headers, json.dumps(data).encode())


def _cut(body: Any, pieces: int) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body[: len(body) // 2]
        raise Hangup
    for number, piece in enumerate(body):
        if number == pieces:
            raise Hangup
        yield piece
