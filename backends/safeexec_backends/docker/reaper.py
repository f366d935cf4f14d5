"""Whose a container is, and the removal of those whose owner is gone.

Every container carries the process that owns it: host, boot, process id and start time. A process id alone would be taken over by another process.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import docker.errors
import requests

from safeexec.backend import Orphan

PREFIX = "safeexec."
OWNER = PREFIX + "owner"
HOST = PREFIX + "host"
BOOT = PREFIX + "boot"
BACKEND = PREFIX + "backend"
ROLE = PREFIX + "role"


@dataclass(frozen=True)
class Found:
    """A container of ours. `orphaned` is None where its owner lives, or lived, where this process cannot see it."""

    id: str
    role: str
    state: str
    owner: str
    orphaned: bool | None


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


@cache
def _host() -> str:
    return _text("/etc/machine-id") or platform.node()


def _boot() -> str:
    """This boot and process id namespace: inside another namespace the same number is another process."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{_text('/proc/sys/kernel/random/boot_id')}:{namespace}"


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot; "" when there is none. Source: proc(5), /proc/pid/stat, field 22."""
    text = _text(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X"):  # a zombie owns nothing any more
        return ""
    return fields[19]


def labels(backend: str, role: str) -> dict[str, str]:
    """The labels of a container of this process."""
    pid = os.getpid()
    return {OWNER: f"{pid}.{start_time(pid)}", HOST: _host(), BOOT: _boot(), BACKEND: backend, ROLE: role}


def unlabelled() -> dict[str, str]:
    """The same labels, saying nothing: for an image made of a container of ours. What anybody starts from it would inherit ours, and be removed."""
    return dict.fromkeys((OWNER, HOST, BOOT, BACKEND, ROLE), "")


def _orphaned(found: Mapping[str, str]) -> bool | None:
    pid, _, started = found.get(OWNER, "").partition(".")
    if found.get(HOST) != _host() or not pid.isdigit():
        return None
    boot, _, namespace = found.get(BOOT, "").partition(":")
    here, _, own = _boot().partition(":")
    if boot and here and boot != here:
        return True  # this machine was started again since
    if namespace != own or not Path("/proc/self/stat").exists():
        return None
    return start_time(int(pid)) != started


def find(client: Any, backend: str | None = None) -> list[Found]:
    """The containers of ours that the daemon has, running or not; of one backend object if named. Raises what the SDK raises."""
    label = OWNER if backend is None else f"{BACKEND}={backend}"
    found = []
    for item in client.api.containers(all=True, filters={"label": [label]}):
        own = item.get("Labels") or {}
        if not own.get(OWNER):
            continue  # somebody's own, made from an image with packages
        found.append(Found(item["Id"], own.get(ROLE, ""), item.get("State", ""), own.get(OWNER, ""), _orphaned(own)))
    return found


def remove(client: Any, identity: str) -> None:
    """Kill and remove a container with its anonymous volumes. One that is gone, or going, is no error."""
    try:
        client.api.remove_container(identity, force=True, v=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        # 409: another thread is removing it. podman answers 500 for a container that ends while it is removed.
        if error.status_code != 409:
            try:
                client.api.remove_container(identity, force=True, v=True)
            except docker.errors.NotFound:
                return


def orphans() -> list[Orphan]:
    """The containers of hosts that are gone, with what removes them, and those of hosts that live or cannot be judged from here.

    Raises BackendUnavailable.
    """
    from safeexec_backends.docker import daemon

    client = daemon.connect()
    try:
        with daemon.errors_mapped("looking for containers"):
            found = find(client)
    finally:
        client.close()
    return [Orphan(_described(item), partial(_remove_orphan, item.id) if item.orphaned else None) for item in found]


def _remove_orphan(identity: str) -> None:
    from safeexec_backends.docker import daemon

    client = daemon.connect()
    try:
        with daemon.errors_mapped("removing a container"):
            remove(client, identity)
    finally:
        client.close()


def _described(found: Found) -> str:
    owner = found.owner.partition(".")[0] or "?"
    whose = {
        True: f"process {owner}, which is gone",
        False: f"process {owner}, which runs",
        None: f"process {owner} of another machine or container",
    }[found.orphaned]
    return f"container {found.id[:12]} ({found.role or 'session'}, {found.state or 'unknown'}) of {whose}"


def reap(client: Any) -> list[str]:
    """Remove the containers whose owner is gone, and say which. Raises what the SDK raises when the daemon cannot be asked."""
    removed = []
    for found in find(client):
        if found.orphaned:
            try:
                remove(client, found.id)
            except (docker.errors.APIError, requests.RequestException):
                continue  # the next start, or `safeexec doctor --clean`, tries again
            removed.append(found.id)
    return removed
