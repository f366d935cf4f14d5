"""One sandbox at E2B, with the relay as a background command in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safeexec_backends._remote.faults import Gone, Secret
from safeexec_backends._remote.guest import Transport
from safeexec_backends.e2b.faults import translated

REQUEST_TIMEOUT = 20.0
"""Seconds for one call to a sandbox."""


class E2BTransport(Transport):
    """`sandbox` is an ``e2b_code_interpreter.Sandbox``; `command` starts the relay, `timeout` is the sandbox's life in seconds without renewal. Raises Fault."""

    def __init__(self, sandbox: Any, command: str, key: Secret, timeout: int) -> None:
        self.name = str(sandbox.sandbox_id)
        self.sandbox = sandbox
        self._key = key
        self._timeout = timeout
        self._said = ""
        with translated(key):
            # No timeout: the session decides how long it lives. Nothing retained: the SDK would keep all output in memory.
            self._handle = sandbox.commands.run(command, background=True, stdin=True, timeout=0, retain_output=False)

    def read(self, take: Callable[[bytes], None]) -> None:
        with translated(self._key):
            for out, err, _ in self._handle:
                if out:
                    take(out.encode())
                elif err:
                    self._said = (self._said + err)[-2000:]

    def reopen(self) -> None:
        with translated(self._key):
            self._handle = self.sandbox.commands.connect(self._handle.pid, timeout=0, retain_output=False)

    def write(self, data: bytes) -> None:
        with translated(self._key):
            self.sandbox.commands.send_stdin(self._handle.pid, data, request_timeout=REQUEST_TIMEOUT)

    def destroy(self) -> None:
        with translated(self._key):
            if not self.sandbox.kill(request_timeout=REQUEST_TIMEOUT):
                raise Gone("it had ended before")

    def keep(self) -> None:
        with translated(self._key):
            self.sandbox.set_timeout(self._timeout, request_timeout=REQUEST_TIMEOUT)

    def complaint(self) -> str:
        return self._said.strip()
