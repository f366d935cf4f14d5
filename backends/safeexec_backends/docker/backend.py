"""The docker sandbox for one Executor."""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import docker.errors
import requests

from safeexec import threads, wire
from safeexec.backend import Backend, Guest, Orphan, Wall
from safeexec.errors import BackendUnavailable, PolicyError, SessionClosed
from safeexec.places import Places
from safeexec.policy import Policy
from safeexec_backends.docker import config, daemon, direct, images, launch, program, reaper, walls
from safeexec_backends.docker.container import DockerGuest
from safeexec_backends.docker.pool import Pool
from safeexec_backends.docker.watcher import Watcher

_Prepared = tuple[bytes, dict[str, Wall]]
_prepared: dict[Any, _Prepared] = {}
"""What the first container of an image found out, for all backends of this process: the compiled program and the walls."""
_preparing = Places()
_elsewhere: set[str] = set()
"""Daemons that do not see this machine's files (Docker Desktop, a socket carried here from another machine)."""
_REMOVE_SECONDS = 60.0


def _rollback_wall(standing: Mapping[str, Wall], policy: Policy) -> Wall:
    if policy.network and standing["rollback"].active:
        return Wall(False, walls.ENDS + "the threads that carry its network would not be in a copy of its process")
    return standing["rollback"]


