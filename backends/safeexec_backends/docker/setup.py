"""Makes the local image from the host's own interpreter: no registry, no shell, nothing but Python in it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import docker.errors

from safeexec.errors import BackendUnavailable
from safeexec_backends.docker import daemon, pip
from safeexec_backends.docker.install import CERTIFICATES

REPOSITORY = "safeexec-python"
_SKIP = frozenset(("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "site-packages", "dist-packages"))
_NOT_PACKED = frozenset(("EXTERNALLY-MANAGED",))  # nobody manages the image but us
_RECIPE = 2
_RECIPE_LABEL = "safeexec.recipe"
BASE_LABEL = "safeexec.base"
"""On an image with packages, the id of the image it was made of."""
_PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
"""What of the caller's environment pip needs where an index or a proxy of one's own is used. It goes to the build container only."""


def local_image() -> str:
    """The name of the image for this interpreter's version."""
    return f"{REPOSITORY}:{sys.version_info[0]}.{sys.version_info[1]}"


def build_image(url: str | None = None, tag: str | None = None, report: Callable[[str], object] | None = None) -> str:
    """Build an image of the running interpreter and its standard library, and return its name.

    `url` is the daemon's address, None for the usual ones; `report` is told what is being done. About 70 MB, a few seconds. Raises
    BackendUnavailable: no daemon, or not Linux (the host's interpreter would not run in a container).
    """
    if not sys.platform.startswith("linux"):
        raise BackendUnavailable(
            f"an image can be made from the host's interpreter on Linux only; elsewhere: docker pull "
            f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"
        )
    say = report or (lambda _: None)
    name = tag or local_image()
    client = daemon.connect(url)
    try:
        with tempfile.TemporaryFile() as file:
            if pip.find() is None:
                say(f"without pip, so that no packages can be installed in it: {pip.ADVICE}")
            say("packing the interpreter and its standard library")
            with tarfile.open(fileobj=file, mode="w") as tar:
                _pack(tar)
            size = file.tell()
            file.seek(0)
            say(f"importing {size // 2**20} MB as {name}")
            repository, _, version = name.rpartition(":")
            changes = [
                "USER 65534:65534",
                "WORKDIR /sandbox",
                "ENV PATH=/usr/local/bin:/usr/bin:/bin",
                "LABEL safeexec.image=interpreter",
                f"LABEL {_RECIPE_LABEL}={_recipe()}",
            ]
            before = image_id(client, name)
            with daemon.errors_mapped(f"importing {name}"):
                answer = client.api.import_image_from_data(
                    file, repository=repository or name, tag=version if repository else "latest", changes=changes
                )
            if "error" in str(answer):
                raise BackendUnavailable(f"docker: importing {name}: {answer}")
            made = re.search(r"sha256:[0-9a-f]{64}", str(answer))
            if made is not None and image_id(client, name) != made[0]:
                # podman 4 lets no tag come with an import.
                with daemon.errors_mapped(f"naming {name}"):
                    client.api.tag(made[0], repository or name, version if repository else "latest")
            if before is not None and before != image_id(client, name):
                _forget(client, before)
        return name
    finally:
        client.close()


def ensure_image(
    url: str | None = None, *, rebuild: bool = False, report: Callable[[str], object] | None = None
) -> tuple[str, bool]:
    """The local image's name, and whether it had to be made. One of another build of this Python version is replaced. Raises BackendUnavailable."""
    client = daemon.connect(url)
    try:
        with daemon.errors_mapped("looking for the image"):
            try:
                found = client.images.get(local_image()).labels.get(_RECIPE_LABEL)
            except docker.errors.ImageNotFound:
                found = None
    finally:
        client.close()
    if found == _recipe() and not rebuild:
        return local_image(), False
    return build_image(url, report=report), True


def ensure_packages(
    url: str | None, packages: Sequence[str], network: str | None, report: Callable[[str], object]
) -> str:
    """Make the derived image with `packages`, unless it is there. Raises PolicyError, BackendUnavailable."""
    from safeexec_backends.docker import images

    client = daemon.connect(url)
    try:
        base = images.resolve(client, None)
        environment = {name: os.environ[name] for name in _PIP if name in os.environ}
        return images.with_packages(client, base, packages, uuid.uuid4().hex, network, environment, report)
    finally:
        client.close()


def try_image(url: str | None, packages: Sequence[str] = ()) -> float:
    """Run a line in the local image, or the one with `packages`; seconds to the first answer. Raises BackendUnavailable, PolicyError."""
    from safeexec import Executor, Policy

    started = monotonic()
    with Executor("docker", policy=Policy(packages=tuple(packages)), url=url) as executor:
        result = executor.run("6 * 7")
    if result.value != 42:
        raise BackendUnavailable(f"the image was made and does not run Python: {result.error or 'a wrong answer'}")
    return monotonic() - started


def _recipe() -> str:
    """What the image was made of: the interpreter's version and build, and how it is packed."""
    installer = pip.find()
    parts = (
        _RECIPE,
        sys.version,
        os.path.realpath(sys.executable),
        sysconfig.get_platform(),
        installer and installer.name,
    )
    text = repr(parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def image_id(client: Any, name: str) -> str | None:
    """The id of the image called `name`, where there is one."""
    try:
        return str(client.images.get(name).id)
    except docker.errors.ImageNotFound:
        return None


def _forget(client: Any, identity: str) -> None:
    """Remove the image that lost its name to a new one, and those with packages made of it, which nothing looks for any more. What a container runs on stays."""
    try:
        derived = [image.id for image in client.images.list(filters={"label": f"{BASE_LABEL}={identity}"})]
    except docker.errors.APIError as error:
        raise BackendUnavailable(f"docker: looking for images with packages: {error.explanation}") from error
    for unused in (*derived, identity):
        try:
            client.images.remove(unused)
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):
                raise BackendUnavailable(f"docker: removing the old image: {error.explanation}") from error


