"""MCP: a client that starts ``safeexec mcp`` and runs Python in its sandbox."""

import asyncio
import sys

from mcp import Client, StdioServerParameters


async def main():
    server = StdioServerParameters(command=sys.executable, args=["-m", "safeexec", "mcp", "--sandbox", "wasm"])
    async with Client(server) as client:
        await client.call_tool("run_python", {"code": "x = 41"})
        result = await client.call_tool("run_python", {"code": "x + 1"})
        print("answer:", result.content[0].text)


asyncio.run(main())