class DockerBackend(Backend):
    """Sessions in containers.

    `image` is the image to use (default: the local ``safeexec-python:<version>``, else ``python:<version>-slim``), `python` its interpreter;
    `runtime` names a runtime of the daemon, ``"runsc"`` for gVisor; `pool` containers are kept warm, each replaced after `pool_age` seconds; a
    session ends after `idle` seconds without a step or `lifetime` seconds in all; `cpus` bounds the processor time; `url` is the daemon's address.
    `loopback` lets the session's code make TCP and UDP sockets, which reach nothing but its container; None: where the kernel counts what lies in them
    in the container's memory (the second version of control groups, gVisor), or ``Policy.network`` needs them.
    `build_network` and `build_env` are for the container in which pip installs ``Policy.packages``, never for a session's.

    ``Policy.imports`` None lets in all that the image has; a list is a rule for the session's own code, not a wall. Raises BackendUnavailable
    with what to do, PolicyError.
    """

    name = "docker"
    _files_shared = True
    """False: treat the daemon as one that does not see this machine's files."""

    def __init__(
        self,
        policy: Policy,
        *,
        image: str | None = None,
        python: str = "python3",
        runtime: str = "",
        pool: int = 0,
        pool_age: float = 3600.0,
        idle: float | None = None,
        lifetime: float | None = None,
        cpus: float = 1.0,
        loopback: bool | None = None,
        url: str | None = None,
        build_network: str | None = None,
        build_env: Mapping[str, str] | None = None,
    ) -> None:
        if type(pool) is not int or pool < 0:
            raise PolicyError(f"pool must be a number of containers, 0 or more, not {pool!r}")
        if type(cpus) not in (int, float) or not cpus >= 0.01:
            raise PolicyError(f"cpus must be a number, at least 0.01, not {cpus!r}")
        for name, seconds in (("pool_age", pool_age), ("idle", idle), ("lifetime", lifetime)):
            if seconds is None and name != "pool_age":
                continue
            # Said now: the clocks run in a thread that nobody hears.
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > 0:
                raise PolicyError(f"{name} must be a number of seconds, more than 0, not {seconds!r}")
        self._policy = policy
        self._image = image
        self._python = python
        self._runtime = runtime
        self._cpus = float(cpus)
        if loopback not in (None, True, False):
            raise PolicyError(f"loopback must be True, False or None, not {loopback!r}")
        self._loopback = loopback
        self._build = (build_network, dict(build_env or {}))
        self._token = uuid.uuid4().hex
        self._live: weakref.WeakSet[DockerGuest] = weakref.WeakSet()
        self._state = threading.Condition()
        self._removing = 0
        self._left: set[str] = set()
        self._closed = False
        self._images: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {}
        self._resolving = Places()
        self._check(policy)
        self._client = daemon.connect(url)
        self._watcher: Watcher | None = None
        self._pool: Pool | None = None
        try:
            with daemon.errors_mapped("asking the daemon"):
                version = self._client.version()
                info = self._client.info()
                reaped = reaper.reap(self._client)
            self._info = info
            self._podman = daemon.is_podman(version)
            if self._loopback is None and (config.counts_sockets(info) or runtime.startswith("runsc")):
                self._loopback = True
            self._daemon = str(info.get("ID") or info.get("Name"))
            if runtime and not self._podman and runtime not in (info.get("Runtimes") or {}):
                raise BackendUnavailable(
                    f"the docker daemon knows no runtime {runtime!r}, only {', '.join(sorted(info.get('Runtimes') or {}))}: register it in daemon.json"
                )
            self._watcher = Watcher(url or "", self._token)
            address = daemon.address(self._client)
            direct.sweep()
            local = address.startswith("unix://") and not self._podman and self._daemon not in _elsewhere
            self._hosts = config.hosts_file() if self._files_shared and local else ""
            shape, self._walls, first = self._first(policy)
            self._facts = daemon.facts(self._client, version, info, runtime, shape.image, len(reaped))
            self._require(self._walls, policy)
            self._pool_shape = shape
            self._pool = Pool(pool, lambda: self._start(shape), self._living, idle, lifetime, pool_age)
            if first is not None:
                self._pool.add(first)
        except BaseException:
            self.close()
            raise

    # -- what can be honoured ----------------------------------------------------------------------------------------------

    def _check(self, policy: Policy) -> None:
        if self._loopback is False and policy.network:
            raise PolicyError(
                "Policy.network reaches programs over the container's loopback interface: leave loopback=False away"
            )
        if self._runtime.startswith("runsc") and "processes" in policy.limits.changed():
            raise PolicyError(
                "Limits.processes: gVisor counts its own kernel's threads among the container's, so no exact bound can be held; leave it "
                f"as it is ({config.GVISOR_PIDS} in all)"
            )

    def _shape(self, policy: Policy) -> config.Shape:
        key = tuple(sorted(set(policy.packages)))
        # Others wait for the same image alone: to pull one, or to have pip install into it, takes minutes.
        with self._resolving.of(key):
            if key not in self._images:
                image = images.resolve(self._client, self._image)
                if key:
                    image = images.with_packages(
                        self._client, image, key, self._token, *self._build, python=self._python
                    )
                with daemon.errors_mapped("looking at the image"):
                    attributes = self._client.images.get(image).attrs
                declared = (attributes.get("Config") or {}).get("Volumes") or {}
                self._images[key] = (image, tuple(declared))
            image, _ = self._images[key]
        shape = config.shape(image, self._runtime, policy.limits, self._cpus, self._hosts)
        return replace(
            shape,
            returns=shape.direct and policy.rollback != "never" and not policy.network,
            loopback=bool(self._loopback or policy.network),
        )

    def _require(self, standing: Mapping[str, Wall], policy: Policy) -> None:
        rollback = _rollback_wall(standing, policy)
        if policy.rollback in ("limits", "errors") and not rollback.active:
            raise PolicyError(f"Policy.rollback={policy.rollback!r}: {rollback.reason}; leave it None, or set 'never'")
        walls.require({**standing, "rollback": rollback}, policy)

    # -- starting ----------------------------------------------------------------------------------------------------------

    def _launch(self, shape: config.Shape, text: bytes, role: str) -> tuple[DockerGuest, wire.Frame]:
        if shape.hosts:
            config.hosts_file()  # somebody may have cleaned up in the folder for temporary files
        volumes = next((v for image, v in tuple(self._images.values()) if image == shape.image), ())
        guest, frame = launch.start(
            self._client,
            shape,
            python=self._python,
            text=text,
            token=self._token,
            role=role,
            podman=self._podman,
            profile=config.profile(self._podman, shape.loopback),
            volumes=volumes,
            max_frame=self._policy.limits.value + wire.MAX_HEADER,
            remove=self._remove_later,
        )
        with self._state:
            self._live.add(guest)
        return guest, frame

    def _living(self) -> list[DockerGuest]:
        # Under the lock: a set must not grow while another thread goes through it.
        with self._state:
            return list(self._live)

    def _first(self, policy: Policy) -> tuple[config.Shape, dict[str, Wall], DockerGuest | None]:
        """The shape of `policy`'s containers, their walls, and the container that was looked at, if one was."""
        shape = self._shape(policy)
        try:
            return shape, *self._prepare(shape)[1:]
        except BackendUnavailable:
            if not shape.hosts:
                raise
            # Whatever it was, a second failure says it better; but most likely the daemon cannot mount a file of ours.
            self._hosts = ""
            shape = self._shape(policy)
            found = self._prepare(shape)
            _elsewhere.add(self._daemon)
            return shape, *found[1:]

    def _prepare(self, shape: config.Shape) -> tuple[bytes, dict[str, Wall], DockerGuest | None]:
        """The compiled program and the walls of a shape's kind; the container that found them out, unused, if one had to."""
        key = (self._daemon, shape.image, shape.runtime, self._python, shape.hosts, shape.loopback)
        with _preparing.of(key):  # a daemon that hangs holds up nobody who wants another
            known = _prepared.get(key)
            if known is not None:
                return (*known, None)
            guest, (header, blobs) = self._launch(shape, program.source(), "session")
            try:
                if header.get("t") != "program" or len(blobs) != 1:
                    raise BackendUnavailable("the image's interpreter did not run the guest program")
                found = (bytes(blobs[0]), walls.judge(header["look"], shape, self._info))
            except BaseException:
                guest.close()
                raise
            if len(_prepared) > 64:
                _prepared.clear()
            _prepared[key] = found
            return (*found, guest)

    def _start(self, shape: config.Shape) -> DockerGuest:
        text, _, first = self._prepare(shape)
        return first if first is not None else self._launch(shape, text, "session")[0]

    def start(self, policy: Policy) -> Guest:
        """See the base class."""
        if self._closed or self._pool is None:
            raise SessionClosed("the executor is closed")
        if policy is not self._policy:
            self._check(policy)
        shape = self._shape(policy)
        guest = self._pool.take() if shape == self._pool_shape else None
        if policy is not self._policy:
            _, standing, first = self._prepare(shape)
            if first is not None and guest is None:
                guest = first
            elif first is not None:
                first.close()
            try:
                self._require(standing, policy)
            except BaseException:
                if guest is not None:
                    guest.close()
                raise
        if guest is None:
            guest = self._start(shape)
        guest.limit_frames(policy.limits.value + wire.MAX_HEADER)
        imports = None if policy.imports is None else list(policy.imports)
        try:
            guest.send(({"imports": imports}, ()))
        except BaseException:
            guest.close()
            raise
        return guest

    @property
    def isolation(self) -> Mapping[str, Wall]:
        """See the base class. Looked at from inside a container, before any other code ran in one."""
        return {**self._walls, "rollback": _rollback_wall(self._walls, self._policy)}

    @property
    def facts(self) -> Mapping[str, str]:
        """See the base class."""
        return dict(self._facts)

    @classmethod
    def orphans(cls) -> Sequence[Orphan]:
        """See the base class. Asks the daemon that an executor without `url` would use."""
        return reaper.orphans()

    # -- ending ------------------------------------------------------------------------------------------------------------

    def _remove_later(self, identity: str) -> None:
        with self._state:
            self._removing += 1

        def work() -> None:
            try:
                reaper.remove(self._client, identity)
            except (docker.errors.DockerException, requests.RequestException):
                with self._state:
                    self._left.add(identity)  # the watcher tries again, and the next start's reaper
            finally:
                with self._state:
                    self._removing -= 1
                    self._state.notify_all()

        try:
            threads.start(work)
        except RuntimeError:  # there is no thread to be had, and whoever ends a container must not wait for the daemon
            with self._state:
                self._left.add(identity)  # as above
                self._removing -= 1

    def close(self) -> None:
        """See the base class. Returns when the containers are gone."""
        with self._state:
            if self._closed:
                return
            self._closed = True
        if self._pool is not None:
            self._pool.close()
        for guest in self._living():
            guest.close()
        with self._state:
            done = self._state.wait_for(lambda: not self._removing, _REMOVE_SECONDS)
        if self._watcher is not None:
            self._watcher.close(clean=done and not self._left)
        self._client.close()


def _after_fork() -> None:
    # Whoever holds one of these is not in the child.
    global _preparing
    _preparing = Places()
    images.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
