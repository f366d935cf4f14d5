"""The connection to the daemon, and the one map from the SDK's errors to ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests

from safeexec.errors import BackendUnavailable

MIN_API = (1, 40)
"""Of Docker 19.03: private ipc, pids limits, tmpfs options and inline seccomp profiles all work from there on."""
TIMEOUT = 60

_START = (
    "start Docker (systemctl start docker, or Docker Desktop), or name another daemon by DOCKER_HOST or url=; "
    "podman's socket (unix:///run/podman/podman.sock) and a rootless one do as well"
)


def connect(url: str | None = None) -> docker.DockerClient:
    """A client for `url`, else DOCKER_HOST, else docker's current context, else the usual sockets.

    Raises BackendUnavailable with what to do: no daemon, no permission, too old.
    """
    try:
        client = _client(url)
    except docker.errors.TLSParameterError as error:
        raise BackendUnavailable(f"the docker daemon's TLS settings are incomplete: {error}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise _unreachable(error, url) from error
    address = client.api.base_url
    if address.startswith("http+docker://ssh"):
        client.close()
        raise BackendUnavailable(
            "a docker daemon over ssh:// cannot carry the frames: forward its socket "
            "(ssh -L /tmp/docker.sock:/var/run/docker.sock host) and set DOCKER_HOST=unix:///tmp/docker.sock"
        )
    try:
        version = tuple(int(part) for part in str(client.api._version).split("."))
        if version < MIN_API:
            raise BackendUnavailable(
                f"the docker daemon speaks API {client.api._version}; {'.'.join(map(str, MIN_API))} or later is needed "
                "(Docker 19.03): update it"
            )
    except BaseException:
        client.close()
        raise
    return client


def _client(url: str | None) -> docker.DockerClient:
    if url is not None:
        return docker.DockerClient(base_url=url, version="auto", timeout=TIMEOUT)
    if os.environ.get("DOCKER_HOST"):
        return docker.from_env(version="auto", timeout=TIMEOUT)
    from docker.context import ContextAPI

    context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT") or None)
    if context is not None and context.Host and context.name != "default":
        return docker.DockerClient(base_url=context.Host, tls=context.TLSConfig, version="auto", timeout=TIMEOUT)
    if not Path("/var/run/docker.sock").exists():
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        rootless = Path(runtime, "docker.sock")
        if rootless.exists():
            return docker.DockerClient(base_url=f"unix://{rootless}", version="auto", timeout=TIMEOUT)
    return docker.from_env(version="auto", timeout=TIMEOUT)


def _unreachable(error: BaseException, url: str | None) -> BackendUnavailable:
    where = url or os.environ.get("DOCKER_HOST") or "the default socket"
    text = str(error)
    if "PermissionError" in text or "Permission denied" in text:
        return BackendUnavailable(
            f"no permission to talk to the docker daemon at {where}: add yourself to the group 'docker' "
            "(usermod -aG docker USER, then log in again; this is as good as root), or run docker rootless"
        )
    return BackendUnavailable(f"no docker daemon answers at {where}: {_START} ({_short(text)})")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:299] + "…"


@contextmanager
def errors_mapped(doing: str) -> Iterator[None]:
    """Raise BackendUnavailable, saying what was being done, for whatever the SDK raises."""
    try:
        yield
    except docker.errors.APIError as error:
        raise BackendUnavailable(f"docker: {doing}: {_short(str(error.explanation or error))}") from error
    except docker.errors.DockerException as error:
        raise BackendUnavailable(f"docker: {doing}: {_short(str(error))}") from error
    except requests.RequestException as error:
        raise BackendUnavailable(f"docker: {doing}: the daemon does not answer: {_short(str(error))}") from error


def is_podman(version: dict[str, Any]) -> bool:
    """Whether the daemon is podman behind docker's API, from what it says of its version."""
    return any("podman" in str(part.get("Name", "")).lower() for part in version.get("Components") or ())


def facts(
    client: Any, version: dict[str, Any], info: dict[str, Any], runtime: str, image: str, reaped: int
) -> dict[str, str]:
    """What `safeexec doctor` shows of a daemon beside the walls."""
    names = sorted(info.get("Runtimes") or {})
    default = str(info.get("DefaultRuntime") or "unknown")
    with errors_mapped("looking at the image"):
        found = client.images.get(image)
    rootless = ", rootless" if any("rootless" in str(option) for option in info.get("SecurityOptions") or ()) else ""
    kind = "podman" if is_podman(version) else "docker"
    shown = {
        "daemon": f"{kind} {version.get('Version', '?')} (API {version.get('ApiVersion', '?')}{rootless}) at {address(client)}",
        "runtime": f"{runtime or default}; the daemon has {', '.join(names) or default}",
        "image": f"{(found.tags or ['untagged'])[0]} ({found.short_id}, {int(found.attrs.get('Size') or 0) // 2**20} MB)",
    }
    if reaped:
        shown["orphans"] = f"{reaped} of hosts that are gone, removed at this start"
    return shown


def address(client: Any) -> str:
    """Where the daemon is, as DOCKER_HOST would name it."""
    base = str(client.api.base_url)
    if base.startswith("http+docker://"):
        adapter = client.api.get_adapter(base)
        return "unix://" + str(getattr(adapter, "socket_path", "")) if hasattr(adapter, "socket_path") else base
    return base