def _prefix() -> str:
    """Where the interpreter lies in the image. A distribution's, made for /usr, has places for packages that are meant for no other prefix."""
    return "usr" if sys.base_prefix == "/usr" else "usr/local"


def _library(version: str) -> str:
    """Where the standard library is looked for below the prefix: not in ``lib`` on every distribution."""
    stdlib, base = Path(sysconfig.get_path("stdlib")), Path(sys.base_prefix)
    return str(stdlib.relative_to(base)) if stdlib.is_relative_to(base) else f"lib/{version}"


def _pack(tar: tarfile.TarFile) -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    binary = Path(os.path.realpath(sys.executable))
    libraries: set[str] = set()
    done: set[str] = set()
    _directory(tar, done, "tmp", 0o1777)
    _directory(tar, done, "sandbox", 0o777)
    _directory(tar, done, "usr/local/lib")
    _file(tar, done, binary, f"{_prefix()}/bin/{version}")
    for link in ("python3", "python"):
        _link(tar, f"{_prefix()}/bin/{link}", version)
    libraries.update(_needed(binary))
    roots = {stdlib, Path(sysconfig.get_path("platstdlib"))}
    for root in roots:
        for path in _walk(root):
            _file(tar, done, path, f"{_prefix()}/{_library(version)}/{path.relative_to(root)}")
            if path.suffix == ".so":
                libraries.update(_needed(path))
    installer = pip.packed()
    if installer is not None:
        _text(tar, done, *installer)
    libraries.update(_expected())
    for library in sorted(libraries):
        _file(tar, done, Path(library), library.lstrip("/"))
    zones = Path("/usr/share/zoneinfo")
    if zones.is_dir():
        for path in _walk(zones):
            if "right" not in path.parts and "posix" not in path.parts:
                _file(tar, done, path, str(path).lstrip("/"))
    certificates = Path(CERTIFICATES)
    if certificates.exists():  # for pip, when a derived image is made
        _file(tar, done, certificates, str(certificates).lstrip("/"))
    _text(tar, done, "etc/passwd", "root:x:0:0::/root:/\nnobody:x:65534:65534::/tmp:/\n")
    _text(tar, done, "etc/group", "root:x:0:\nnogroup:x:65534:\n")
    _text(tar, done, "etc/nsswitch.conf", "hosts: files dns\n")


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in _SKIP and not f.startswith("config-"))
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_file() and name not in _NOT_PACKED and not name.endswith((".a", ".opt-1.pyc", ".opt-2.pyc")):
                yield path


def _needed(path: Path) -> set[str]:
    """The shared libraries a file is linked with, and theirs, the loader included."""
    ran = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    found = set()
    for line in ran.stdout.splitlines():
        words = line.split()
        if "=>" in words and words[words.index("=>") + 1].startswith("/"):
            found.add(words[words.index("=>") + 1])
        elif words and words[0].startswith("/"):
            found.add(words[0])
    return found


# What binary wheels may take for granted (PEP 600, manylinux), beyond what the interpreter itself needs.
_WHEELS = (
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
    "libdl.so.2",
    "librt.so.1",
    "libpthread.so.0",
    "libutil.so.1",
    "libz.so.1",
)


def _expected() -> set[str]:
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        if os.path.exists(program):
            break
    else:
        return set()  # another C library: its wheels bring their own
    found: dict[str, str] = {}
    for line in subprocess.run([program, "-p"], capture_output=True, text=True, check=False).stdout.splitlines():
        name, _, path = line.strip().partition(" ")
        if name in _WHEELS and "=> " in path and ("64" in path or sys.maxsize < 2**32):
            found.setdefault(name, path.partition("=> ")[2])
    return set(found.values())


def _add(tar: tarfile.TarFile, info: tarfile.TarInfo, source: Any = None) -> None:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    tar.addfile(info, source)


def _directory(tar: tarfile.TarFile, done: set[str], name: str, mode: int = 0o755) -> None:
    if not name or name in done:
        return
    _directory(tar, done, os.path.dirname(name))
    done.add(name)
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    _add(tar, info)


def _file(tar: tarfile.TarFile, done: set[str], source: Path, name: str) -> None:
    name = os.path.normpath(name)
    if name in done:
        return
    _directory(tar, done, os.path.dirname(name))
    done.add(name)
    real = Path(os.path.realpath(source))
    with real.open("rb") as file:
        info = tarfile.TarInfo(name)
        status = os.fstat(file.fileno())
        # The times stay: compiled files are valid for the source's time.
        info.size, info.mtime, info.mode = (
            status.st_size,
            int(status.st_mtime),
            0o755 if status.st_mode & 0o111 else 0o644,
        )
        _add(tar, info, file)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    _add(tar, info)


def _text(tar: tarfile.TarFile, done: set[str], name: str, text: str | bytes) -> None:
    _directory(tar, done, os.path.dirname(name))
    data = text.encode() if isinstance(text, str) else text
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    _add(tar, info, io.BytesIO(data))
