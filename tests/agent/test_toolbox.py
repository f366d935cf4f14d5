"""The tools that come with the agent."""

from __future__ import annotations

import gzip
import itertools
import sys
import threading
import time
import types
from typing import Any

import pytest

from safeexec_agent import AgentError, DuckDuckGoSearchTool, TavilySearchTool, UserInputTool, VisitWebpageTool
from safeexec_agent.toolbox import public
from tests.agent.conftest import Make, code
from tests.agent.loopback import Server, body, serving

HTML = {"kind": "text/html; charset=utf-8"}


def visit(server: Server, **options: Any) -> Any:
    """A tool for which names lead to loopback, which is allowed."""
    return VisitWebpageTool(allow_private=True, resolver=lambda host, port: ["127.0.0.1"], **{"timeout": 5, **options})


def test_a_page_becomes_markdown(make: Make) -> None:
    page = "<html><head><title>T</title></head><body><h1>Über</h1><p>One <b>two</b></p>\n\n\n\n<a href='/x'>link</a></body></html>"
    with serving(body(page, **HTML)) as server:
        agent = make(
            [code(f"final_answer(visit_webpage(url='http://example.test:{server.port}/page?q=1'))")], [visit(server)]
        )
        text = agent.run("Read.")
        assert "Über\n====" in text or "# Über" in text
        assert "One **two**" in text and "[link](/x)" in text and "\n\n\n" not in text
        assert server.requests[0][1] == "/page?q=1" and server.requests[0][2]["host"] == f"example.test:{server.port}"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0",
     "fc00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "192.0.2.1"],
)  # fmt: skip
def test_addresses_that_are_not_the_internet(address: str) -> None:
    assert not public(address)


def test_addresses_that_are() -> None:
    assert public("93.184.216.34") and public("2606:2800:220:1::1") and public("::ffff:8.8.8.8")


def test_a_name_that_leads_inside_is_refused_also_when_it_changes_its_mind() -> None:
    answers = [["93.184.216.34", "127.0.0.1"], ["127.0.0.1"], [], ["::1"]]
    with serving(body("inside", **HTML)) as server:
        for answer in answers:
            asked: list[str] = []

            def resolver(host: str, port: int, answer: list[str] = answer, asked: list[str] = asked) -> list[str]:
                asked.append(host)
                return answer if len(asked) == 1 else ["127.0.0.1"]

            with pytest.raises(RuntimeError, match="not an address of the open internet"):
                VisitWebpageTool(resolver=resolver, timeout=5)(url=f"http://sly.test:{server.port}/")
            assert asked == ["sly.test"], "the address that was checked must be the one that is used"
        assert server.requests == []


def test_redirects_are_checked_again() -> None:
    with serving(body("inside", **HTML)) as inside:
        with serving(body("", 302, location=f"http://127.0.0.2:{inside.port}/")) as outside:

            class Tool(VisitWebpageTool):
                pass

            tool = Tool(
                timeout=5,
                allow_private=False,
                resolver=lambda host, port: ["127.0.0.1"] if host == "ok.test" else [host],
            )
            import safeexec_agent.toolbox as toolbox

            allowed, toolbox.public = toolbox.public, lambda address: address == "127.0.0.1"  # type: ignore[assignment]
            try:
                with pytest.raises(RuntimeError, match="not an address of the open internet"):
                    tool(url=f"http://ok.test:{outside.port}/")
            finally:
                toolbox.public = allowed
            assert len(outside.requests) == 1 and inside.requests == []


def test_caps_on_size_time_redirects_and_kind() -> None:
    bomb = gzip.compress(b"a" * 50_000_000)
    with serving(body(bomb, **HTML, content_encoding="gzip")) as server:
        assert len(visit(server, max_bytes=100_000, max_output_length=10**9)(url=server.url)) < 200_000
    with serving(body("x" * 100_000, kind="text/plain")) as server:
        text = visit(server)(url=server.url)
        assert len(text) < 41_000 and text.endswith("[cut after 40000 characters]")

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/html")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        while not server.stop.wait(0.05):
            handler.wfile.write(b"x" * 70_000)

    with serving(drip) as server:
        with pytest.raises(TimeoutError):
            visit(server, timeout=0.4, max_bytes=10**10)(url=server.url)
    with serving(lambda handler: body("", 302, location="/again")(handler)) as server:
        with pytest.raises(RuntimeError, match="TooManyRedirects"):
            visit(server)(url=server.url)
        assert len(server.requests) == 6
    for answer, message in (
        (body(b"\0", kind="image/png"), "no page but image/png"),
        (body("gone", 404), "404"),
        (body("x", 302, location="file:///etc/passwd"), "file|protocol|fetched"),
    ):
        with serving(answer) as server:
            with pytest.raises((RuntimeError, ValueError), match=message):
                visit(server)(url=server.url)
    with serving(body("é".encode("latin-1"), kind="text/plain; charset=no-such-charset")) as server:
        assert visit(server)(url=server.url) == "\ufffd"


