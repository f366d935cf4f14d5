"""Wheels from the index, of every kind: C, Cython, Rust, C++ and mypyc under PEP 783, and pure ones with their dependencies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from safeexec import Executor, Policy, Result
from safeexec_backends.wasm import setup
from safeexec_backends.wasm.image.pins import PLATFORM
from safeexec_backends.wasm.packages import pip, prepare
from safeexec_backends.wasm.packages.resolve import LOCK, URL

from .archives import make_wheel
from .test_resolving import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(code: str, *packages: str) -> Result:
    with Executor("wasm", policy=Policy(packages=packages, imports="*"), workers=0) as executor:
        return executor.run(code)


def test_rust(own_cache: Path) -> None:
    code = """
import cbor2, jiter, pydantic, pydantic_core
class Item(pydantic.BaseModel):
    name: str
    price: float = pydantic.Field(gt=0)
    tags: list[str] = []
def refused(**fields):
    try:
        Item(**fields)
    except pydantic.ValidationError as error:
        return [(e["loc"], e["type"]) for e in error.errors()]
try:
    jiter.from_json(b'{"a": ')
except ValueError as error:
    broken = str(error)
(Item(name="x", price="2.5").model_dump(), refused(name=1, price=-1), Item.model_validate_json('{"name": "y", "price": 1}').price,
 cbor2.loads(cbor2.dumps({"k": [1, 2.5, None]})), jiter.from_json(b'{"z": [1.5, null]}'), "EOF" in broken, pydantic_core.to_json({"a": 1}))
"""
    result = run(code, "pydantic", "cbor2", "jiter")
    assert result.value == (
        {"name": "x", "price": 2.5, "tags": []},
        [(("name",), "string_type"), (("price",), "greater_than")],
        1.0,
        {"k": [1, 2.5, None]},
        {"z": [1.5, None]},
        True,
        b'{"a":1}',
    ), result.error


def test_cpp(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # contourpy wants numpy, which has no such wheel on the index: in its place stands a name, and its own code in C++ is called.
    make_wheel(tmp_path, "numpy", {"numpy/__init__.py": "__version__ = '2.0'\n"}, version="2.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    code = """
import glob, importlib.machinery as machinery, importlib.util as util
(path,) = glob.glob("/lib/site-packages/contourpy/_contourpy*.so")
loader = machinery.ExtensionFileLoader("contourpy._contourpy", path)
module = util.module_from_spec(util.spec_from_loader("contourpy._contourpy", loader))
loader.exec_module(module)
caught = []
for attempt in (lambda: module.FillType("x"), lambda: module.SerialContourGenerator(1, 2, 3), lambda: module.LineType()):
    try:
        attempt()
    except TypeError as error:  # a C++ exception, thrown and caught inside the library
        caught.append(type(error).__name__)
module.FillType(201).name, module.LineType.Separate.value, module.max_threads(), caught
"""
    result = run(code, "contourpy")
    assert result.value == ("OuterCode", 101, 1, ["TypeError"] * 3), result.error


def test_pure_wheels_of_the_web(own_cache: Path) -> None:
    code = """
import bs4, requests, httpx, charset_normalizer, sys
soup = bs4.BeautifulSoup("<p class=a>Hello <b>world</b></p>", "html.parser")
prepared = requests.Request("GET", "http://example.org/", params={"q": "ü"}).prepare()
best = charset_normalizer.from_bytes("Grüße aus Köln, schöne Straße über Österreich".encode("latin-1")).best()
soup.find("b").text, prepared.url, str(httpx.URL("http://example.org/a?b=1").params["b"]), best is not None
"""
    result = run(code, "requests", "beautifulsoup4", "httpx")
    assert result.value == ("world", "http://example.org/?q=%C3%BC", "1", True), result.error
    lines = setup.describe(prepare.ensure(("requests", "beautifulsoup4", "httpx")).compiled.parent)
    assert [line.split()[3] for line in lines if "not imported ahead" in line and "binds the network" in line] == [
        "httpx",
        "requests",
    ]


def test_pyodides_distribution_with_a_real_wheel(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index lacks it, a loopback server has it: from the list to a live sandbox."""
    (tmp_path / "real").mkdir()
    (real,) = pip.download(("msgpack",), tmp_path / "real")
    assert PLATFORM in real.name
    served = tmp_path / "server" / "v1"
    served.mkdir(parents=True)
    shutil.copy(real, served / real.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("SAFEEXEC_CACHE", str(own_cache / "of-lock"))
    shutil.copytree(
        own_cache / "wasm", own_cache / "of-lock" / "wasm", ignore=shutil.ignore_patterns("packages*", "building*")
    )
    server = Server(tmp_path / "server")
    try:
        (tmp_path / "lock.json").write_text(server.list(msgpack=(served / real.name, (), "package")))
        monkeypatch.setenv(LOCK, str(tmp_path / "lock.json"))
        monkeypatch.setenv(URL, server.url)
        result = run("import msgpack\nmsgpack.packb([1]), msgpack.Packer.__module__", "msgpack")
    finally:
        server.close()
    assert result.value == (b"\x91\x01", "msgpack._cmsgpack"), result.error
    assert any(real.name in path for path in server.asked)


def test_without_importing_ahead_each_session_imports(own_cache: Path) -> None:
    with Executor("wasm", policy=Policy(packages=("msgpack",), imports="*"), workers=0, preimport=False) as executor:
        code = "import sys\nbefore = 'msgpack' in sys.modules\nimport msgpack\nbefore, msgpack.packb(1)"
        assert executor.run(code).value == (False, b"\x01")
