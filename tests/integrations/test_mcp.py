"""``safeexec mcp``, driven by the SDK's own client over both transports."""

from __future__ import annotations

import asyncio
import base64
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from safeexec.integrations._mcp_http import Guarded
from safeexec.integrations.mcp import Sessions, server

SAFEEXEC = [sys.executable, "-m", "safeexec", "mcp"]
Check = Callable[[Client], Awaitable[None]]


def run(check: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(check(), 90))


@asynccontextmanager
async def piped(*arguments: str) -> AsyncIterator[Client]:
    parameters = StdioServerParameters(command=SAFEEXEC[0], args=[*SAFEEXEC[1:], *arguments])
    async with Client(parameters) as client:
        yield client


@asynccontextmanager
async def served(*arguments: str) -> AsyncIterator[tuple[str, str]]:
    """A server over HTTP on a free port: its address and token."""
    process = await asyncio.create_subprocess_exec(
        *SAFEEXEC, "--transport", "http", "--port", "0", *arguments, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        url = (await process.stderr.readline()).decode().strip()
        token = (await process.stderr.readline()).decode().strip().removeprefix("token: ")
        yield url, token
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)


@asynccontextmanager
async def connected(url: str, token: str, mode: Any = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            yield client


def text(result: Any) -> str:
    return "\n".join(block.text for block in result.content if block.type == "text")


async def python(client: Client, code: str, **more: Any) -> str:
    return text(await client.call_tool("run_python", {"code": code, **more}))


@pytest.mark.parametrize("sandbox", ["wasm", "local"])
def test_state_lives_from_call_to_call_over_a_pipe(sandbox: str) -> None:
    async def check() -> None:
        async with piped("--sandbox", sandbox) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {"run_python", "reset", "list_files", "read_file", "write_file"}
            assert await python(client, "x = 41") == "(no output)"
            assert await python(client, "x + 1") == "value: 42"
            failed = await client.call_tool("run_python", {"code": "def f():\n    return 1 / 0\nf()"})
            assert failed.is_error and "line 2, in f" in text(failed) and "ZeroDivisionError" in text(failed)
            assert text(await client.call_tool("reset", {})) == "done"
            assert "NameError" in await python(client, "x")

    run(check)


def test_output_arrives_as_progress_while_the_code_runs() -> None:
    async def check() -> None:
        seen: list[str] = []
        first = asyncio.Event()

        async def progress(_: float, __: float | None, message: str | None) -> None:
            seen.append(message or "")
            first.set()

        async with piped("--sandbox", "local") as client:
            code = "print('first', flush=True)\nimport time\ntime.sleep(1.0)\nprint('\\x1b[31msecond')"
            call = asyncio.ensure_future(client.call_tool("run_python", {"code": code}, progress_callback=progress))
            await first.wait()
            assert not call.done()
            result = await call
        assert "first" in seen[0]
        assert "\x1b" not in text(result) + "".join(seen) and "second" in text(result)

    run(check)


def test_files_go_in_and_out() -> None:
    async def check() -> None:
        async with piped("--sandbox", "wasm") as client:
            await client.call_tool("write_file", {"name": "in.txt", "content": "3 4"})
            code = "a, b = open('in.txt').read().split()\nopen('out.txt', 'w').write(str(int(a) * int(b)))\nopen('raw.bin', 'wb').write(b'\\xff\\x00')"
            assert "out.txt (2 bytes)" in await python(client, code)
            listed = text(await client.call_tool("list_files", {}))
            assert {line.split("\t")[0] for line in listed.splitlines()} == {"in.txt", "out.txt", "raw.bin"}
            assert text(await client.call_tool("read_file", {"name": "out.txt"})) == "12"
            (raw,) = (await client.call_tool("read_file", {"name": "raw.bin"})).content
            assert base64.b64decode(raw.resource.blob) == b"\xff\x00"
            for name in ("../up", "/etc/passwd", "nowhere"):
                refused = await client.call_tool("read_file", {"name": name})
                assert refused.is_error and "root:" not in text(refused)
            assert (await client.call_tool("write_file", {"name": "b", "content": "!", "encoding": "base64"})).is_error

    run(check)


def test_file_names_and_text_of_the_guest_are_neutralised() -> None:
    async def check() -> None:
        async with piped("--sandbox", "wasm") as client:
            code = "open('a\\x1b]0;x\\x07b', 'w').write('\\x1b[2Jgone')\nraise ValueError('\\u202eevil\\x1b[1m')"
            shown = await python(client, code)
            listed = text(await client.call_tool("list_files", {}))
        assert not set(shown + listed) & {"\x1b", "\x07", "\u202e"}
        assert "evil" in shown and "\\x1b" in listed

    run(check)


def test_a_chart_comes_back_as_a_picture() -> None:
    async def check() -> None:
        async with piped("--sandbox", "local", "--allow-import", "matplotlib.*", "--timeout", "60") as client:
            code = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.savefig('chart.png')\nplt.show()"
            result = await client.call_tool("run_python", {"code": code})
            pictures = [block for block in result.content if block.type == "image"]
            assert pictures and base64.b64decode(pictures[0].data).startswith(b"\x89PNG")
            (saved,) = (await client.call_tool("read_file", {"name": "chart.png"})).content
            assert saved.type == "image" and saved.mime_type == "image/png"

    run(check)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_connections_over_http_have_a_session_each(mode: str) -> None:
    async def check() -> None:
        async with served("--sandbox", "wasm") as (url, token):
            async with connected(url, token, mode) as one, connected(url, token, mode) as two:
                first = await python(one, "x = 'mine'")
                handle = {"session": first.rpartition("session: ")[2]} if "session: " in first else {}
                assert "NameError" in await python(two, "x")
                assert "value: 'mine'" in await python(one, "x", **handle)
                own = handle.get("session", "0" * 96)
                for name in ("handle", own[:-1] + ("0" if own[-1] != "0" else "1"), own[32:], own[:32]):
                    guessed = await two.call_tool("run_python", {"code": "x", "session": name})
                    assert guessed.is_error and "mine" not in text(guessed)

    run(check)


def test_the_name_of_a_connection_is_not_the_clients_to_choose() -> None:
    """Two that chose the same one, or one that knows another's, would share a session."""

    async def check() -> None:
        async with served("--sandbox", "local") as (url, token):
            seen: list[str] = []

            async def note(response: Any) -> None:
                seen.append(response.headers.get("mcp-session-id", ""))

            headers = {"Authorization": f"Bearer {token}"}
            async with httpx2.AsyncClient(headers=headers, event_hooks={"response": [note]}, timeout=60) as http:
                async with Client(streamable_http_client(url, http_client=http), mode="legacy") as victim:
                    assert await python(victim, "x = 'mine'") == "(no output)"
                    [name] = {one for one in seen if one}
                    for chosen in (name, "a-name-of-mine"):
                        forged = {**headers, "Mcp-Session-Id": chosen}
                        async with httpx2.AsyncClient(headers=forged, timeout=60) as other:
                            async with Client(streamable_http_client(url, http_client=other), mode="auto") as thief:
                                said = await python(thief, "try:\n    x\nexcept NameError:\n    x = 'theirs'\nx")
                                assert "session: " in said and "mine" not in said
                    assert await python(victim, "x") == "value: 'mine'"

    run(check)


def test_without_the_token_nothing_is_served() -> None:
    async def check() -> None:
        async with served("--sandbox", "local") as (url, token), httpx2.AsyncClient() as http:
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": token}):
                assert (await http.post(url, json=body, headers=headers)).status_code == 401
            with pytest.raises(Exception):  # noqa: B017  whichever the SDK wraps the 401 in
                async with connected(url, ""):
                    pass
            async with connected(url, token) as client:
                assert "value: 2" in await python(client, "1 + 1")

    run(check)


def test_a_step_without_end_is_reported_and_the_server_goes_on() -> None:
    async def check() -> None:
        async with piped("--sandbox", "wasm", "--timeout", "0.5") as client:
            stopped = await client.call_tool("run_python", {"code": "while True: pass"})
            assert stopped.is_error and "TimeoutError" in text(stopped)
            assert await python(client, "1 + 1") == "value: 2"

    run(check)


def test_a_cancelled_call_ends_its_step() -> None:
    async def check() -> None:
        async with piped("--sandbox", "local", "--timeout", "60") as client:
            started = asyncio.Event()

            async def progress(*_: Any) -> None:
                started.set()

            code = "print('on', flush=True)\nwhile True: pass"
            call = asyncio.ensure_future(client.call_tool("run_python", {"code": code}, progress_callback=progress))
            await started.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert "value: 3" in await python(client, "1 + 2")

    run(check)


def test_it_listens_on_this_machine_alone() -> None:
    async def check() -> None:
        async with served("--sandbox", "local") as (url, _):
            assert url.startswith("http://127.0.0.1:")

    run(check)


def test_calls_in_parallel_take_turns() -> None:
    async def check() -> None:
        async with piped("--sandbox", "local") as client:
            await python(client, "seen = 0")
            await asyncio.gather(*[python(client, f"seen += {n}") for n in (1, 10, 100)])
            assert await python(client, "seen") == "value: 111"

    run(check)


def test_a_connection_that_ends_takes_its_session_with_it() -> None:
    """And nobody else's: by effect, on sessions in a server of this process."""
    dropped = []

    class Noted(Sessions):
        def drop(self, key: Any = None) -> None:
            dropped.append(key)
            super().drop(key)

    async def check() -> None:
        sessions = Noted("local")
        listener = socket.create_server(("127.0.0.1", 0))
        app = Guarded(server(sessions).streamable_http_app(), "secret", sessions)
        serving = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        task = asyncio.ensure_future(serving.serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        try:
            async with connected(url, "secret", "legacy") as stays:
                await python(stays, "x = 'stays'")
                async with connected(url, "secret", "legacy") as goes:
                    await python(goes, "x = 'goes'")
                assert len(dropped) == 1
                async with httpx2.AsyncClient() as http:
                    for headers in (
                        {},
                        {"Authorization": "Bearer secret"},
                        {"Authorization": "Bearer secret", "Mcp-Session-Id": "none"},
                    ):
                        assert (await http.delete(url, headers=headers)).status_code >= 400
                assert len(dropped) == 1 and dropped[0].startswith("connection ")
                assert await python(stays, "x") == "value: 'stays'"
        finally:
            serving.should_exit = True
            await task
            sessions.close()

    run(check)
