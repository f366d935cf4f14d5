"""What a service meets in weeks: no threads for a moment, a daemon that hangs, many sessions at once. No daemon is asked."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("docker", reason="the docker SDK is not installed: pip install 'safeexec[docker]'")

from safeexec import Policy
from safeexec.testing.base import eventually
from safeexec_backends.docker import backend as docker_backend
from safeexec_backends.docker import daemon, images, reaper, watcher
from safeexec_backends.docker import pool as docker_pool
from safeexec_backends.docker.backend import DockerBackend
from safeexec_backends.docker.container import DockerGuest
from safeexec_backends.docker.direct import Direct
from safeexec_backends.docker.pool import Pool


def guest() -> DockerGuest:
    frames, control = socket.socketpair(), socket.socketpair()
    made = DockerGuest(None, "identity", Direct(frames[0], control[0]), 2**20, lambda identity: None)
    made.theirs = (frames[1], control[1])  # type: ignore[attr-defined]
    return made


class Cheap:
    """A guest that only is there."""


class Bare(DockerBackend):
    """A backend without a daemon."""

    def __init__(self) -> None:
        import weakref

        from safeexec.places import Places

        self._client = types.SimpleNamespace(close=lambda: None)
        self._live = weakref.WeakSet()
        self._state = threading.Condition()
        self._removing, self._left, self._closed = 0, set(), False
        self._images, self._resolving = {}, Places()
        self._image, self._token, self._build, self._python = None, "token", (None, {}), "python3"
        self._runtime, self._cpus, self._hosts, self._loopback = "", 1.0, "", None
        self._watcher = self._pool = None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    said: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: said.append(str(args.exc_value)))
    monkeypatch.setattr(docker_pool, "_RETRY", 0.01)
    monkeypatch.setattr(docker_pool, "_TICK", 0.01)
    yield said


def test_a_pool_goes_on_after_trouble_of_any_kind(quick: list[str]) -> None:
    """Nothing would be refilled, and no idle= or lifetime= held, for the rest of the service's days."""
    tries: list[int] = []

    def make() -> DockerGuest:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("can't start new thread")
        return guest()

    pool = Pool(1, make, lambda: (), None, None, 3600)
    try:
        assert eventually(lambda: len(pool) == 1) and quick == ["can't start new thread"] * 2
    finally:
        pool.close()


def test_clocks_of_containers_go_on_after_trouble_with_one(quick: list[str]) -> None:
    stubborn, other = guest(), guest()

    def refuse(reason: Any) -> None:
        raise OSError("the daemon says no")

    stubborn.end = refuse  # type: ignore[method-assign]
    living = [stubborn]
    pool = Pool(0, guest, lambda: living, None, 0.0, 3600)
    try:
        assert eventually(lambda: "the daemon says no" in quick)
        living[:] = [other]
        assert eventually(lambda: other._removed)
    finally:
        pool.close()
        other.close()


def test_sessions_that_begin_while_the_clocks_are_looked_at_disturb_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Bare()
    monkeypatch.setattr(docker_backend.launch, "start", lambda *args, **options: (Cheap(), ({}, ())))
    over = threading.Event()
    shape = types.SimpleNamespace(hosts="", image="i", loopback=False)
    held: list[Any] = []

    def begin() -> None:
        made._podman = False
        made._policy = Policy()
        while not over.is_set():
            held.append(made._launch(shape, b"", "session")[0])  # type: ignore[arg-type]
            if len(held) > 400:
                del held[:200]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=begin)
    thread.start()
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            made._living()
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_who_waits_for_packages_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Bare()
    made._client.images = types.SimpleNamespace(get=lambda image: types.SimpleNamespace(attrs={}))  # type: ignore[attr-defined]
    building, go_on = threading.Event(), threading.Event()

    def build(*args: Any, **options: Any) -> str:
        building.set()
        assert go_on.wait(20)
        return "with packages"

    monkeypatch.setattr(images, "resolve", lambda client, name: "plain")
    monkeypatch.setattr(images, "with_packages", build)
    slow = [threading.Thread(target=lambda: made._shape(Policy(packages=("numpy",)))) for _ in range(2)]
    for thread in slow:
        thread.start()
    quick = threading.Thread(target=lambda: made._shape(Policy()), daemon=True)
    try:
        assert building.wait(10)
        quick.start()
        quick.join(10)
        assert not quick.is_alive()
    finally:
        go_on.set()
        for thread in slow:
            thread.join()
    assert {image for image, _ in made._images.values()} == {"plain", "with packages"} and not len(made._resolving)


def test_an_image_that_is_there_waits_for_none_that_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "image_id", lambda client, tag: "there")
    found: list[str] = []
    with images._lock:
        thread = threading.Thread(
            target=lambda: found.append(images.with_packages(None, "base", ["numpy"], "token", None, {})), daemon=True
        )
        thread.start()
        thread.join(10)
    assert found == ["there"]


def test_a_container_whose_removal_has_no_thread_is_left_to_the_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Bare()
    ended: list[bool] = []
    made._watcher = types.SimpleNamespace(close=lambda clean: ended.append(clean))  # type: ignore[assignment]

    def start(work: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(docker_backend.threads, "start", start)
    made._remove_later("identity")
    began = time.monotonic()
    made.close()
    assert ended == [False] and time.monotonic() - began < 10


def test_the_watcher_does_not_ask_for_ever_as_fast_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose removal hangs is found again each time, and removing it is refused at once."""
    asked: list[str] = []
    pauses: list[float] = []
    stuck = reaper.Found("stuck", "session", "dead", "1.1", True)
    failing = reaper.Found("failing", "session", "dead", "1.1", True)
    monkeypatch.setattr(daemon, "connect", lambda url: None)
    monkeypatch.setattr(reaper, "find", lambda client, token: [failing, stuck])

    def remove(client: Any, identity: str) -> None:
        import requests

        asked.append(identity)
        if identity == "failing":
            raise requests.ConnectionError

    monkeypatch.setattr(reaper, "remove", remove)
    monkeypatch.setattr(watcher.time, "sleep", pauses.append)
    watcher.clean(None, "token")
    assert 10 < asked.count("stuck") < 1000 and sum(pauses) > 30


def test_a_forked_child_waits_for_nobody_of_its_parent() -> None:
    with docker_backend._preparing.of("image"), images._lock:
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            with docker_backend._preparing.of("image"), images._lock:
                os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
