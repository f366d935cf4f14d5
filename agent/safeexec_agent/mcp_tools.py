"""Tools of an MCP server. Its client lives on an event loop in a thread of its own, while the collection is entered."""

from __future__ import annotations

import asyncio
import keyword
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from safeexec import Image
from safeexec_agent.errors import AgentError, NotInstalled
from safeexec_agent.tools import TYPES, Tool

_MOST_TOOLS = 1000
_MOST_PAGES = 1000


class McpTool(Tool):
    """One tool of a server. What the server says of it is text for the model; what it returns is data."""

    skip_forward_signature_validation = True

    def __init__(self, spec: Any, call: Any) -> None:
        super().__init__()
        self.remote_name = str(spec.name)
        self.name = _identifier(self.remote_name)
        self.description = str(spec.description or spec.name)[:10_000]
        self.inputs, self._names = _inputs(spec.input_schema or {})  # type: ignore[misc]
        self.output_type = "any"
        self._call = call

    def forward(self, **arguments: Any) -> Any:
        """Call the server. Raises RuntimeError with the server's own words when it says that the call failed."""
        given = {self._names[key]: value for key, value in arguments.items() if value is not None}
        result = self._call(self.remote_name, given)
        parts = [_part(block) for block in result.content]
        if result.is_error:
            raise RuntimeError(" ".join(str(part) for part in parts)[:5000] or "the server's tool failed")
        structured = result.structured_content
        if isinstance(structured, dict):
            return structured["result"] if set(structured) == {"result"} else structured
        return parts[0] if len(parts) == 1 else parts


def _identifier(name: str) -> str:
    text = re.sub(r"\W", "_", name) or "tool"
    text = f"tool_{text}" if text[0].isdigit() or text.startswith("__") else text
    return f"{text}_" if keyword.iskeyword(text) else text


def _inputs(schema: Any) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The parameters, and what the server calls each. Whatever the server says."""
    properties, required = schema.get("properties"), schema.get("required")
    inputs: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for name, about in properties.items() if isinstance(properties, Mapping) else ():
        about = about if isinstance(about, Mapping) else {}
        kind = about.get("type", "any")
        entry = {
            "type": kind if kind in TYPES else "any",
            "description": str(about.get("description") or about.get("title") or name)[:2000],
        }
        if not isinstance(required, list) or name not in required:
            entry["nullable"] = True
        key = _identifier(str(name))
        while key in inputs:  # "a-b" beside "a_b"
            key += "_"
        inputs[key], names[key] = entry, name
    return inputs, names


def _part(block: Any) -> Any:
    import base64

    kind = getattr(block, "type", "")
    if kind == "text":
        return block.text
    if kind == "image":
        mime = str(getattr(block, "mime_type", None) or "image/png")
        return Image(mime, base64.b64decode(block.data))
    return block.model_dump(mode="json") if hasattr(block, "model_dump") else str(block)


async def _listed(session: Any) -> list[Any]:
    """All tools of a server, page by page. Raises AgentError for a list that is not to be believed."""
    from mcp.types import PaginatedRequestParams

    tools: list[Any] = []
    seen: set[str] = set()
    page = await session.list_tools()
    while True:
        tools += page.tools
        if len(tools) > _MOST_TOOLS:
            raise AgentError(f"it lists more than {_MOST_TOOLS} tools")
        cursor = page.next_cursor
        if cursor is None:
            return tools
        # Empty pages cost the server nothing: they could go on for ever, around or on.
        if cursor in seen or len(seen) == _MOST_PAGES:
            raise AgentError("its list of tools has no end")
        seen.add(cursor)
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))


def _apart(tools: list[McpTool]) -> list[McpTool]:
    """With names of their own: "a-b" beside "a_b" would be one name."""
    taken: set[str] = set()
    for item in tools:
        while item.name in taken:
            item.name += "_"
        taken.add(item.name)
    return tools


@contextmanager
def connected(collection: Any, parameters: Any, timeout: float) -> Iterator[Any]:
    """A ToolCollection of the server's tools; the connection ends with the block. Raises AgentError."""
    try:
        import mcp
    except ImportError:
        raise NotInstalled("the mcp library is not installed: pip install 'safeexec[mcp]'") from None
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    state: dict[str, Any] = {}

    async def serve() -> None:
        done = state["done"] = asyncio.Event()
        try:
            async with AsyncExitStack() as stack:
                read, write, *_ = await stack.enter_async_context(_transport(parameters))
                session = await stack.enter_async_context(mcp.ClientSession(read, write))
                async with asyncio.timeout(timeout):
                    await session.initialize()
                    state["tools"] = await _listed(session)
                state["session"] = session
                ready.set()
                await done.wait()
        except BaseException as error:
            state.setdefault("error", error)
        finally:
            ready.set()

    def call(name: str, arguments: dict[str, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(state["session"].call_tool(name, arguments), loop).result()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="safeexec-mcp", daemon=True)
    thread.start()
    ready.wait()
    try:
        if "session" not in state:
            error = state.get("error")
            while isinstance(error, BaseExceptionGroup) and error.exceptions:
                error = error.exceptions[0]
            raise AgentError(
                f"the MCP server cannot be used: {'' if isinstance(error, AgentError) else type(error).__name__ + ': '}{error}"
            )
        yield collection(_apart([McpTool(spec, call) for spec in state["tools"]]))
    finally:
        if "done" in state and not loop.is_closed():
            loop.call_soon_threadsafe(state["done"].set)
        thread.join(10)
        if not thread.is_alive():
            loop.close()


def _transport(parameters: Any) -> Any:
    if not ("url" in parameters if isinstance(parameters, Mapping) else hasattr(parameters, "command")):
        # Its type alone: what is in it may be a key.
        raise AgentError(
            f"it is named by mcp.StdioServerParameters or {{'url': …}}, not by this {type(parameters).__name__}"
        )
    if isinstance(parameters, Mapping):
        if parameters.get("transport") == "sse":
            from mcp.client.sse import sse_client

            return sse_client(parameters["url"])
        from mcp.client import streamable_http

        return streamable_http.streamable_http_client(parameters["url"])
    from mcp.client.stdio import stdio_client

    return stdio_client(parameters)
