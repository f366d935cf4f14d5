"""What the MCP server reads from requests and makes of results: whose state it is, and contents in the protocol's forms."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import BlobResourceContents, CallToolResult, EmbeddedResource, ImageContent, TextContent
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from safeexec.aio import AsyncSession, _in_thread
from safeexec.errors import SafeExecError
from safeexec.integrations._attachments import PICTURES, Attachment
from safeexec.integrations._sessions import Sessions
from safeexec.integrations._shown import Shown
from safeexec.text import neutralise


class Conversations:
    """The session of each request: that of its connection, or of the handle that a client without connection was given."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._secret = secrets.token_bytes(32)

    @asynccontextmanager
    async def live(self, ctx: Context[Any, Any], handle: str) -> AsyncIterator[tuple[AsyncSession, str]]:
        """The session when its turn has come, and what to tell the client about it; trouble of the host's side becomes a message for the model."""
        key, note = self._key(ctx, handle)
        try:
            async with self._sessions.aturn(key) as session:
                yield session, note
        except (SafeExecError, OSError) as error:
            raise ToolError(neutralise(f"{type(error).__name__}: {error}")) from error

    async def drop(self, ctx: Context[Any, Any], handle: str) -> None:
        """End it."""
        key, _ = self._key(ctx, handle)
        await _in_thread(lambda: self._sessions.drop(key))

    def _key(self, ctx: Context[Any, Any], handle: str) -> tuple[str, str]:
        if ctx.headers is None:  # a pipe: one process, one client
            return "pipe", ""
        # Only where the SDK made that name, and knows it: a later protocol has no connections, and passes on whatever a client calls its own.
        connection = ctx.headers.get("mcp-session-id")
        if connection and ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
            return f"connection {connection}", ""
        handle = handle or self._signed(secrets.token_hex(16))
        # A name of the client's own choosing could be guessed by another client; what is signed need not be remembered.
        if not hmac.compare_digest(handle.encode("utf-8", "replace"), self._signed(handle[:32]).encode()):
            raise ToolError("there is no such session; leave 'session' out to start one")
        return f"handle {handle}", f"\nsession: {handle}"

    def _signed(self, name: str) -> str:
        return name + hmac.digest(self._secret, name.encode("utf-8", "replace"), "sha256").hex()


def result_of(shown: Shown, note: str) -> CallToolResult:
    """A step's result, its pictures as pictures."""
    pictures = [ImageContent(type="image", data=each.base64, mime_type=each.mime) for each in shown.pictures]
    return CallToolResult(
        content=[TextContent(type="text", text=shown.text + note), *pictures], is_error=not shown.result.ok
    )


def content_of(name: str, data: bytes) -> TextContent | ImageContent | EmbeddedResource:
    """A file: a picture as a picture, text as text, anything else as bytes."""
    file = Attachment.named(name, data)
    if file.mime in PICTURES:
        return ImageContent(type="image", data=file.base64, mime_type=file.mime)
    if file.text is not None:
        return TextContent(type="text", text=file.text)
    blob = BlobResourceContents(uri=f"sandbox:///{quote(name)}", mime_type=file.mime, blob=file.base64)
    return EmbeddedResource(type="resource", resource=blob)


def bytes_of(content: str, encoding: str) -> bytes:
    """What a client wants to be written. Raises ToolError."""
    try:
        return content.encode() if encoding == "utf-8" else base64.b64decode(content, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ToolError(f"content is not {encoding}: {error}") from error
