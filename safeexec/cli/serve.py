"""``safeexec serve``: sandboxes for programs that were written for E2B."""

from __future__ import annotations

import secrets
import threading

import click

from safeexec.cli import exits
from safeexec.cli.options import Options, serving


@click.command("serve", context_settings={"help_option_names": ["-h", "--help"]})
@serving("by E2B's files API")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on. What is sent is not encrypted."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--key",
    envvar="SAFEEXEC_KEY",
    show_envvar=True,
    metavar="SECRET",
    help="What clients must send as API key; made up, and printed, when not given.",
)
@click.option(
    "--most", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="How many sandboxes at once."
)
def command(options: Options, host: str, port: int, key: str | None, most: int) -> int:
    """Serve sandboxes to programs that were written for E2B, until Ctrl-C.

    Prints the environment variables by which E2B's clients find them. Code, contexts and files are served, commands are not.
    """
    from safeexec.executor import Executor
    from safeexec.serve.e2b import E2BServer
    from safeexec.serve.http import Server
    from safeexec.serve.machine import ExecutorMachine

    if key is not None and not key.isascii():
        raise exits.Failure("--key: a key travels in a header of HTTP, so it must be ASCII")
    secret = key or "e2b_" + secrets.token_hex(20)  # in the form that E2B's clients may check
    tools = options.tools()
    with Executor(options.sandbox, policy=options.policy()) as executor:
        app = E2BServer(lambda asked: ExecutorMachine(executor, asked.get("envVars"), tools), secret, most)
        try:
            try:
                server = Server(app, host, port)
            except OSError as error:
                raise exits.Failure(
                    f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port or --host"
                ) from error
            try:
                lines = [f"E2B_API_URL={server.url}", f"E2B_SANDBOX_URL={server.url}"]
                print("\n".join(lines if key else [*lines, f"E2B_API_KEY={secret}"]), flush=True)
                forever = threading.Event()
                while not forever.wait(1):  # until a signal's exception; Windows raises it between two waits
                    pass
            finally:
                server.close()
        finally:
            app.close()
    return exits.OK
