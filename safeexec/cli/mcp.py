"""``safeexec mcp``: a sandbox as an MCP server."""

from __future__ import annotations

import secrets
import socket
import sys

import click

from safeexec.cli import exits
from safeexec.cli.options import Options, serving


@click.command("mcp", context_settings={"help_option_names": ["-h", "--help"]})
@serving("with read_file")
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
        from safeexec.integrations._mcp_http import Guarded
    except ImportError as error:
        raise exits.Failure(
            f"the MCP server needs more: {error}; try: pip install 'safeexec[mcp]'", exits.UNAVAILABLE
        ) from error
    from safeexec.integrations._sessions import Sessions

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
        guarded = Guarded(app.streamable_http_app(host=host), secret, sessions)
        uvicorn.Server(uvicorn.Config(guarded, log_level="warning", lifespan="on")).run(sockets=[listener])
        return exits.OK
    finally:
        sessions.close()
