"""The title of a page, read with Beautiful Soup inside the sandbox. The page itself is fetched by a tool on the host."""

import urllib.request

from common import arguments, model

from safeexec import Limits, Policy
from safeexec_agent import CodeAgent, tool

options = arguments(__doc__)
PAGE = "<html><head><title>Hugging Face &ndash; Blog</title></head><body><h1>Posts</h1></body></html>"


@tool
def fetch(url: str) -> str:
    """
    Returns the HTML of the page at an address.

    Args:
        url: The address.
    """
    if not options.online:
        return PAGE
    if url != "https://huggingface.co/blog":
        raise ValueError("only the page of the task may be fetched")
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read(2_000_000), "utf-8", "replace")


with CodeAgent(
    tools=[fetch],
    model=model(options, "page_title"),
    additional_authorized_imports=["bs4"],
    # local uses what is installed beside it; the others have the package put in.
    policy=Policy(
        limits=Limits(time=30, wall=None, memory=512 * 2**20),
        packages=() if options.sandbox == "local" else ("beautifulsoup4",),
    ),
    sandbox=options.sandbox,
) as agent:
    agent.run("Could you get me the title of the page at url 'https://huggingface.co/blog'?")
