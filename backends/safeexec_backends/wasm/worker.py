"""A worker: many sessions' instances in one hardened process, and the loop that serves them.

The host sends orders over one control socket: start a session (with the session's own socket), interrupt it, kill it. Each session's frames go
over its own socket, as bytes: nothing here parses what a guest sends. A few threads wait for requests; whichever gets one runs that
step to its end, so no request is handed from thread to thread, and there is always one more thread that waits.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import Any, Final

from safeexec_backends.local import control

from . import writer
from .agreed import AHEAD
from .instance import Runtime
from .limits import THREAD_STACK
from .worker_session import WorkerSession

MAX_THREADS: Final = 4096
IDLE_THREADS: Final = 4


class Worker:
    """The process's sessions and the threads that serve them."""

    def __init__(self, runtime: Runtime, channel: socket.socket) -> None:
        self._runtime = runtime
        self._channel = channel
        self._epoll = select.epoll()
        self._sessions: dict[int, WorkerSession] = {}
        self._by_number: dict[int, WorkerSession] = {}
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    def serve(self) -> None:
        """Take the host's orders until it hangs up."""
        threading.stack_size(THREAD_STACK)
        self._spawn()
        while True:
            try:
                message, fds = control.receive(self._channel, AHEAD)
            except control.Lost as lost:  # the sessions whose channels did not come are hung up on
                message, fds = lost.message, lost.fds
            except (EOFError, OSError):
                os._exit(0)  # the host is gone; so are its sessions
            self._obey(message, fds)

    def _obey(self, message: control.Message, fds: list[int]) -> None:
        if message["op"] == "start":
            origin = self._find(message.get("of", 0))
            if message["mode"] == "back" and origin is not None:
                origin.kill()
            for number, fd in zip(message["ids"], fds):
                session = WorkerSession(self._runtime, socket.socket(fileno=fd), number, message, origin)
                with self._lock:
                    self._sessions[fd] = session
                    self._by_number[number] = session
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
            return
        if message["op"] == "write":
            if not fds:
                return
            channel = socket.socket(fileno=fds[0])
            try:
                threading.Thread(target=writer.serve, args=(channel, self._find, self._runtime), daemon=True).start()
            except RuntimeError:
                channel.close()  # no more threads: the host hears that its states are not kept
            return
        if message["op"] == "rest":
            for number in message["ids"]:
                resting = self._find(number)
                if resting is not None:
                    resting.rest(message["at"])
            return
        found = self._find(message["id"])
        if found is None:
            return
        if message["op"] == "kill":
            found.kill()
        elif message["op"] == "drop":
            found.drop()
            with self._lock:
                if self._sessions.get(found.descriptor) is not found:
                    self._by_number.pop(found.number, None)
                # Else it waits for its hang-up, or it runs behind a forged answer, and must be found when that is looked for.
        elif message["op"] == "interrupt":
            found.interrupt()

    def _find(self, number: int) -> WorkerSession | None:
        with self._lock:
            return self._by_number.get(number)

    def _spawn(self) -> None:
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError:
            return  # no more threads to be had: requests wait until a step ends
        self._threads += 1

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._idle >= IDLE_THREADS:
                    self._threads -= 1
                    return
                self._idle += 1
            events: list[Any] = []
            while not events:
                events = self._epoll.poll(maxevents=1)
            with self._lock:
                self._idle -= 1
                if not self._idle and self._threads < MAX_THREADS:
                    self._spawn()
                session = self._sessions[events[0][0]]
            if session.serve():
                self._epoll.modify(session.socket.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
            else:
                self._drop(session)

    def _drop(self, session: WorkerSession) -> None:
        fd = session.socket.fileno()
        self._epoll.unregister(fd)
        with self._lock:
            del self._sessions[fd]
            # Else the host may come back to its checkpoint, and says when it will not.
            if session.dropped or not session.kept:
                self._by_number.pop(session.number, None)
                session.dropped = True
        session.close()
