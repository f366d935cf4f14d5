"""Where the pip comes from that installs ``Policy(packages=...)`` in an image of the host's interpreter: distributions keep it in different places, or away."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import json
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec import BackendUnavailable, Executor, Policy
from safeexec_backends.docker import images, pip, reaper, setup
from tests.docker.images import BUILD

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


# -- what a build leaves ----------------------------------------------------------------------------------------------

FAKE = """
import os, site, sys
place = site.getsitepackages()[0]
if "install" in sys.argv:
    {does}
print("pip 1")
"""
INSTALLS = "os.makedirs(place + '/fake-1.dist-info'); print('Name: fake', file=open(place + '/fake-1.dist-info/METADATA', 'w'))"


@pytest.fixture
def fake(client: Any) -> Iterator[Callable[[str], str]]:
    """Makes an image whose pip does as it is told; the build script of a package could do the same."""
    made: list[str] = []

    def make(does: str) -> str:
        folder = "import os, site; f = site.getsitepackages()[0] + '/pip'; os.makedirs(f); "
        program = f"{folder}open(f + '/__main__.py', 'w').write({FAKE.format(does=does)!r})"
        container = client.api.create_container(setup.local_image(), command=["python3", "-c", program], user="0")["Id"]
        try:
            client.api.start(container)
            assert client.api.wait(container)["StatusCode"] == 0
            conf = {"Entrypoint": ["python3"], "Cmd": ["-c", "1"]}
            tag = str(len(made))
            made.append(client.api.commit(container, repository="safeexec-test-fake", tag=tag, conf=conf)["Id"])
        finally:
            client.api.remove_container(container, force=True)
        return f"safeexec-test-fake:{len(made) - 1}"

    yield make
    for image in client.images.list("safeexec-packages"):
        if image.labels.get(setup.BASE_LABEL) in made:
            client.images.remove(image.id)
    for number in range(len(made)):
        client.images.remove(f"safeexec-test-fake:{number}")


def test_settings_of_pip_reach_pip_and_no_session(client: Any, fake: Callable[[str], str]) -> None:
    """They may hold credentials of a package index. Neither the image nor anything in it keeps them."""
    image = fake(f"assert 'hunter%d' % 2 in os.environ['PIP_INDEX_URL']; {INSTALLS}")
    build = {"PIP_INDEX_URL": "https://user:hunter2@127.0.0.1:1/simple"}
    with Executor("docker", image=image, policy=Policy(packages=("fake",)), build_env=build) as executor:
        with executor.session() as session:
            code = "import os\n[open(f'/proc/{p}/environ').read() for p in (1, 'self')], dict(os.environ)"
            seen = str(session.run(code).value)
            assert "PATH" in seen and "hunter2" not in seen and "PIP_" not in seen
            made = client.api.inspect_container(session._guest.id)["Image"]  # type: ignore[attr-defined]
    assert client.images.get(made).labels["safeexec.packages"] == "fake"
    assert "hunter2" not in str(client.images.get(made).attrs) + str(client.api.history(made))
    rest = b""
    for piece in client.images.get(made).save():
        assert b"hunter2" not in rest + piece
        rest = piece[-20:]


def test_proxies_of_docker_s_configuration_reach_pip_and_no_session(
    client: Any, fake: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK puts them into the environment of what it makes, from where they would be in the image, and in every session."""
    proxies = {"default": {"httpProxy": "http://user:hunter2@proxy.test:1"}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    image = fake(f"assert 'hunter%d' % 2 in os.environ['HTTP_PROXY']; {INSTALLS}")
    with Executor("docker", image=image, policy=Policy(packages=("fake",))) as executor, executor.session() as session:
        seen = str(session.run("import os\ndict(os.environ)").value)
        made = client.api.inspect_container(session._guest.id)["Image"]  # type: ignore[attr-defined]
    assert "PATH" in seen and "hunter2" not in seen
    assert "hunter2" not in str(client.images.get(made).attrs) + str(client.api.history(made))


def test_container_that_somebody_makes_of_an_image_with_packages_is_theirs(
    client: Any, fake: Callable[[str], str]
) -> None:
    """An image has the labels of the container it was made of, and so has whatever is started from it."""
    policy = Policy(packages=("fake",))
    with Executor("docker", image=fake(INSTALLS), policy=policy) as executor, executor.session() as session:
        image = client.api.inspect_container(session._guest.id)["Image"]  # type: ignore[attr-defined]
    theirs = client.api.create_container(image, labels={"theirs": "1"})["Id"]
    try:
        assert client.api.inspect_container(theirs)["Config"]["Cmd"] == ["-c", "1"]
        assert client.api.inspect_container(theirs)["Config"]["Entrypoint"] == ["python3"]
        assert [found.id for found in reaper.find(client) if found.id == theirs] == []
        assert reaper._orphaned(client.api.inspect_container(theirs)["Config"]["Labels"]) is None
    finally:
        client.api.remove_container(theirs, force=True)


def test_flood_of_a_build_does_not_fill_the_host_s_disk(
    client: Any, fake: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = fake("[print('x' * 999) for _ in range(40_000)]; sys.exit(3)")
    sizes: list[int] = []
    real = reaper.remove

    def remove(client: Any, identity: str) -> None:
        folder = Path(client.info()["DockerRootDir"], "containers", client.api.inspect_container(identity)["Id"])
        sizes.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        real(client, identity)

    monkeypatch.setattr(images.reaper, "remove", remove)
    with pytest.raises(BackendUnavailable, match="installing fake in a container failed"):
        Executor("docker", image=image, policy=Policy(packages=("fake",)))
    assert 0 < max(sizes) < 10 * 2**20, "of 40 MB"


def test_what_a_build_says_does_not_act_on_the_terminal(fake: Callable[[str], str]) -> None:
    image = fake("print(chr(27) + ']0;owned' + chr(7) + 'the reason', flush=True); sys.exit(3)")
    with pytest.raises(BackendUnavailable, match="the reason") as caught:
        Executor("docker", image=image, policy=Policy(packages=("fake",)))
    assert "\x1b" not in str(caught.value) and "\x07" not in str(caught.value)
