"""Programs as people write them, for plain CPython; HOST stands for the site's address."""

from __future__ import annotations

import importlib.metadata
import io
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safeexec import Session
from tests.egress.site import Site

MODULES = ("requests", "urllib3", "idna", "certifi", "charset_normalizer", "bs4", "soupsieve", "typing_extensions", "httpx", "httpcore", "h11", "anyio", "sniffio")  # fmt: skip

PAGE_TITLE = """
import requests
from bs4 import BeautifulSoup

page = requests.get("http://HOST/", timeout=20)
page.raise_for_status()
soup = BeautifulSoup(page.text, "html.parser")
soup.title.string
"""

ASYNC = """
import asyncio
import httpx

async def main():
    async with httpx.AsyncClient(timeout=20) as client:
        answers = await asyncio.gather(*[client.get(f"http://HOST/{n}") for n in range(20)])
        return [answer.status_code for answer in answers]

asyncio.run(main())
"""

SYNC = """
import http.client
import urllib.request
import httpx
import urllib3

found = []
with urllib.request.urlopen("http://HOST/urlopen", timeout=20) as page:
    found.append((page.status, page.headers.get_content_type(), len(page.read())))
connection = http.client.HTTPConnection("HOST", timeout=20)
for n in range(3):
    connection.request("GET", f"/client/{n}")
    found.append(connection.getresponse().read()[:6])
connection.close()
pool = urllib3.PoolManager()
found += [pool.request("GET", f"http://HOST/pool/{n}").status for n in range(3)]
with httpx.Client(timeout=20) as client:
    found += [client.get(f"http://HOST/httpx/{n}").status_code for n in range(3)]
found.append(client.is_closed)
found
"""
SYNC_VALUE = [(200, "text/html", 76), b"<html>", b"<html>", b"<html>", 200, 200, 200, 200, 200, 200, True]


@cache
def libraries() -> bytes:
    """Those libraries as one archive: pure Python, as it is installed here."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in MODULES:
            spec = find_spec(name)
            assert spec is not None and spec.origin is not None, importlib.metadata.PackageNotFoundError(name)
            path = Path(spec.origin)
            if path.name != "__init__.py":
                archive.write(path, path.name)
                continue
            for file in sorted(path.parent.rglob("*")):
                if file.suffix in (".py", ".pem") and "__pycache__" not in file.parts:
                    archive.write(file, str(Path(name) / file.relative_to(path.parent)))
    return target.getvalue()


UNPACK = """
import sys, zipfile
zipfile.ZipFile("libraries.zip").extractall("/tmp/libraries")
sys.path.insert(0, "/tmp/libraries")
"""


def run(session: Session, site: Site, code: str) -> Any:
    result = session.run(code.replace("HOST", f"site.test:{site.port}").replace("PORT", str(site.port)))
    assert result.error is None, result.error.traceback or result.error
    return result.value


REFUSED = """
import urllib.request
found = []
for url in ("http://evil.test:PORT/", "http://127.0.0.2:PORT/", "http://localhost:PORT/", "http://2130706434:PORT/", "http://[::ffff:127.0.0.2]:PORT/",
            "http://169.254.169.254/", "http://site.test:1/", "http://site.test@evil.test:PORT/", "http://HOST/to?http://evil.test:PORT/",
            "http://HOST/to?http://127.0.0.2:PORT/", "http://HOST/to?http://169.254.169.254/latest/meta-data/"):
    try:
        urllib.request.urlopen(url, timeout=20)
        found.append(url)
    except OSError as error:
        pass
found
"""
