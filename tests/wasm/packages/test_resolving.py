"""From requirements to wheels: pip with local directories, Pyodide's list over a loopback server, and the messages when neither has it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from safeexec import Executor, Policy, PolicyError
from safeexec.errors import BackendUnavailable
from safeexec_backends.wasm.image.pins import PLATFORM
from safeexec_backends.wasm.packages import lock, pip
from safeexec_backends.wasm.packages.resolve import LOCK, URL, Resolved, resolve
from safeexec_backends.wasm.packages.wheels import BadWheel

from .archives import make_wheel

NATIVE = f"cp314-cp314-{PLATFORM}"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a directory of wheels that is all the index there is."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("SAFEEXEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv(LOCK, raising=False)
    monkeypatch.delenv(URL, raising=False)
    (tmp_path / "lock.json").write_text('{"packages": {}}')
    monkeypatch.setenv(LOCK, str(tmp_path / "lock.json"))
    monkeypatch.setenv(URL, "http://127.0.0.1:9/")
    return folder


def found(*requirements: str, fresh: bool = False) -> Resolved:
    return resolve(pip.normal(requirements), lambda _: None, fresh)


def names(resolved: Resolved) -> list[str]:
    return [archive.name.split("-")[0] for archive in resolved.archives]


def test_dependencies_are_those_of_the_sandbox_not_of_this_machine(wheels: Path) -> None:
    make_wheel(wheels, "top", {}, requires=(
        "here; sys_platform == 'emscripten' and python_version >= '3.14' and platform_machine == 'wasm32'",
        "gone; sys_platform != 'emscripten'", "old; python_version < '3.14'", "other; os_name == 'nt'",
    ))  # fmt: skip
    make_wheel(wheels, "here", {}, tag=NATIVE)
    assert names(found("top")) == ["here", "top"]


_IN_PROCESS_OF_ITS_OWN = """
import resource, sys, tempfile
from pathlib import Path
from safeexec.errors import BackendUnavailable
from safeexec_backends.wasm.packages import pip
pip.MOST_MEMORY = 512 << 20
with tempfile.TemporaryDirectory() as folder:
    try:
        print("downloaded", pip.download(["bomb"], Path(folder)))
    except BackendUnavailable as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_what_a_wheel_says_of_itself_does_not_take_the_hosts_memory(wheels: Path) -> None:
    path = wheels / "bomb-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("bomb-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        with archive.open("bomb-1.0.dist-info/METADATA", "w") as file:
            for _ in range(800):
                file.write(bytes(1 << 20))
    assert path.stat().st_size < 4096
    done = subprocess.run(
        [sys.executable, "-c", _IN_PROCESS_OF_ITS_OWN], capture_output=True, text=True, timeout=120, check=True
    )
    said, peak = done.stdout.strip().rsplit("\n", 1)
    assert "pip cannot get bomb" in said and int(peak) < 600 << 10


def test_only_wheels_that_fit_are_taken(wheels: Path) -> None:
    make_wheel(wheels, "x", {}, version="3.0", tag="cp314-cp314-manylinux_2_17_x86_64")
    make_wheel(wheels, "x", {}, version="2.0", tag="cp313-cp313-pyodide_2025_0_wasm32")
    make_wheel(wheels, "x", {}, version="1.0", tag=f"cp311-abi3-{PLATFORM}")
    assert [a.name for a in found("x").archives] == [f"x-1.0-cp311-abi3-{PLATFORM}.whl"]


