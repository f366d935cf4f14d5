"""Which image a container is made of, and images with packages in them."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker.errors
import requests

from safeexec import threads
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.text import neutralise
from safeexec_backends.docker import install, pip, reaper
from safeexec_backends.docker.daemon import errors_mapped, is_podman
from safeexec_backends.docker.setup import BASE_LABEL, image_id, local_image
from safeexec_backends.docker.stream import Attached

PACKAGES = "safeexec-packages"
_RECIPE = 2
_BUILD_SECONDS = 900
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._ -]+\])?([ ]*(===|==|~=|!=|<=|>=|<|>)[ ]*[A-Za-z0-9.*+!_-]+(,|$))*"
)
_lock = threading.Lock()


def after_fork() -> None:
    """In a forked child: who makes an image is not in it."""
    global _lock
    _lock = threading.Lock()


def resolve(client: Any, name: str | None) -> str:
    """The id of the image to use: `name`, else the local image of this Python version, else ``python:<version>-slim``, pulled if missing.

    Raises BackendUnavailable with what to do.
    """
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with errors_mapped("looking for the image"):
        if name is not None:
            return image_id(client, name) or _pull(client, name, "")
        hint = f"; or make an image of this interpreter, without any registry: safeexec setup docker (it makes {local_image()})"
        slim = f"python:{version}-slim"
        return image_id(client, local_image()) or image_id(client, slim) or _pull(client, slim, hint)


def _pull(client: Any, name: str, hint: str) -> str:
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag or "@" in name:
        repository, tag = name, "" if "@" in name else "latest"
    try:
        client.images.pull(repository, tag=tag or None)
        found = image_id(client, name)
    except (docker.errors.APIError, requests.RequestException) as error:
        why = str(getattr(error, "explanation", None) or error)
        raise BackendUnavailable(
            f"image {name!r} is not here and cannot be pulled ({why[:300]}): docker pull {name}{hint}"
        ) from error
    if found is None:
        raise BackendUnavailable(f"image {name!r} was pulled and is not there{hint}")
    return found


def with_packages(
    client: Any,
    base: str,
    packages: Sequence[str],
    token: str,
    network: str | None,
    environment: Mapping[str, str],
    report: Callable[[str], object] | None = None,
    python: str = "python3",
) -> str:
    """The id of an image like `base` with `packages` installed; built once, then found again by its content's hash.

    pip runs in a container with network and without capabilities; the image's containers have none of either. Raises PolicyError for what is
    no requirement, BackendUnavailable when it cannot be built. `report` is told each line that pip says.
    """
    wanted = sorted({package.strip() for package in packages})
    for package in wanted:
        # An option, a path or an address in its place would be obeyed by pip.
        if not _REQUIREMENT.fullmatch(package):
            raise PolicyError(f"Policy.packages: {package!r} is not a name with an optional version")
    key = hashlib.sha256("\0".join([str(_RECIPE), base, python, *wanted]).encode()).hexdigest()[:24]
    tag = f"{PACKAGES}:{key}"
    with errors_mapped(f"making an image with {', '.join(wanted)}"):
        there = image_id(client, tag)  # first: who wants one that is there need not wait until another is made
        if there is not None:
            return there
        with _lock:
            return image_id(client, tag) or _build(
                client, base, wanted, tag, token, network, environment, report, python
            )


def _follow(client: Any, made: str, report: Callable[[str], object]) -> None:
    """Report the lines that a build container writes, until it ends."""
    try:
        rest = b""
        for piece in client.api.logs(made, stream=True, follow=True):
            *lines, rest = (rest + piece)[-100_000:].split(b"\n")
            for line in lines:
                if line.strip():
                    report(line.decode(errors="replace").strip())
    except (docker.errors.DockerException, requests.RequestException):
        return  # it was removed: what became of it is said by whoever waits for it


def _proxies(client: Any) -> dict[str, str]:
    """The proxies that docker's configuration names for containers: pip's alone, as what else is told it."""
    found: dict[str, str] = client.api._proxy_configs.get_environment()
    return found


def _build(
    client: Any,
    base: str,
    wanted: list[str],
    tag: str,
    token: str,
    network: str | None,
    environment: Mapping[str, str],
    report: Callable[[str], object] | None,
    python: str,
) -> str:
    config = client.images.get(base).attrs.get("Config") or {}
    podman = is_podman(client.version())
    host = client.api.create_host_config(
        network_mode=network,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=512,
        mem_limit=4 * 2**30,
        # podman has no init to mount, and starts no container with the limits that it takes for its own where they are above those of the machine.
        init=not podman,
        # A package's own build script may write without end, and the daemon keeps it on the host's disk.
        log_config=None if podman else {"Type": "json-file", "Config": {"max-size": "4m", "max-file": "1"}},
        ulimits=[{"Name": name, "Soft": 4096, "Hard": 4096} for name in ("nofile", "nproc")] if podman else [],
    )
    made = client.api.create_container(
        base,
        entrypoint=[python, "-I", "-c", Path(install.__file__).read_text("utf-8")],
        command=wanted,
        user="0:0",
        working_dir="/",
        stdin_open=True,
        labels=reaper.labels(token, "build"),
        host_config=host,
        use_config_proxy=False,  # or the image would have them, and every session with it
    )["Id"]
    settings = {
        "HOME": "/tmp",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_RETRIES": "1",
        # A distribution that keeps pip away from its interpreter means machines, not an image made for these packages.
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        **_proxies(client),
        **environment,
    }
    stdin = None
    try:
        stdin = Attached(client.api.attach_socket(made, {"stdin": 1, "stream": 1}))
        client.api.start(made)
        data = json.dumps(settings).encode()
        try:
            stdin.sendall(len(data).to_bytes(4, "little") + data)
        except OSError:
            pass  # it has ended; why, it says itself
        if report is not None:
            threads.start(lambda: _follow(client, made, report))
        try:
            code = client.api.wait(made, timeout=_BUILD_SECONDS)["StatusCode"]
        except requests.RequestException as error:
            raise BackendUnavailable(f"installing {', '.join(wanted)} took longer than {_BUILD_SECONDS} s") from error
        if code == install.NO_PIP:
            own = (config.get("Labels") or {}).get("safeexec.image") == "interpreter"
            hint = pip.ADVICE if own else "use one that has pip, or install it there"
            raise BackendUnavailable(f"the image has no pip to install {', '.join(wanted)} with: {hint}")
        if code:
            said = client.api.logs(made, tail=15).decode(errors="replace").strip()
            raise BackendUnavailable(
                f"installing {', '.join(wanted)} in a container failed; build_network='host' and build_env={{'PIP_INDEX_URL': …}} "
                f"help where the daemon's default network reaches no package index: {neutralise(said[-1500:])}"
            )
        repository, _, version = tag.rpartition(":")
        made_image = client.api.commit(
            made,
            repository=repository,
            tag=version,
            # What is not named here is taken from the build container.
            conf={
                "Env": config.get("Env"),
                "Entrypoint": config.get("Entrypoint") or [],
                "Cmd": config.get("Cmd") or ["python3"],
                "User": config.get("User"),
                "WorkingDir": config.get("WorkingDir"),
                "Labels": {
                    **reaper.unlabelled(),
                    "safeexec.image": "packages",
                    BASE_LABEL: base,
                    "safeexec.packages": " ".join(wanted),
                },
            },
        )
        return str(made_image["Id"])
    finally:
        if stdin is not None:
            stdin.close()
        reaper.remove(client, made)
