"""Where the pip comes from that installs ``Policy(packages=...)`` in an image of the host's interpreter: distributions keep it in different places, or away."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec import BackendUnavailable, Executor, Policy
from safeexec_backends.docker import pip, setup
from tests.docker.test_packages import BUILD

WHEELS = "usr/local/share/safeexec/wheels"
IMAGE = "safeexec-test-pip:1"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter below a folder, with a standard library in ``lib64``, and neither wheels nor a pip."""
    stdlib = tmp_path / "lib64" / "python"
    for name in ("os.py", "EXTERNALLY-MANAGED", "dist-packages/canary.py", "site-packages/canary.py"):
        path = stdlib / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(stdlib))
    without(monkeypatch)
    return tmp_path


def without(monkeypatch: pytest.MonkeyPatch, wheels: Path | None = None, package: Path | None = None) -> None:
    """The host has of pip what is named here, and what is in its standard library."""
    real = sysconfig.get_config_var
    folder = str(wheels) if wheels is not None else ""
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: folder if name == "WHEEL_PKG_DIR" else real(name))
    found = None
    if package is not None:
        found = importlib.machinery.ModuleSpec("pip", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)


def packed() -> dict[str, bytes]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        setup._pack(tar)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        opened = {member.name: tar.extractfile(member) for member in tar.getmembers() if member.isfile()}
        return {name: stream.read() for name, stream in opened.items() if stream is not None}


def make_package(folder: Path, main: str) -> Path:
    package = folder / "site" / "pip"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__pycache__" / "canary.pyc").touch()
    (package / "__main__.py").write_text(main)
    return package


def of_pip(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if "pip" in name.rpartition("/")[2]}


