"""``safeexec mcp``: a sandbox as an MCP server."""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys
from typing import Any

import click

from safeexec.cli import exits
from safeexec.cli.options import Options, shared


@click.command("mcp", context_settings={"help_option_names": ["-h", "--help"]})
@shared
@click.option(
    "--transport",
    type=click.Choice(["stdio", "http"]),
    default="stdio",
    show_default=True,
    help="How clients reach it.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; http only.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port; 0 takes a free one. http only.",
)
@click.option(
    "--token",
    envvar="SAFEEXEC_TOKEN",
    show_envvar=True,
    metavar="SECRET",
    help="What clients must send as bearer token; made up when not given. http only.",
)
def command(options: Options, transport: str, host: str, port: int, token: str | None) -> int:
    """Serve a sandbox to MCP clients: run_python, reset, list_files, read_file, write_file.

    Each connection has a session of its own. Over http a client must send the token, which is printed to stderr when it was made up.
    """
    try:
        import uvicorn

        from safeexec.integrations import mcp
    except ImportError as error:
        raise exits.Failure(
            f"the MCP server needs more: {error}; try: pip install 'safeexec[mcp]'", exits.UNAVAILABLE
        ) from error
    from safeexec.integrations._sessions import Sessions

    if options.save_files:
        raise exits.Failure("--save-files is for run and repl; clients read files with read_file")
    sessions = Sessions(options.sandbox, policy=options.policy(), tools=options.tools())
    try:
        app = mcp.server(sessions)
        if transport == "stdio":
            app.run()
            return exits.OK
        secret = token or secrets.token_urlsafe(24)
        try:
            listener = socket.create_server((host, port))
        except OSError as error:
            raise exits.Failure(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port", exits.USAGE
            ) from error
        address = f"{host}:{listener.getsockname()[1]}"
        print(f"http://{address}/mcp" + ("" if token else f"\ntoken: {secret}"), file=sys.stderr, flush=True)
        guarded = Guarded(app.streamable_http_app(host=host), secret)
        uvicorn.Server(uvicorn.Config(guarded, log_level="warning", lifespan="on")).run(sockets=[listener])
        return exits.OK
    finally:
        sessions.close()


class Guarded:
    """An ASGI application behind a bearer token: a page in the user's browser, or another user of the machine, reaches the port, too."""

    def __init__(self, app: Any, token: str) -> None:
        self._app = app
        self._expected = b"Bearer " + os.fsencode(token)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            given = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], self._expected):
                headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b"this server wants its token as a bearer token\n"})
                return
        await self._app(scope, receive, send)
