"""The title of a page, fetched with requests and read with Beautiful Soup inside the sandbox, which may reach that one host."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

from common import arguments, model

from safeexec import Limits, Policy
from safeexec_agent import CodeAgent

options = arguments(__doc__)


@contextlib.contextmanager
def address() -> Iterator[str]:
    """The page's address: on the web, or, without --online, on a server of this machine."""
    if options.online:
        yield "https://huggingface.co/blog"
        return

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html><head><title>Hugging Face &ndash; Blog</title></head><body><h1>Posts</h1></body></html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/blog"
        server.shutdown()


with address() as url:
    host = url.split("/")[2]
    policy = Policy(
        limits=Limits(time=30, wall=None, memory=512 * 2**20),
        network=(host,),
        # local uses what is installed beside it; the others have the packages put in.
        packages=() if options.sandbox == "local" else ("requests", "beautifulsoup4"),
    )
    with CodeAgent(
        tools=[],
        model=model(options, "page_title"),
        additional_authorized_imports=["requests", "bs4"],
        policy=policy,
        sandbox=options.sandbox,
    ) as agent:
        agent.run(f"Could you get me the title of the page at url '{url}'?", additional_args={"url": url})
