"""Tools of an MCP server, over its real client."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path
from typing import Any

import mcp
import pytest

from safeexec import Image
from safeexec.testing.base import eventually
from safeexec_agent import AgentError, ToolCollection
from safeexec_agent.mcp_tools import McpTool, _identifier
from tests.agent.conftest import Make, code

SERVER = '''
import base64
from mcp.server.mcpserver import MCPServer, Image
server = MCPServer("shop")

@server.tool(name="price-of")
def price_of(item: str, currency: str = "EUR") -> dict[str, float]:
    """The price of an item."""
    return {currency: {"tea": 3.5}[item]}

@server.tool()
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b

@server.tool()
def picture() -> Image:
    """A picture."""
    return Image(data=b"\\x89PNG", format="png")

server.run()
'''


def test_tools_of_a_stdio_server(make: Make, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    before = threading.active_count()
    parameters = mcp.StdioServerParameters(command=sys.executable, args=[str(tmp_path / "server.py")])
    with ToolCollection.from_mcp(parameters, trust_remote_code=True) as collection:
        tools = {item.name: item for item in collection.tools}
        assert set(tools) == {"price_of", "add", "picture"}
        assert tools["price_of"].inputs["currency"]["nullable"] and tools["add"].inputs["a"]["type"] == "integer"
        program = "print(add(2, 3), price_of('tea'), price_of(item='tea', currency='GBP'))\ntry:\n    price_of('gold')\nexcept RuntimeError as e:\n    print('failed', 'price-of' in str(e))\nfinal_answer(picture())"
        agent = make([code(program)], [*collection.tools])
        assert agent.run("Shop.") == Image("image/png", b"\x89PNG")
        assert agent.memory.actions[0].observations == "5 {'EUR': 3.5} {'GBP': 3.5}\nfailed True"
    assert not [t for t in threading.enumerate() if t.name == "safeexec-mcp"]
    assert eventually(lambda: threading.active_count() <= before + 2), "those that ran its tools idle for some seconds"


@pytest.mark.parametrize(
    "schema",
    [{"properties": [1]}, {"properties": {"a": 5, "b": {"type": ["string", "null"]}}, "required": 5}, {"properties": {"a-b": {}, "a_b": {}, "a.b": {}}}, {}, None],
)  # fmt: skip
def test_whatever_a_server_says_of_its_parameters_makes_a_tool(schema: Any) -> None:
    asked: list[Any] = []

    def call(name: str, given: Any) -> Any:
        asked.append(given)
        return types.SimpleNamespace(content=[], is_error=False, structured_content={"result": 1})

    made = McpTool(types.SimpleNamespace(name="t", description="d", input_schema=schema), call)
    assert made(**dict.fromkeys(made.inputs, 1)) == 1
    assert len(asked[0]) == len(made.inputs) == (3 if schema and "a-b" in schema["properties"] else len(made.inputs))


PAGED = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    method, cursor = asked["method"], (asked.get("params") or {}).get("cursor")
    if method == "initialize":
        answer = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
    elif method == "tools/list":
        answer = pages(int(cursor or 0))
    elif method == "tools/call":
        answer = {"content": [{"type": "text", "text": asked["params"]["name"]}]}
    else:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer}), flush=True)
"""


def paged(tmp_path: Path, pages: str) -> mcp.StdioServerParameters:
    """A server by hand; `pages` is its list from a cursor on."""
    head = "def tools(*names):\n    return [{'name': name, 'inputSchema': {'type': 'object'}} for name in names]\n"
    (tmp_path / "server.py").write_text(f"{head}pages = lambda cursor: {pages}\n{PAGED}")
    return mcp.StdioServerParameters(command=sys.executable, args=[str(tmp_path / "server.py")])


def test_all_pages_of_a_list_are_read(tmp_path: Path) -> None:
    pages = "[{'tools': tools('a', 'a-b'), 'nextCursor': '1'}, {'tools': [], 'nextCursor': '2'}, {'tools': tools('a_b', 'c')}][cursor]"
    with ToolCollection.from_mcp(paged(tmp_path, pages), trust_remote_code=True) as collection:
        tools = {item.name: item for item in collection.tools}
        assert list(tools) == ["a", "a_b", "a_b_", "c"]
        assert [item() for item in tools.values()] == ["a", "a-b", "a_b", "c"]


@pytest.mark.parametrize(
    ("pages", "why"),
    [
        ("{'tools': tools(str(cursor)), 'nextCursor': str(cursor + 1)}", "more than|no end"),
        ("{'tools': [], 'nextCursor': str(cursor + 1)}", "no end"),
        ("{'tools': [], 'nextCursor': str((cursor + 1) % 3)}", "no end"),
        ("{'tools': tools(*map(str, range(2000)))}", "more than 1000"),
    ],
)
def test_a_list_without_end_is_refused(tmp_path: Path, pages: str, why: str) -> None:
    with pytest.raises(AgentError, match=why):
        with ToolCollection.from_mcp(paged(tmp_path, pages), trust_remote_code=True):
            pass
    assert eventually(lambda: not [t for t in threading.enumerate() if t.name == "safeexec-mcp"])


@pytest.mark.parametrize("parameters", ["npx server", None, {"command": "npx"}], ids=str)
def test_what_names_no_server_is_told_what_does(parameters: Any) -> None:
    with pytest.raises(AgentError, match=r"StdioServerParameters or \{'url': …\}"):
        with ToolCollection.from_mcp(parameters):
            pass


def test_a_server_that_does_not_start_says_so() -> None:
    with pytest.raises(AgentError, match="cannot be used"):
        with ToolCollection.from_mcp(
            mcp.StdioServerParameters(command=sys.executable, args=["-c", "raise SystemExit(3)"]), timeout=10
        ):
            pass


def test_names_become_names_that_code_can_call() -> None:
    for name, expected in {
        "price-of": "price_of",
        "3d": "tool_3d",
        "class": "class_",
        "__import__": "tool___import__",
        "": "tool",
        "a.b c": "a_b_c",
    }.items():
        assert _identifier(name) == expected and expected.isidentifier()
