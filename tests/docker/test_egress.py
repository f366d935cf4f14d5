"""The network a policy permits, in containers: the same programs as in tests/egress, and child processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from safeexec import Executor, Limits, Policy
from tests.egress.conftest import make_site, names, site, trust
from tests.egress.programs import ASYNC, PAGE_TITLE, REFUSED, SYNC, SYNC_VALUE, UNPACK, libraries, run
from tests.egress.site import Site

__all__ = ["make_site", "names", "site", "trust"]


@pytest.fixture(scope="module")
def executor(docker_url: str) -> Iterator[Executor]:
    with Executor("docker", pool=1) as made:
        yield made


@pytest.fixture
def policy(site: Site) -> Policy:
    return Policy(
        network=(f"site.test:{site.port}", f"127.0.0.1:{site.port}"),
        credentials={f"http://site.test:{site.port}": {"Authorization": "Bearer open-sesame"}},
        files={"libraries.zip": libraries()},
        limits=Limits(time=60),
    )


def test_libraries_work_unchanged_and_reach_nothing_else(executor: Executor, policy: Policy, site: Site) -> None:
    with executor.session(policy=policy) as session:
        session.run(UNPACK).raise_for_error()
        assert run(session, site, PAGE_TITLE) == "Alpha & Omega"
        assert run(session, site, ASYNC) == [200] * 20
        assert run(session, site, SYNC.replace('"HOST"', '"site.test", PORT')) == SYNC_VALUE
        assert {seen.get("authorization")[0] for seen in site.seen} == {"Bearer open-sesame"}
        site.seen.clear()
        assert run(session, site, REFUSED) == [] and len(site.seen) == 3


def test_containers_still_have_no_network_of_their_own(executor: Executor, policy: Policy, site: Site) -> None:
    code = "import _socket\n[_socket.socket().connect_ex((host, PORT)) for host in ('127.0.0.1', '10.0.0.1')]"
    with executor.session(policy=policy) as session:
        assert 0 not in run(session, site, code)
    assert executor.isolation["network_namespace"].active
    assert site.connections == 0


def test_child_processes_find_the_proxy(executor: Executor, policy: Policy, site: Site) -> None:
    code = """
import multiprocessing, os, subprocess, sys, urllib.request
program = "import urllib.request; print(urllib.request.urlopen('http://HOST/child').status)"
done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
evil = subprocess.run([sys.executable, "-c", program.replace("site.test", "evil.test")], capture_output=True, text=True)
pid = os.fork()
if pid == 0:
    ok = urllib.request.urlopen("http://HOST/fork").status == 200
    os._exit(0 if ok else 1)
done.stdout, "403" in evil.stderr, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "http_proxy" in os.environ
"""
    with executor.session(policy=policy) as session:
        assert run(session, site, code) == ("200\n", True, 0, False)
    assert [seen.line.split()[1] for seen in site.seen] == ["/child", "/fork"]


def test_tls_of_a_child_process_is_passed_through(
    executor: Executor, policy: Policy, site: Site, make_site: Callable[..., Site]
) -> None:
    secure = make_site(secure="site")
    allowed = policy.replace(
        network=(*policy.network, f"https://site.test:{secure.port}", f"https://127.0.0.1:{secure.port}")
    )
    from tests.egress.site import TLS

    allowed = allowed.replace(files={"ca.pem": (TLS / "ca.pem").read_bytes()})
    code = """
import subprocess, sys
program = '''
import ssl, urllib.request
context = ssl.create_default_context(cafile="ca.pem")
print(urllib.request.urlopen("https://HOST/", context=context).status)
'''
done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
done.stdout or done.stderr
"""
    with executor.session(policy=allowed) as session:
        result = session.run(code.replace("HOST", f"site.test:{secure.port}"))
        assert result.value == "200\n", result.value
    (entry,) = result.network
    assert (entry.method, entry.status, entry.refused) == ("CONNECT", None, False) and entry.received > 500
    assert len(secure.seen) == 1 and secure.seen[0].get("authorization") == []


def test_a_server_of_the_containers_own_is_reached_directly(executor: Executor, policy: Policy, site: Site) -> None:
    code = """
import http.server, threading, urllib.request
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
server.RequestHandlerClass.log_message = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
found = [urllib.request.urlopen(f"http://{host}:{server.server_port}/").status for host in ("127.0.0.1", "localhost")]
server.shutdown()
found
"""
    with executor.session(policy=policy) as session:
        result = session.run(code)
        assert result.value == [200, 200], result.error
        assert result.network == ()
