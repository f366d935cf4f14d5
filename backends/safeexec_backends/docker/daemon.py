"""The connection to the daemon, and the one map from the SDK's errors to ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import requests

from safeexec.errors import BackendUnavailable

MIN_API = (1, 40)
"""Of Docker 19.03: private ipc, pids limits, tmpfs options and inline seccomp profiles all work from there on."""
_NEEDED = f"{'.'.join(map(str, MIN_API))} or later is needed (Docker 19.03): update it"
TIMEOUT = 60

_START = (
    "start Docker (systemctl start docker, or Docker Desktop), or name another daemon by DOCKER_HOST or url=; "
    "podman's socket (unix:///run/podman/podman.sock) and a rootless one do as well"
)
_SYSTEM = ("/var/run/docker.sock",)
_PODMAN = ("/run/podman/podman.sock",)
ENVIRONMENT = ("DOCKER_", "HOME", "XDG_RUNTIME_DIR", "PATH")
"""Beginnings of the names of the variables that which daemon is meant depends on."""


@dataclass(frozen=True)
class _Place:
    """A daemon's address, None for what DOCKER_HOST and its kind say, and how a message names it."""

    address: str | None
    shown: str
    tls: Any = None


def connect(url: str | None = None) -> docker.DockerClient:
    """A client for `url`, else DOCKER_HOST, else docker's current context, else the usual sockets: docker's, a rootless one's, podman's.

    Raises BackendUnavailable with what to do: no daemon, no permission, too old, a context that is not there.
    """
    place = _place(url)
    if (place.address or os.environ.get("DOCKER_HOST", "")).startswith("ssh:"):
        raise BackendUnavailable(
            f"a docker daemon over ssh ({place.shown}) cannot carry the frames: forward its socket "
            "(ssh -L /tmp/docker.sock:/var/run/docker.sock host) and set DOCKER_HOST=unix:///tmp/docker.sock"
        )
    try:
        client = _client(place)
    except docker.errors.TLSParameterError as error:
        raise BackendUnavailable(f"the docker daemon's TLS settings are incomplete: {_short(str(error))}") from error
    except docker.errors.InvalidVersion as error:
        raise BackendUnavailable(f"the docker daemon at {place.shown} is too old; {_NEEDED}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise _unreachable(error, place.shown) from error
    except ValueError as error:  # the SDK compares versions as numbers
        raise BackendUnavailable(f"what answers at {place.shown} is no docker daemon: {_short(str(error))}") from error
    try:
        said = str(client.api._version)
        if tuple(int(part) for part in said.split(".")) < MIN_API:
            raise BackendUnavailable(f"the docker daemon at {place.shown} speaks API {said}; {_NEEDED}")
    except BaseException:
        client.close()
        raise
    return client


def _place(url: str | None) -> _Place:
    if url is not None:
        return _Place(url, url)
    host = os.environ.get("DOCKER_HOST")
    if host:
        return _Place(None, host)
    context = _context()
    if context is not None:
        return context
    runtime = os.environ.get("XDG_RUNTIME_DIR") or (f"/run/user/{os.getuid()}" if hasattr(os, "getuid") else "")
    own = (f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock") if runtime else ()
    for path in (*_SYSTEM, *own, *_PODMAN):
        if os.path.exists(path):
            return _Place(f"unix://{path}", f"unix://{path}")
    return _Place(None, "the usual sockets")


def _context() -> _Place | None:
    """Where the context that docker's own command would use leads; None for "default".

    One that is named and not there is no reason to use another daemon than the one that was meant. Raises BackendUnavailable.
    """
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name
    from docker.utils.config import find_config_file

    name = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    if not name or name == "default":
        return None
    why = "it is not there, or names no daemon"
    try:
        if find_config_file() is None:
            # It would look for contexts in the working directory, which may hold anybody's files.
            raise FileNotFoundError(
                "the docker SDK finds contexts beside docker's config.json, and there is none: make one with {} in it"
            )
        found = ContextAPI.get_context(name)
        if found is not None and found.Host:
            return _Place(found.Host, f"{found.Host} (docker's context {name!r})", found.TLSConfig)
    except Exception as error:  # whatever the SDK trips over in a file that somebody has damaged
        why = f"its files cannot be read: {_short(str(error) or repr(error))}"
    raise BackendUnavailable(
        f"docker's context {name!r} cannot be used: {why}. `docker context ls` shows which there are; `docker context use`, "
        "DOCKER_CONTEXT, DOCKER_HOST or url= names another"
    )


def _client(place: _Place) -> docker.DockerClient:
    if place.address is None:
        client = docker.from_env(version="auto", timeout=TIMEOUT)
    else:
        client = docker.DockerClient(base_url=place.address, tls=place.tls or False, version="auto", timeout=TIMEOUT)
    if address(client).startswith("unix://"):
        # Each request looks for proxies in the environment otherwise, and fails with KeyError when another thread changes it just then.
        client.api.trust_env = False
    return client


def _unreachable(error: BaseException, where: str) -> BackendUnavailable:
    text = str(error)
    if "PermissionError" in text or "Permission denied" in text:
        return BackendUnavailable(
            f"no permission to talk to the docker daemon at {where}: add yourself to the group 'docker' "
            "(usermod -aG docker USER, then log in again; this is as good as root), or run docker rootless"
        )
    if "Read timed out" in text:
        return BackendUnavailable(
            f"the docker daemon at {where} took the question and gave no answer within {TIMEOUT} s: restart it"
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
