"""Programs in real sandboxes: what works unchanged, and that nothing else is reached."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from safeexec import DEFAULT_IMPORTS, Executor, Limits, Policy, Session
from safeexec.testing.base import eventually
from tests.egress.programs import ASYNC, MODULES, PAGE_TITLE, REFUSED, SYNC, SYNC_VALUE, UNPACK, libraries, run
from tests.egress.site import Seen, Site, drip, flood, mute, send

Start = Callable[..., Session]

IMPORTS = (*DEFAULT_IMPORTS, "urllib.request", "urllib.error", "http.client", "socket", "ssl", *MODULES)


@pytest.fixture(scope="module", params=["local", "wasm"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    imports = IMPORTS if request.param == "local" else "*"
    with Executor(request.param, policy=Policy(imports=imports)) as made:
        yield made


@pytest.fixture
def start(executor: Executor, site: Site) -> Iterator[Start]:
    """Begin a session that may reach the site, and what else is named."""
    sessions: list[Session] = []

    def begin(*network: str, libs: bool = False, credentials: Any = None, **limits: Any) -> Session:
        policy = executor.policy.replace(
            network=(f"site.test:{site.port}", f"127.0.0.1:{site.port}", *network),
            limits=Limits(**{"time": 30.0, **limits}),
            credentials=credentials or {},
            files={"libraries.zip": libraries()} if libs and executor.sandbox != "local" else {},
        )
        session = executor.session(policy=policy)
        sessions.append(session)
        if libs and executor.sandbox != "local":
            session.run(UNPACK).raise_for_error()
        return session

    yield begin
    for session in sessions:
        session.close()


@pytest.fixture
def with_libraries(start: Start) -> Session:
    return start(libs=True)


def test_libraries_work_unchanged(with_libraries: Session, site: Site) -> None:
    assert run(with_libraries, site, PAGE_TITLE) == "Alpha & Omega"
    assert run(with_libraries, site, ASYNC) == [200] * 20
    assert run(with_libraries, site, SYNC.replace('"HOST"', '"site.test", PORT')) == SYNC_VALUE
    # A later step finds the same program working: what a pool kept of the earlier one is not in its way.
    assert run(with_libraries, site, PAGE_TITLE + ASYNC) == [200] * 20


def test_libraries_over_tls(with_libraries: Session, make_site: Callable[..., Site], start: Start, trust: None) -> None:
    secure = make_site(secure="site")
    session = start(f"https://site.test:{secure.port}", f"https://127.0.0.1:{secure.port}", libs=True)
    assert run(session, secure, PAGE_TITLE.replace("http:", "https:")) == "Alpha & Omega"
    assert run(session, secure, ASYNC.replace("http:", "https:")) == [200] * 20
    code = (
        SYNC.replace("http:", "https:")
        .replace("HTTPConnection", "HTTPSConnection")
        .replace('"HOST"', '"site.test", PORT')
    )
    assert run(session, secure, code) == SYNC_VALUE


def test_a_certificate_that_is_not_accepted(make_site: Callable[..., Site], start: Start) -> None:
    secure = make_site(secure="site")
    session = start(f"https://site.test:{secure.port}", f"https://127.0.0.1:{secure.port}", libs=True)
    code = """
import httpx, requests, urllib.request
found = []
for get in (requests.get, httpx.get, urllib.request.urlopen, lambda url: requests.get(url, verify=False)):
    try:
        get("https://HOST/")
        found.append("reached")
    except Exception as error:
        found.append("certificate" in str(error).lower())
found
"""
    assert run(session, secure, code) == [True] * 4 and secure.seen == []


def test_the_key_is_not_in_the_sandbox(executor: Executor, start: Start, site: Site) -> None:
    session = start(credentials={f"http://site.test:{site.port}": {"Authorization": "Bearer open-sesame"}})
    assert run(session, site, "from urllib.request import urlopen\nurlopen('http://HOST/', timeout=20).status") == 200
    assert site.seen[-1].get("authorization") == ["Bearer open-sesame"]
    assert "sesame" not in repr(executor.policy) + repr(session.policy)


def test_nothing_else_is_reached(start: Start, site: Site) -> None:
    session = start()
    assert run(session, site, REFUSED) == []
    assert [seen.line.split()[1][:4] for seen in site.seen] == ["/to?"] * 3


def test_refusals_are_in_the_log_and_say_why(start: Start, site: Site) -> None:
    session = start()
    result = session.run(f"import urllib.request\nurllib.request.urlopen('http://evil.test:{site.port}/x')")
    assert result.error is not None and "not permitted" in result.error.message
    (entry,) = result.network
    assert (entry.host, entry.port, entry.refused, entry.status) == ("evil.test", site.port, True, None)
    assert session.run("1").network == ()


def test_large_bodies(start: Start, site: Site) -> None:
    session = start()
    code = """
import urllib.request
data = bytes(range(256)) * 8000
request = urllib.request.Request("http://HOST/echo", data=data, method="POST")
[urllib.request.urlopen(request, timeout=20).read() == data for _ in range(3)]
"""
    assert run(session, site, code) == [True] * 3
    assert site.seen[0].body == bytes(range(256)) * 8000


def test_a_time_out_of_the_programs_own(start: Start, site: Site) -> None:
    site.answers = {"/mute": mute, "/drip": drip}
    session = start()
    code = """
