"""``--allow-net``."""

from __future__ import annotations

import json

import pytest

from safeexec.cli import main
from tests.egress.site import Site

CODE = "import urllib.request\nprint(urllib.request.urlopen('http://127.0.0.1:{}/').read()[:6])"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    return main.main([*arguments]), capsys.readouterr().out


def test_hosts_are_named_one_by_one(capsys: pytest.CaptureFixture[str], site: Site) -> None:
    base = ("run", "--config", "none", "--sandbox", "local", "--allow-import", "urllib.request")
    code, out = run(
        capsys, *base, "--allow-net", "api.test", "--allow-net", f"127.0.0.1:{site.port}", "-c", CODE.format(site.port)
    )
    assert (code, out) == (0, "b'<html>'\n")
    code, out = run(capsys, *base, "--json", "--allow-net", "127.0.0.1:1", "-c", CODE.format(site.port))
    assert code == 1
    (entry,) = json.loads(out)["network"]
    assert entry["refused"] and entry["host"] == "127.0.0.1" and "not permitted" in entry["error"]
    assert run(capsys, *base, "-c", CODE.format(site.port))[0] == 1 and len(site.seen) == 1


def test_what_is_no_host_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "run", "--config", "none", "--sandbox", "local", "--allow-net", "http://a/b", "-c", "1")[0] == 2