def test_what_was_resolved_is_remembered_until_it_is_asked_for_anew(
    wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_wheel(wheels, "x", {"x.py": "one"})
    first = found("x")
    assert first.archives[0].sha256 == hashlib.sha256(made.read_bytes()).hexdigest()
    made.unlink()
    make_wheel(wheels, "x", {"x.py": "two"}, version="2.0")
    assert found(" x ") == first
    assert found("x", fresh=True).versions() == {"x": "2.0"}
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert found("x").versions() == {"x": "2.0"}


@pytest.mark.slow
def test_a_cached_wheel_that_changed_is_fetched_again(wheels: Path) -> None:
    make_wheel(wheels, "x", {"x.py": "good"})
    archive = found("x").archives[0]
    archive.path.write_bytes(b"evil")
    again = found("x").archives[0]
    assert again.sha256 == archive.sha256 == hashlib.sha256(again.path.read_bytes()).hexdigest()


def test_a_cache_that_others_can_write_is_not_used(wheels: Path, tmp_path: Path) -> None:
    make_wheel(wheels, "x", {})
    found("x")
    (tmp_path / "cache" / "wasm" / "packages").chmod(0o777)
    with pytest.raises(BackendUnavailable, match="can be written by others"):
        found("x")


@pytest.mark.parametrize(
    "text",
    ["--index-url=http://127.0.0.1", "-r/etc/passwd", "x @ file:///etc/x", "./x", "/x.whl", "git+https://x", "x; import os", "x y", "", "x==", "x\n--pre",
     "x==1,"],
)  # fmt: skip
def test_options_paths_and_addresses_are_no_requirements(text: str) -> None:
    with pytest.raises(PolicyError, match="not the name of a package"):
        Executor("wasm", policy=Policy(packages=(text,)), workers=0)


def test_a_version_and_extras_are_part_of_a_requirement(wheels: Path) -> None:
    for version in ("1.0", "1.5", "2.0"):
        make_wheel(wheels, "x", {}, version=version)
    assert found("x >= 1.1, < 2").versions() == {"x": "1.5"}
    assert pip.normal(["b", "A[z]>=1", "b"]) == ("A[z]>=1", "b")


def test_without_a_fitting_wheel_the_message_says_what_was_looked_for(wheels: Path) -> None:
    make_wheel(wheels, "x", {}, tag="cp314-cp314-manylinux_2_17_x86_64")
    with pytest.raises(BackendUnavailable) as caught:
        found("x")
    for part in ("no wheels for x fit", NATIVE, "py3-none-any", "PIP_FIND_LINKS", "docker"):
        assert part in str(caught.value)


@pytest.mark.slow
def test_conflicting_requirements_are_told_apart(wheels: Path) -> None:
    make_wheel(wheels, "x", {}, requires=("y<2",))
    make_wheel(wheels, "y", {}, version="2.0")
    make_wheel(wheels, "y", {}, version="1.0")
    with pytest.raises(BackendUnavailable, match=r"(?i)conflict"):
        found("x", "y>=2")


@pytest.mark.slow
def test_an_index_out_of_reach_is_called_that(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(BackendUnavailable, match="could not be reached"):
        found("x")


@pytest.mark.slow
def test_a_source_distribution_is_never_built(wheels: Path, tmp_path: Path) -> None:
    import io
    import tarfile

    marker = tmp_path / "ran"
    setup = f"open({str(marker)!r}, 'w').close()".encode()
    with tarfile.open(wheels / "x-1.0.tar.gz", "w:gz") as tar:
        for name, data in (
            ("x-1.0/setup.py", setup),
            ("x-1.0/PKG-INFO", b"Metadata-Version: 2.1\nName: x\nVersion: 1.0\n"),
        ):
            item = tarfile.TarInfo(name)
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))
    with pytest.raises(BackendUnavailable, match="no wheels for x fit"):
        found("x")
    assert not marker.exists()


# Pyodide's own distribution