import socket, urllib.request
found = []
for path in ("mute", "drip"):
    try:
        urllib.request.urlopen("http://HOST/" + path, timeout=0.3).read(10**6) if path == "mute" else socket.create_connection(("site.test", PORT), 0.2).recv(1)
    except TimeoutError as error:
        found.append(path)
found
"""
    assert run(session, site, code) == ["mute", "drip"]


@pytest.mark.parametrize("answer", [mute, drip, flood], ids=["mute", "drip", "flood"])
def test_the_end_of_a_step_ends_its_connections(answer: Any, start: Start, site: Site) -> None:
    site.answers["/x"] = answer
    session = start(wall=1.0)
    result = session.run(
        f"import urllib.request\npage = urllib.request.urlopen('http://site.test:{site.port}/x')\nwhile page.read(1000): pass"
    )
    assert result.error is not None
    assert eventually(lambda: site.open == 0)
    assert result.network[0].error
    if not session.closed:
        assert run(session, site, "import urllib.request\nurllib.request.urlopen('http://HOST/').status") == 200


def test_an_interrupt_reaches_a_program_that_waits_for_a_server(start: Start, site: Site) -> None:
    site.answers["/mute"] = mute
    session = start()

    def interrupt() -> None:
        assert eventually(lambda: len(site.seen) == 1)
        session.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = session.run(f"import urllib.request\nurllib.request.urlopen('http://site.test:{site.port}/mute')")
    thread.join()
    assert result.error is not None and eventually(lambda: site.open == 0)
    assert run(session, site, "import urllib.request\nurllib.request.urlopen('http://HOST/').status") == 200


def test_connections_beside_tools_at_the_same_time(executor: Executor, site: Site) -> None:
    meet = threading.Barrier(3)

    def tool(n: int) -> int:
        meet.wait(20)
        return n

    def page(connection: Any, seen: Seen) -> bool:
        meet.wait(20)
        send(connection, b"met")
        return True

    site.answers["/meet"] = page
    policy = executor.policy.replace(
        network=(f"site.test:{site.port}", f"127.0.0.1:{site.port}"),
        limits=Limits(time=30),
        imports=executor.policy.imports,
    )
    code = """
import asyncio

async def get():
    reader, writer = await asyncio.open_connection("site.test", PORT)
    writer.write(b"GET /meet HTTP/1.1\\r\\nHost: site.test:PORT\\r\\nConnection: close\\r\\n\\r\\n")
    answer = await reader.read()
    writer.close()
    return answer[-3:]

async def main():
    return await asyncio.gather(tool.aio(1), get(), tool.aio(2))

asyncio.run(main())
"""
    if executor.sandbox == "local":  # streams are not among the reviewed names of asyncio there
        code = """
import concurrent.futures, urllib.request
with concurrent.futures.ThreadPoolExecutor(3) as pool:
    jobs = [pool.submit(tool, 1), pool.submit(lambda: urllib.request.urlopen("http://site.test:PORT/meet").read()), pool.submit(tool, 2)]
    found = [job.result() for job in jobs]
found
"""
    with executor.session({"tool": tool}, policy=policy) as session:
        assert run(session, site, code) == [1, b"met", 2]


def test_a_bomb_hurts_the_guest_alone(start: Start, site: Site) -> None:
    import gzip

    bomb = gzip.compress(gzip.compress(bytes(200_000_000)))
    site.answers["/bomb"] = lambda c, s: (send(c, bomb, extra="Content-Encoding: gzip\r\n"), True)[1]
    session = start(memory=64 * 2**20)
    code = f"import gzip, urllib.request\nlen(gzip.decompress(gzip.decompress(urllib.request.urlopen('http://site.test:{site.port}/bomb').read())))"
    result = session.run(code)
    assert result.error is not None and result.error.kind == "memory"
    assert result.network[0].received < 2 * len(bomb) + 1000


def test_a_branch_and_an_undone_step_go_on_with_the_network(executor: Executor, start: Start, site: Site) -> None:
    from safeexec import NotSupported

    session = start(time=1.0)
    code = "import urllib.request\nurllib.request.urlopen('http://HOST/').status"
    assert run(session, site, code) == 200
    try:
        branch = session.fork()
    except NotSupported:
        return
    with branch:
        assert run(branch, site, code) == run(session, site, code) == 200
    result = session.run(f"page = urllib.request.urlopen('http://site.test:{site.port}/')\nwhile True: pass")
    assert result.error is not None and result.rolled_back
    assert run(session, site, code) == 200


def test_limits_of_the_step_hold_in_it(start: Start, site: Site) -> None:
    session = start(requests=3)
    code = "import urllib.request\nn = 0\nwhile True:\n    n += urllib.request.urlopen('http://HOST/').status"
    result = session.run(code.replace("HOST", f"site.test:{site.port}"))
    assert result.error is not None and "Limits.requests" in result.error.message
    assert session.run("n").value == 600 and len(site.seen) == 3 and len(result.network) == 4


@pytest.mark.slow
def test_ten_thousand_requests_in_one_step(start: Start, site: Site) -> None:
    session = start(time=300.0)
    code = """
import http.client
done = 0
for n in range(100):
    connection = http.client.HTTPConnection("site.test", PORT)
    for m in range(100):
        connection.request("GET", "/")
        done += connection.getresponse().read().count(b"</html>")
    connection.close()
done
"""
    assert run(session, site, code) == 10_000 == len(site.seen)
    assert eventually(lambda: site.open == 0)
