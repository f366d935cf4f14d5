"""One sandbox at Modal, with the relay as a process in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safeexec_backends._remote.faults import Fault, Secret
from safeexec_backends._remote.guest import Transport
from safeexec_backends.modal.faults import translated


class ModalTransport(Transport):
    """`sandbox` is a ``modal.Sandbox``; `words` start the relay. Raises Fault."""

    def __init__(self, sandbox: Any, words: list[str], key: Secret) -> None:
        self.name = str(sandbox.object_id)
        self._sandbox = sandbox
        self._key = key
        with translated(key):
            self._process = sandbox.exec(*words, text=False)

    def read(self, take: Callable[[bytes], None]) -> None:
        with translated(self._key):
            for piece in self._process.stdout:
                take(piece)

    def write(self, data: bytes) -> None:
        with translated(self._key):
            # The SDK repeats a write that failed from where it stopped. What it gives up stays in its buffer, and goes out twice when
            # this is called again.
            self._process.stdin.write(data)
            self._process.stdin.drain()

    def destroy(self) -> None:
        with translated(self._key):
            self._sandbox.terminate()
            self._sandbox.detach()  # ends the connection to the machine, which would stay open for a while

    def complaint(self) -> str:
        # Asked for when standard output has ended, so standard error has too.
        try:
            with translated(self._key):
                said = self._process.stderr.read()
        except Fault:
            return ""
        return bytes(said)[-2000:].decode("utf-8", "replace").strip()