class Server:
    """A directory over HTTP on the loopback, with a list of what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

            def log_message(self, *_: object) -> None:
                outer.asked.append(self.path)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def list(self, **packages: tuple[Path, tuple[str, ...], str]) -> str:
        """A lock file: name -> (file, depends, kind)."""
        items = {
            name: {
                "name": name, "version": "1.0", "file_name": file.name, "install_dir": "site", "imports": [name], "depends": list(depends),
                "package_type": kind, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for name, (file, depends, kind) in packages.items()
        }  # fmt: skip
        return json.dumps({"info": {}, "packages": items})

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def distribution(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "server"
    (folder / "v1").mkdir(parents=True)
    server = Server(folder)
    monkeypatch.setenv(URL, server.url)
    yield server
    server.close()


def test_what_the_index_lacks_comes_from_the_distribution(distribution: Server, wheels: Path, tmp_path: Path) -> None:
    make_wheel(wheels, "top", {}, requires=("numpy>=1",))
    native = make_wheel(distribution.folder / "v1", "numpy", {"numpy.py": ""}, tag=NATIVE)
    import zipfile

    library = distribution.folder / "v1" / "libblas-1.zip"
    with zipfile.ZipFile(library, "w") as archive:
        archive.writestr("libblas.so", b"\0asm")
    listed = distribution.list(
        numpy=(native, ("libblas",), "package"), libblas=(library, (), "shared_library"), unused=(native, (), "package")
    )
    (tmp_path / "lock.json").write_text(listed)
    resolved = found("top")
    assert [a.name for a in resolved.archives] == ["libblas-1.zip", native.name, "top-1.0-py3-none-any.whl"]
    assert resolved.requested == ("top",) and resolved.versions() == {"numpy": "1.0", "top": "1.0"}
    assert any(native.name in path for path in distribution.asked)


def test_the_distribution_is_not_asked_for_what_the_index_has(
    distribution: Server, wheels: Path, tmp_path: Path
) -> None:
    make_wheel(wheels, "x", {})
    newer = make_wheel(distribution.folder / "v1", "x", {}, version="9.0")
    (tmp_path / "lock.json").write_text(distribution.list(x=(newer, (), "package")))
    assert found("x").versions() == {"x": "1.0"} and not distribution.asked


@pytest.mark.parametrize("kind", ["package", "shared_library"])
def test_a_file_with_another_hash_is_refused(kind: str, distribution: Server, tmp_path: Path) -> None:
    folder = distribution.folder / "v1"
    good, other = make_wheel(folder, "x", {}), folder / "libx-1.zip"
    other.write_bytes(b"PK")
    listed = distribution.list(x=(good, ("libx",), "package"), libx=(other, (), "shared_library"))
    (tmp_path / "lock.json").write_text(listed)
    target = good if kind == "package" else other
    target.write_bytes(target.read_bytes() + b"evil")
    with pytest.raises(BackendUnavailable, match=r"(?i)sha-?256"):
        found("x")
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.slow
def test_a_distribution_out_of_reach_is_named(wheels: Path, tmp_path: Path, distribution: Server) -> None:
    native = make_wheel(tmp_path, "numpy", {}, tag=NATIVE)
    (tmp_path / "lock.json").write_text(distribution.list(numpy=(native, (), "package")))
    with pytest.raises(
        BackendUnavailable, match=r"no wheels for numpy fit.*Pyodide's own distribution, tried next, cannot be used"
    ):
        found("numpy")


def test_the_address_is_the_loaders_own() -> None:
    assert (
        lock.base_url(b"var x=`https://cdn.example/pyodide/v${O}/full/`;")
        == "https://cdn.example/pyodide/v314.0.7/full/"
    )
    assert lock.base_url(b"nothing here") is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"packages": {"x": 1}}', '{"packages": {"x": {"file_name": "../x", "package_type": "package", "sha256": "", "depends": []}}}'],
)  # fmt: skip
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BackendUnavailable, match="cannot be read"):
        lock.read(text.encode(), "http://127.0.0.1/")


def test_names_in_the_list_cannot_break_out_of_the_page_for_pip() -> None:
    hostile = {"file_name": 'x"><a href="http://evil/', "package_type": "package", "sha256": "0" * 64, "depends": []}
    with pytest.raises(BackendUnavailable, match="proper file name"):
        lock.read(json.dumps({"packages": {"x": hostile}}).encode(), "http://127.0.0.1/")


def test_a_download_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    from safeexec_backends.wasm.packages.resolve import _keep

    for name in ("x-1.0.tar.gz", "x.whl"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(BadWheel):
            _keep(tmp_path, tmp_path / name)
    (tmp_path / "y-1-py3-none-any.whl").symlink_to("/etc/passwd")
    with pytest.raises(BadWheel, match="not a wheel"):
        _keep(tmp_path, tmp_path / "y-1-py3-none-any.whl")
