"""The tools that come with the agent. They run on the host: keys stay here, and the addresses they are given come from the model."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

from safeexec.egress.addresses import is_public
from safeexec_agent.errors import AgentError, NotInstalled
from safeexec_agent.tools import Tool

TAVILY = "https://api.tavily.com/search"


class FinalAnswerTool(Tool):
    """The way out of the loop. A subclass may change the answer on its way."""

    name = "final_answer"
    description = "Gives the answer to the task and ends it."
    inputs = {"answer": {"type": "any", "description": "The answer: text, a number, a list, a dict."}}  # noqa: RUF012
    output_type = "any"

    def forward(self, answer: Any) -> Any:
        return answer


class UserInputTool(Tool):
    """Asks whoever sits at the terminal."""

    name = "user_input"
    description = "Asks the user a question and returns the reply."
    inputs = {"question": {"type": "string", "description": "The question."}}  # noqa: RUF012
    output_type = "string"
    tool_time = None  # people take their time

    def forward(self, question: str) -> str:
        from safeexec.text import neutralise

        return input(f"{neutralise(question)} => ")


class DuckDuckGoSearchTool(Tool):
    """Web search through the ddgs library; needs no key."""

    name = "web_search"
    description = "Searches the web and returns the best results: title, address and a few lines of each, as text."
    inputs = {"query": {"type": "string", "description": "What to search for."}}  # noqa: RUF012
    output_type = "string"

    def __init__(self, max_results: int = 10, **options: Any) -> None:
        super().__init__()
        self.max_results, self._options = max_results, options

    def forward(self, query: str) -> str:
        try:
            from ddgs import DDGS
        except ImportError:
            raise NotInstalled("web_search needs ddgs: pip install 'safeexec[agent]'") from None
        found = DDGS(**self._options).text(query, max_results=self.max_results)
        return listed((r.get("title", ""), r.get("href", ""), r.get("body", "")) for r in found)


class TavilySearchTool(Tool):
    """Web search by Tavily; the key is `api_key` or ``TAVILY_API_KEY`` and never leaves the host."""

    name = "web_search"
    description = "Searches the web and returns the best results: title, address and content of each, as text."
    inputs = {"query": {"type": "string", "description": "What to search for."}}  # noqa: RUF012
    output_type = "string"

    def __init__(self, api_key: str | None = None, max_results: int = 5, url: str = TAVILY) -> None:
        super().__init__()
        self.max_results, self._url = max_results, url
        self._key = api_key or os.environ.get("TAVILY_API_KEY", "")
        if not self._key:
            raise AgentError("Tavily needs a key: set TAVILY_API_KEY, or give api_key")

    def forward(self, query: str) -> str:
        import httpx

        try:
            body = {"query": query, "max_results": self.max_results}
            answer = httpx.post(self._url, json=body, headers={"Authorization": f"Bearer {self._key}"}, timeout=30)
            answer.raise_for_status()
            found = [(r.get("title", ""), r.get("url", ""), r.get("content", "")) for r in answer.json()["results"]]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            # Not the error's own text: it may quote the request.
            raise RuntimeError(f"the search failed: {type(error).__name__}") from None
        return listed(found)


def listed(results: Iterable[tuple[str, str, str]]) -> str:
    """Search results as markdown."""
    rows = [f"[{title}]({address})\n{body}" for title, address, body in results]
    if not rows:
        raise ValueError("nothing was found; try a shorter or less exact query")
    return "## Search results\n\n" + "\n\n".join(rows)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host."""
    return [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]  # type: ignore[misc]


def public(address: str) -> bool:
    """Whether an address is one of the open internet, not of this machine or its networks."""
    return is_public(ipaddress.ip_address(address.partition("%")[0]))


