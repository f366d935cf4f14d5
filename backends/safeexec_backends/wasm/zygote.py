"""The zygote of the wasm workers: loads the image once, builds the walls, forks a worker at each order."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safeexec_backends.local import control
from safeexec_backends.local import zygote as local
from safeexec_backends.local.cell import Order

_IMAGE_DESCRIPTOR = 64
"""Where the image's descriptors begin: above those that cells keep for themselves."""


@contextlib.contextmanager
def _numbered_from(first: int) -> Iterator[None]:
    """Files opened inside get descriptors of at least `first`."""
    filler = [os.open(os.devnull, os.O_RDONLY)]
    while filler[-1] < first - 1:
        filler.append(os.dup(filler[0]))
    try:
        yield
    finally:
        for fd in filler:
            os.close(fd)


def _open_files(path: Path) -> Iterator[int]:
    """The descriptors that are open on a file."""
    wanted = os.stat(path)
    for fd in range(_IMAGE_DESCRIPTOR, _IMAGE_DESCRIPTOR + 64):
        try:
            info = os.fstat(fd)
        except OSError:
            continue
        if (info.st_dev, info.st_ino) == (wanted.st_dev, wanted.st_ino):
            yield fd


PAGEMAP_DESCRIPTOR = _IMAGE_DESCRIPTOR + 64
"""Where a worker finds its own pagemap, by which it tells the pages that a session wrote to."""
MAPS_DESCRIPTOR = PAGEMAP_DESCRIPTOR + 1
"""Where it finds the list of its own memory maps, of which it may have so many."""


class WasmZygote(local.Zygote):
    """A zygote whose cells are workers."""

    keeps = False

    @classmethod
    def warm(cls) -> None:
        # Not at the top: the safeexec package exists only once `main` has made its stand-in.
        from . import abi, instance, worker  # noqa: F401
        from .image import cache  # noqa: F401

        abi.library()

    def prepare(self) -> control.Message:
        from .image import cache
        from .instance import Runtime
        from .worker import Worker

        self._worker = Worker
        # Before the walls: behind them the cache is out of reach. The forked workers inherit the mapping.
        loaded = cache.load(Path(self._setup["image"]))
        with _numbered_from(_IMAGE_DESCRIPTOR):
            self._runtime = Runtime(loaded)
        # wasmtime maps the image anew for every instance, through the descriptor it opened it with.
        self._ground.plan.pinned = tuple(_open_files(loaded.compiled))
        if not self._ground.plan.pinned:
            raise RuntimeError("the image's descriptor was not found")
        self._ground.plan.own_files = {PAGEMAP_DESCRIPTOR: "self/pagemap", MAPS_DESCRIPTOR: "self/maps"}
        # A session's socket arrives as a descriptor; branches share their pages through a file in memory.
        self._ground.plan.allow = ("recvmsg", "memfd_create")
        return super().prepare()

    def _address_space(self) -> int:
        return 0  # no RLIMIT_AS: every instance reserves 4 GiB of addresses, and has a limit of its own

    def _serve_guest(self, fd: int, language: Any, order: Order) -> None:
        from .pages import finder
        from .room import room

        for adopt, descriptor in ((finder.adopt, PAGEMAP_DESCRIPTOR), (room.adopt, MAPS_DESCRIPTOR)):
            with contextlib.suppress(OSError):  # not there where the walls are built without a user namespace
                os.fstat(descriptor)
                adopt(descriptor)
        self._worker(self._runtime, socket.socket(fileno=fd)).serve()


def main(descriptor: int, package: str) -> None:
    """See `safeexec_backends.local.zygote.main`."""
    local.main(descriptor, package, WasmZygote)