def test_a_page_that_unpacks_twice_is_not_unpacked() -> None:
    """A server says how often; 266 bytes became sixty megabytes, and as many again for each step on the way."""
    bomb = gzip.compress(gzip.compress(b"a" * 10_000_000))
    with serving(body(bomb, **HTML, content_encoding="gzip, gzip")) as server:
        with pytest.raises(RuntimeError, match="gzip, gzip, which was not asked for"):
            visit(server)(url=server.url)
        assert server.requests[0][2]["accept-encoding"] == "gzip"
    with serving(body(b"no gzip", **HTML, content_encoding="gzip")) as server:
        with pytest.raises(RuntimeError, match="damaged"):
            visit(server)(url=server.url)


def test_unpacking_holds_no_more_than_the_bound() -> None:
    import tracemalloc

    from safeexec_agent.pages import unpacked

    bomb = gzip.compress(b"a" * 20_000_000)
    tracemalloc.start()
    try:
        assert unpacked([bomb], "gzip", 100_000) == b"a" * 100_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert unpacked([b"ab", b"cd"], "", 3) == b"abc" and unpacked([], "gzip", 3) == b""


def test_a_head_that_never_ends_is_given_up_in_time() -> None:
    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(1000):
            handler.wfile.write(b"X-%d: y\r\n" % number)
            if server.stop.wait(0.05):
                return

    with serving(drip) as server:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="took longer than"):
            visit(server, timeout=0.4)(url=server.url)
        assert time.monotonic() - began < 5


def test_a_page_made_to_keep_the_reader_busy_ends_and_stops_nobody_else() -> None:
    """Of half a million spaces markdownify's patterns have for hours, and hold the interpreter meanwhile."""
    with serving(body("<p>a" + " " * 500_000 + "b</p>", **HTML)) as server:
        ticks: list[float] = []
        over = threading.Event()

        def tick() -> None:
            while not over.wait(0.05):
                ticks.append(time.monotonic())

        clock = threading.Thread(target=tick)
        clock.start()
        try:
            with pytest.raises(RuntimeError, match="cannot be made into text within 1 s"):
                visit(server, timeout=1)(url=server.url)
        finally:
            over.set()
            clock.join()
        assert max(after - before for before, after in itertools.pairwise(ticks)) < 0.9


def test_a_page_that_is_nested_too_deep_is_reported() -> None:
    with serving(body("<div>" * 20_000, **HTML)) as server:
        with pytest.raises(RuntimeError, match=r"cannot be made into text: .*Recursion"):
            visit(server)(url=server.url)


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(body("proxy", **HTML)) as proxy, serving(body("page", **HTML)) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert visit(server)(url=server.url) == "page" and proxy.requests == []


def test_tavily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    with pytest.raises(AgentError, match="TAVILY_API_KEY"):
        TavilySearchTool()
    monkeypatch.setenv("TAVILY_API_KEY", "tvly-canary")
    with serving(
        body({"results": [{"title": "A", "url": "u", "content": "c"}]}), body({"results": []}), body("tvly-canary", 401)
    ) as server:
        tool = TavilySearchTool(url=server.url)
        assert tool("x") == "## Search results\n\n[A](u)\nc"
        assert server.requests[0][2]["authorization"] == "Bearer tvly-canary" and server.bodies()[0]["query"] == "x"
        with pytest.raises(ValueError, match="nothing was found"):
            tool("x")
        with pytest.raises(RuntimeError, match="HTTPStatusError") as caught:
            tool("x")
        assert "tvly" not in str(caught.value)


def test_duckduckgo_through_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class DDGS:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def text(self, query: str, max_results: int) -> list[dict[str, str]]:
            asked.append((query, max_results))
            return [{"title": "T", "href": "h", "body": "b"}]

    monkeypatch.setitem(sys.modules, "ddgs", types.SimpleNamespace(DDGS=DDGS))
    assert DuckDuckGoSearchTool(max_results=3, timeout=9)(query="q") == "## Search results\n\n[T](h)\nb"
    assert asked == [{"timeout": 9}, ("q", 3)]
    monkeypatch.setitem(sys.modules, "ddgs", None)
    with pytest.raises(AgentError, match="pip install"):
        DuckDuckGoSearchTool()(query="q")


def test_the_real_library_has_what_the_search_tool_calls() -> None:
    import inspect

    from ddgs import DDGS

    assert "max_results" in inspect.signature(DDGS.text).parameters or any(
        p.kind is p.VAR_KEYWORD for p in inspect.signature(DDGS.text).parameters.values()
    )


def test_user_input_shows_the_question_harmlessly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or "blue")
    agent = make([code("final_answer(user_input('\\x1b[2JColour?'))")], [UserInputTool()])
    assert agent.run("Ask.") == "blue"
    assert asked == ["\\x1b[2JColour? => "]
