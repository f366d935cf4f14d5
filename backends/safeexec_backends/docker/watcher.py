"""A small process that outlives its host by a moment and removes the containers the host leaves behind.

It waits for the end of a pipe that only the host holds open: the kernel closes it however the host ends, SIGKILL included. Started as a program;
imports nothing until it is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

from safeexec_backends.docker.daemon import ENVIRONMENT

_PROGRAM = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
said = b""
while True:
    piece = os.read(0, 64)
    if not piece:
        break
    said += piece
if not said:
    sys.path[:0] = sys.argv[3:]
    from safeexec_backends.docker.watcher import clean
    clean(sys.argv[1] or None, sys.argv[2])
"""
"""Signals are ignored: Ctrl-C and a terminal's hang-up reach the whole session, and the containers must go then, not the watcher."""

_ROUNDS, _PAUSE = 240, 0.25

_live: weakref.WeakSet[Watcher] = weakref.WeakSet()


class Watcher:
    """The watcher of one backend object, whose containers carry the label `token`."""

    def __init__(self, url: str, token: str) -> None:
        self._lock = threading.Lock()
        self._open = True
        # It must find the same daemon.
        environment = {key: os.environ[key] for key in os.environ if key.startswith(ENVIRONMENT)}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, url, token, *_paths()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env=environment,
        )
        _live.add(self)

    def close(self, clean: bool) -> None:
        """End it. `clean` says that nothing is left for it to do; otherwise it removes what there is. Idempotent."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        assert self._process.stdin is not None
        try:
            if clean:
                self._process.stdin.write(b"clean")
            self._process.stdin.close()
        except BrokenPipeError:  # somebody killed it
            pass
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """In a forked child: let go of the pipe, or the watcher would wait for the child too."""
        if self._process.stdin is not None and self._open:
            os.close(self._process.stdin.fileno())
            self._open = False


def clean(url: str | None, token: str) -> None:
    """Remove every container of the backend object `token`, as far as it can be done in a minute."""
    import docker.errors
    import requests

    from safeexec_backends.docker import daemon, reaper

    client = daemon.connect(url)
    for number in range(_ROUNDS):
        if number > 1:
            # One that is being removed by another, or cannot be, is found again: not to be asked for as fast as the daemon answers, for ever.
            time.sleep(_PAUSE)
        found = reaper.find(client, token)
        if not found:
            return
        for item in found:
            try:
                reaper.remove(client, item.id)
            except (docker.errors.DockerException, requests.RequestException):
                continue  # the others first; this one in the next round, or by the reaper of the next host


def _paths() -> list[str]:
    # What the host imports from, without its script's folder: a file there must not run in its place.
    return [path for path in sys.path[1:] if path and os.path.isabs(path)] + [str(Path(__file__).parents[2])]


def _after_fork() -> None:
    for watcher in list(_live):
        watcher.forget()
    _live.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