def test_newest_wheel_of_the_distribution_s_folder_is_packed(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian, Fedora: ensurepip's wheels are not in the standard library."""
    wheels = host / "wheels"
    wheels.mkdir()
    for name in ("pip-9.0.1-py3-none-any.whl", "pip-23.0.1-py3-none-any.whl", "setuptools-66.1.1-py3-none-any.whl"):
        (wheels / name).write_text(name)
    without(monkeypatch, wheels=wheels, package=make_package(host, ""))
    assert of_pip(packed()) == {f"{WHEELS}/pip-23.0.1-py3-none-any.whl": b"pip-23.0.1-py3-none-any.whl"}


def test_wheel_of_the_standard_library_comes_with_it(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = host / "lib64" / "python" / "ensurepip" / "_bundled"
    bundled.mkdir(parents=True)
    (bundled / "pip-24.0-py3-none-any.whl").write_text("pip")
    without(monkeypatch, package=make_package(host, ""))
    assert of_pip(packed()) == {"usr/local/lib64/python/ensurepip/_bundled/pip-24.0-py3-none-any.whl": b"pip"}


def test_pip_that_can_be_imported_serves_where_there_is_no_wheel(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_package(host, "import sys\nprint('pip of', sys.argv[1:])")
    without(monkeypatch, wheels=host / "nowhere", package=package)
    [(name, data)] = of_pip(packed()).items()
    assert name.startswith(WHEELS) and name.endswith(".whl")
    wheel = host / "pip-0.whl"
    wheel.write_bytes(data)
    ran = subprocess.run([sys.executable, "-I", f"{wheel}/pip", "x"], capture_output=True, text=True, check=True)
    assert ran.stdout == "pip of ['x']\n"
    assert b"canary" not in data


def test_pip_that_needs_other_packages_is_not_packed(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distributions have taken the packages out of pip that it brings; such a pip runs on their machines alone."""
    without(monkeypatch, package=make_package(host, "import no_such_package_of_the_distribution"))
    assert of_pip(packed()) == {}


def test_layout_is_the_interpreter_s_own(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    files = packed()
    assert "usr/local/lib64/python/os.py" in files and f"usr/local/bin/{version}" in files
    assert not [name for name in files if "canary" in name or "EXTERNALLY" in name]
    # Debian's looks for packages in local/lib below its prefix: made for /usr, it must stay there.
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    files = packed()
    assert f"usr/lib/{version}/os.py" in files and f"usr/bin/{version}" in files


Build = Callable[[], str]


@pytest.fixture
def image(client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """Makes an image of this interpreter, without ensurepip."""
    monkeypatch.setattr(setup, "_SKIP", setup._SKIP | {"ensurepip"})
    monkeypatch.setattr(pip, "bundled", lambda: Path("/nonexistent"))
    yield lambda: setup.build_image(tag=IMAGE)
    for made in client.images.list("safeexec-packages"):
        if made.attrs["Parent"] == client.images.get(IMAGE).id:
            client.images.remove(made.id)
    client.images.remove(IMAGE)


def test_image_without_pip_says_what_to_do(image: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch)
    said: list[str] = []
    setup.build_image(tag=IMAGE, report=said.append)
    assert "python3-venv" in said[0] and "packages" in said[0]
    with pytest.raises(
        BackendUnavailable, match=r"no pip to install msgpack with: .*python3-venv.*safeexec setup docker"
    ):
        Executor("docker", image=IMAGE, policy=Policy(packages=("msgpack",)), **BUILD)
    with Executor("docker", image=IMAGE) as executor:
        assert executor.run("6 * 7").value == 42


def test_interpreter_that_is_named_is_the_one_that_gets_the_packages(docker_url: str) -> None:
    with pytest.raises(BackendUnavailable, match="/nonexistent/python3"):
        Executor("docker", python="/nonexistent/python3", policy=Policy(packages=("msgpack",)), **BUILD)


def wheel_folder(folder: Path) -> dict[str, Path]:
    """A real wheel in a folder as a distribution has it."""
    found = next(Path(sysconfig.get_path("stdlib"), "ensurepip", "_bundled").glob("pip-*.whl"), None) or pip.find()
    if found is None or found.suffix != ".whl":
        pytest.skip("n/a: this interpreter has no wheel of pip")
    (folder / found.name).write_bytes(found.read_bytes())
    return {"wheels": folder}


def importable(_: Path) -> dict[str, Path]:
    specification = importlib.util.find_spec("pip")
    if specification is None or specification.origin is None:
        pytest.skip("n/a: this interpreter has no pip")
    return {"package": Path(specification.origin).parent}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [wheel_folder, importable])
def test_packages_are_installed_by_whatever_pip_there_is(
    image: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: Callable[[Path], dict[str, Path]]
) -> None:
    without(monkeypatch, **kind(tmp_path))
    monkeypatch.setattr(setup, "_NOT_PACKED", frozenset())  # Debian's word that packages are apt's business
    policy = Policy(packages=("msgpack", "typing.extensions"))  # the latter's name in another spelling
    with Executor("docker", image=image(), policy=policy, **BUILD) as executor:
        code = "import msgpack, typing_extensions\nmsgpack.unpackb(msgpack.packb([1, 'a']))"
        assert executor.run(code).value == [1, "a"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_image_that_is_managed_by_its_distribution_takes_packages(client: Any) -> None:
    code = "import os; open(os.path.dirname(os.__file__) + '/EXTERNALLY-MANAGED', 'w').write('[externally-managed]')"
    made = client.api.create_container(setup.local_image(), command=["python3", "-c", code], user="0")["Id"]
    try:
        client.api.start(made)
        assert client.api.wait(made)["StatusCode"] == 0
        client.api.commit(made, repository="safeexec-test-managed", tag="1")
    finally:
        client.api.remove_container(made, force=True)
    with Executor("docker", image="safeexec-test-managed:1", policy=Policy(packages=("msgpack",)), **BUILD) as executor:
        assert (
            executor.run(
                "import msgpack, os\nos.listdir(os.path.dirname(os.__file__)).count('EXTERNALLY-MANAGED')"
            ).value
            == 1
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_packages_that_went_where_nobody_looks_are_no_success() -> None:
    build = {**BUILD, "build_env": {**BUILD["build_env"], "PIP_TARGET": "/opt/elsewhere"}}
    with pytest.raises(BackendUnavailable, match="installed iniconfig where this interpreter does not look"):
        Executor("docker", policy=Policy(packages=("iniconfig",)), **build)
