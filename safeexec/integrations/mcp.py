"""An MCP server over safeexec: ``safeexec mcp``, or ``server(Sessions("wasm")).run()``.

Interface: ``mcp`` 2.3. State belongs to the connection: the pipe, or the Mcp-Session-Id of Streamable HTTP. Protocol 2026-07-28 has no connection over
HTTP; there each result names a handle, and a call that passes it back goes on with that state.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import mimetypes
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from weakref import WeakValueDictionary

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import BlobResourceContents, CallToolResult, EmbeddedResource, ImageContent, TextContent

import safeexec
from safeexec.aio import AsyncSession, _in_thread
from safeexec.errors import SafeExecError
from safeexec.integrations._sessions import Sessions, images, observation
from safeexec.step import Output
from safeexec.text import neutralise, neutralise_line

INSTRUCTIONS = (
    "run_python runs Python in a sandbox. Variables, imports and files live on from call to call. When a result names a session, pass it to the next "
    "call to go on with its state."
)
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def server(sessions: Sessions) -> MCPServer[Any]:
    """The server with its tools, over `sessions`, which the caller closes."""
    app: MCPServer[Any] = MCPServer(
        "safeexec", instructions=INSTRUCTIONS, version=safeexec.__version__, log_level="WARNING"
    )
    handles: set[str] = set()

    turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def live(ctx: Context[Any, Any], handle: str) -> AsyncIterator[tuple[AsyncSession, str]]:
        """The session of a request, when its turn has come; trouble of the host's side becomes a message for the model."""
        key, shown = _key(ctx, handle, handles)
        async with turns.setdefault(key, asyncio.Lock()):
            try:
                yield AsyncSession(await _in_thread(lambda: sessions.get(key))), shown
            except (SafeExecError, OSError) as error:
                raise ToolError(neutralise(f"{type(error).__name__}: {error}")) from error

    @app.tool()
    async def run_python(code: str, ctx: Context[Any, Any], session: str = "") -> CallToolResult:
        """Run Python code. Returns what it printed, the value of its last expression, the pictures it drew and the files it wrote."""
        async with live(ctx, session) as (state, shown):
            pieces: asyncio.Queue[Output | None] = asyncio.Queue()
            relay = asyncio.ensure_future(_progress(ctx, pieces))
            try:
                result = await state.run(code, on_output=pieces.put_nowait)
            finally:
                pieces.put_nowait(None)
                await relay
        text = observation(result, state) + (f"\nsession: {shown}" if shown else "")
        pictures = [
            ImageContent(type="image", data=base64.b64encode(d).decode(), mime_type=m) for m, d in images(result)
        ]
        return CallToolResult(content=[TextContent(type="text", text=text), *pictures], is_error=not result.ok)

    @app.tool()
    async def reset(ctx: Context[Any, Any], session: str = "") -> str:
        """Forget all variables and files; the next run_python starts afresh."""
        key, _ = _key(ctx, session, handles)
        await _in_thread(lambda: sessions.drop(key))
        return "done"

    @app.tool()
    async def list_files(ctx: Context[Any, Any], session: str = "") -> str:
        """The files in the working directory, with their sizes in bytes."""
        async with live(ctx, session) as (state, _):
            found = await state.files.list()
        return "\n".join(f"{neutralise_line(info.name)}\t{info.size}" for info in found) or "(no files)"

    @app.tool()
    async def read_file(name: str, ctx: Context[Any, Any], session: str = "") -> CallToolResult:
        """One file of the working directory: a picture as a picture, text as text, anything else as bytes."""
        async with live(ctx, session) as (state, _):
            data = await state.files.read(name)
        return CallToolResult(content=[_content(name, data)])

    @app.tool()
    async def write_file(
        name: str,
        content: str,
        ctx: Context[Any, Any],
        encoding: Literal["utf-8", "base64"] = "utf-8",
        session: str = "",
    ) -> str:
        """Write a file into the working directory, from text or from base64."""
        try:
            data = content.encode() if encoding == "utf-8" else base64.b64decode(content, validate=True)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise ToolError(f"content is not {encoding}: {error}") from error
        async with live(ctx, session) as (state, shown):
            await state.files.write(name, data)
        return f"wrote {len(data)} bytes" + (f"\nsession: {shown}" if shown else "")

    return app


def _key(ctx: Context[Any, Any], handle: str, handles: set[str]) -> tuple[str, str]:
    """Which conversation a request belongs to, and the handle to show, if it needs one."""
    if ctx.headers is None:  # a pipe: one process, one client
        return "pipe", ""
    connection = ctx.headers.get("mcp-session-id")
    if connection:
        return f"connection {connection}", ""
    if handle and handle not in handles:  # a name of the client's own choosing could be guessed by another client
        raise ToolError("there is no such session; leave 'session' out to start one")
    if not handle:
        handle = secrets.token_urlsafe(16)
        handles.add(handle)
    return f"handle {handle}", handle


async def _progress(ctx: Context[Any, Any], pieces: asyncio.Queue[Output | None]) -> None:
    """Pass output on while the code runs; what has gathered goes in one message, so that a flood does not become a flood of messages."""
    sent, ended = 0, False
    while not ended:
        gathered = [await pieces.get()]
        while not pieces.empty():
            gathered.append(pieces.get_nowait())
        ended = None in gathered
        text = "".join(piece for piece in gathered if piece is not None)
        if text:
            sent += 1
            await ctx.report_progress(sent, message=neutralise(text))


def _content(name: str, data: bytes) -> TextContent | ImageContent | EmbeddedResource:
    mime = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if mime not in _PICTURES:
        try:
            return TextContent(type="text", text=neutralise(data.decode()))
        except UnicodeDecodeError:
            pass
    coded = base64.b64encode(data).decode()
    if mime in _PICTURES:
        return ImageContent(type="image", data=coded, mime_type=mime)
    from urllib.parse import quote

    return EmbeddedResource(
        type="resource", resource=BlobResourceContents(uri=f"sandbox:///{quote(name)}", mime_type=mime, blob=coded)
    )
