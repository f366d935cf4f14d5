"""Names and event loops in the guest: nothing is looked up here, and a loop connects without threads. What ``inside`` says of itself holds for this."""

from __future__ import annotations

import importlib.abc
import importlib.util
import socket
import sys
from collections.abc import Callable
from typing import Any

import safeexec_inside as inside  # type: ignore[import-not-found, unused-ignore]

_SERVICES = {"http": 80, "https": 443}


def install_names(real: Callable[..., Any]) -> None:
    """Make ``socket.getaddrinfo`` answer with the name itself: the host looks it up, where it connects."""

    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[Any]:
        if isinstance(host, (bytes, bytearray)):
            host = bytes(host).decode("idna")
        if not host or type not in (0, socket.SOCK_STREAM) or flags & socket.AI_PASSIVE:
            return list(real(host, port, family, type, proto, flags))
        if isinstance(port, (bytes, str)):
            text = port.decode() if isinstance(port, bytes) else port
            port = _SERVICES.get(text, int(text) if text.isdigit() else None)
            if port is None:
                raise socket.gaierror(socket.EAI_SERVICE, "unknown service")
        six = ":" in host
        if not six and flags & socket.AI_NUMERICHOST and not inside.is_address(host):
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        if family not in (0, socket.AF_INET6 if six else socket.AF_INET):
            raise socket.gaierror(socket.EAI_NONAME, "no address of this family")
        canonical = host if flags & socket.AI_CANONNAME else ""
        if six:
            return [(socket.AF_INET6, socket.SOCK_STREAM, 6, canonical, (host, port or 0, 0, 0))]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, canonical, (host, port or 0))]

    socket.getaddrinfo = getaddrinfo


class _AfterImport(importlib.abc.MetaPathFinder):
    """Does something right after a module was imported."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name = name
        self._action = action

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        run = loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            self._action()

        loader.exec_module = exec_module
        return spec


def after_import(name: str, action: Callable[[], None]) -> None:
    """Do it now if the module is there, else once it is: importing it for nothing would cost a session tens of milliseconds."""
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _AfterImport(name, action))


def install_loop(network: Any, begin: Callable[[Any, Any], Any]) -> None:
    """Make asyncio's event loops look names up and connect without threads, and without blocking."""
    after_import("asyncio.selector_events", lambda: _install_loop(network, begin))


def _install_loop(network: Any, begin: Callable[[Any, Any], Any]) -> None:
    from asyncio import base_events, selector_events

    original = selector_events.BaseSelectorEventLoop.sock_connect

    async def getaddrinfo(
        self: Any, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        return socket.getaddrinfo(host, port, family, type, proto, flags)

    async def sock_connect(self: Any, sock: Any, address: Any) -> None:
        connection = begin(sock, address)
        if connection is None:
            await original(self, sock, address)
            return
        if not isinstance(connection, inside.Connection):  # connected already
            return
        future = self.create_future()

        def set_result() -> None:
            if not future.done():
                future.set_result(None)

        def settled() -> None:
            if connection.settled:
                if sys.platform == "emscripten":  # the loop's own thread reads the frames
                    set_result()
                else:
                    try:
                        self.call_soon_threadsafe(set_result)
                    except RuntimeError:  # the loop was closed
                        pass

        with network.lock:
            before = connection.notify

            def both() -> None:
                if before is not None:
                    before()
                settled()

            connection.notify = both
            settled()
        network.waiters += 1
        try:
            await future
        finally:
            network.waiters -= 1
            connection.notify = before
        if connection.error is not None and not connection.pieces:
            raise connection.error

    base_events.BaseEventLoop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]
    selector_events.BaseSelectorEventLoop.sock_connect = sock_connect  # type: ignore[method-assign]
