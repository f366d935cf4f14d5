"""What stands before the MCP server over HTTP: who may come in, and whose connection has ended."""

from __future__ import annotations

import hmac
import os
from typing import Any

from safeexec.aio import _in_thread
from safeexec.integrations._sessions import Sessions


class Guarded:
    """An ASGI application behind a bearer token: a page in the user's browser, or another user of the machine, reaches the port, too.

    A connection that the client ends takes its session with it.
    """

    def __init__(self, app: Any, token: str, sessions: Sessions) -> None:
        self._app = app
        self._expected = b"Bearer " + os.fsencode(token)
        self._sessions = sessions

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = scope.get("headers", ())
        if scope["type"] != "lifespan":
            given = [value for name, value in headers if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], self._expected):
                about = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 401, "headers": about})
                await send({"type": "http.response.body", "body": b"this server wants its token as a bearer token\n"})
                return

        async def answer(message: Any) -> None:
            if message.get("status") == 200:  # the connection was there, and is no more
                ended = next(value.decode("latin-1") for name, value in headers if name == b"mcp-session-id")
                await _in_thread(lambda: self._sessions.drop(f"connection {ended}"))
            await send(message)

        await self._app(scope, receive, answer if scope.get("method") == "DELETE" else send)