class VisitWebpageTool(Tool):
    """Fetches a page for the model. Private addresses are refused, for each redirect anew, and the address that was checked is the one connected to."""

    name = "visit_webpage"
    description = "Fetches the web page at an address and returns its content as markdown."
    inputs = {"url": {"type": "string", "description": "The address, beginning with http:// or https://."}}  # noqa: RUF012
    output_type = "string"

    def __init__(
        self,
        max_output_length: int = 40_000,
        *,
        timeout: float = 20.0,
        max_bytes: int = 5_000_000,
        allow_private: bool = False,
        resolver: Callable[[str, int], list[str]] = resolve,
    ) -> None:
        super().__init__()
        self.max_output_length, self._timeout, self._max_bytes = max_output_length, timeout, max_bytes
        self._private, self._resolve = allow_private, resolver

    def forward(self, url: str) -> str:
        from safeexec_agent.pages import markdown

        text, kind = self.fetch(url)
        if "html" in kind:
            text = markdown(text, self.max_output_length + 1, self._timeout)
        if len(text) > self.max_output_length:
            text = text[: self.max_output_length] + f"\n[cut after {self.max_output_length} characters]"
        return text

    def fetch(self, url: str) -> tuple[str, str]:
        """The page's text and its media type. Raises ValueError, RuntimeError or TimeoutError with what the model may know."""
        import httpx

        from safeexec_agent.pages import unpacked

        until = time.monotonic() + self._timeout
        headers = {
            "User-Agent": "Mozilla/5.0 (compatible; safeexec-agent)",
            "Accept": "text/html, text/*;q=0.9, */*;q=0.5",
            "Accept-Encoding": "gzip",
        }
        try:
            # trust_env: a proxy of the environment would resolve names itself, past the check.
            with (
                httpx.Client(transport=self._transport(until), timeout=self._timeout, follow_redirects=True, max_redirects=5,
                             trust_env=False, headers=headers) as client,
                client.stream("GET", url) as answer,
            ):  # fmt: skip
                if answer.status_code >= 400:
                    raise RuntimeError(f"the server answered {answer.status_code}")
                encoding = answer.headers.get("content-encoding", "").strip().lower()
                data = unpacked(answer.iter_raw(65536), encoding, self._max_bytes)
                kind = answer.headers.get("content-type", "text/html").lower()
                if not kind.startswith(("text/", "application/json", "application/xml", "application/xhtml")):
                    raise ValueError(f"this is no page but {kind.partition(';')[0]:.60}")
                return data.decode(answer.charset_encoding or "utf-8", "replace"), kind
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ValueError(f"not an address that can be fetched: {error}") from None
        except httpx.HTTPError as error:
            if isinstance(error, httpx.TimeoutException) and time.monotonic() >= until:
                raise TimeoutError(f"the page took longer than {self._timeout:g} s") from None
            raise RuntimeError(f"the page cannot be fetched: {type(error).__name__}: {error}"[:500]) from None
        except LookupError:
            return data.decode("utf-8", "replace"), kind

    def _transport(self, until: float) -> Any:
        import httpcore
        import httpx

        from safeexec_agent.pages import Timed

        tool = self

        class Checked(httpcore.SyncBackend):
            """Resolves, checks every address, connects to the one that was checked: a name that answers differently a second time gains nothing."""

            def connect_tcp(
                self, host: Any, port: Any, timeout: Any = None, local_address: Any = None, socket_options: Any = None
            ) -> Any:
                try:
                    found = tool._resolve(host, port)
                except OSError as error:
                    raise httpcore.ConnectError(f"the host {host} is not known: {error.strerror}") from None
                if not found or not (tool._private or all(map(public, found))):
                    raise httpcore.ConnectError(f"{host} is not an address of the open internet; refused")
                left = max(0.001, until - time.monotonic())
                left = left if timeout is None else min(left, timeout)
                return Timed(super().connect_tcp(found[0], port, left, local_address, socket_options), until)

        transport = httpx.HTTPTransport(trust_env=False)
        transport._pool = httpcore.ConnectionPool(ssl_context=ssl.create_default_context(), network_backend=Checked())
        return transport
