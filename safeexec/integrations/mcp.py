"""An MCP server over safeexec: ``safeexec mcp``, or ``server(Sessions("wasm")).run()``.

Interface: ``mcp`` 2.3. State belongs to the connection: the pipe, or the Mcp-Session-Id of Streamable HTTP. Protocol 2026-07-28 has no connection over
HTTP; there each result names a handle, and a call that passes it back goes on with that state.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult

import safeexec
from safeexec.aio import _in_thread
from safeexec.integrations._mcp_parts import Conversations, bytes_of, content_of, result_of
from safeexec.integrations._sessions import Sessions
from safeexec.integrations._shown import Shown, clip
from safeexec.integrations._streaming import run_streaming
from safeexec.text import neutralise_line

INSTRUCTIONS = (
    "run_python runs Python in a sandbox. Variables, imports and files live on from call to call. When a result names a session, pass it to the next "
    "call to go on with its state."
)


def server(sessions: Sessions) -> MCPServer[Any]:
    """The server with its tools, over `sessions`, which the caller closes."""
    app: MCPServer[Any] = MCPServer(
        "safeexec", instructions=INSTRUCTIONS, version=safeexec.__version__, log_level="WARNING"
    )
    conversations = Conversations(sessions)

    @app.tool()
    async def run_python(code: str, ctx: Context[Any, Any], session: str = "") -> CallToolResult:
        """Run Python code. Returns what it printed, the value of its last expression, the pictures it drew and the files it wrote."""
        count = itertools.count(1)
        async with conversations.live(ctx, session) as (state, note):
            result = await run_streaming(state, code, lambda text: ctx.report_progress(next(count), message=text))
            return result_of(Shown.of(result, state), note)

    @app.tool()
    async def reset(ctx: Context[Any, Any], session: str = "") -> str:
        """Forget all variables and files; the next run_python starts afresh."""
        await conversations.drop(ctx, session)
        return "done"

    @app.tool()
    async def list_files(ctx: Context[Any, Any], session: str = "") -> str:
        """The files in the working directory, with their sizes in bytes."""
        async with conversations.live(ctx, session) as (state, _):
            found = await state.files.list()
        return clip("\n".join(f"{neutralise_line(info.name)}\t{info.size}" for info in found)) or "(no files)"

    @app.tool()
    async def read_file(name: str, ctx: Context[Any, Any], session: str = "") -> CallToolResult:
        """One file of the working directory: a picture as a picture, text as text, anything else as bytes."""
        async with conversations.live(ctx, session) as (state, _):
            data = await state.files.read(name)
        # In a thread: what a guest has in a file takes seconds, at worst, and all other clients are served by this one.
        return CallToolResult(content=[await _in_thread(lambda: content_of(name, data))])

    @app.tool()
    async def write_file(
        name: str,
        content: str,
        ctx: Context[Any, Any],
        encoding: Literal["utf-8", "base64"] = "utf-8",
        session: str = "",
    ) -> str:
        """Write a file into the working directory, from text or from base64."""
        data = bytes_of(content, encoding)
        async with conversations.live(ctx, session) as (state, note):
            await state.files.write(name, data)
        return f"wrote {len(data)} bytes{note}"

    return app
