"""One sandbox at Blaxel, with the relay as a process in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from safeexec_backends._remote.faults import Gone, Secret, retry
from safeexec_backends._remote.guest import Transport
from safeexec_backends.blaxel.faults import translated

PROCESS = "safeexec"
WRITE_TIMEOUT = 20.0


class BlaxelTransport(Transport):
    """`sandbox` is a ``SyncSandboxInstance`` of the control plane, `life` the seconds it lives at most. Raises Fault.

    What goes into the sandbox goes with a token for this sandbox alone: with the instance that the control plane returns, the SDK would send the
    workspace's key to the sandbox's address with every call.
    """

    def __init__(self, sandbox: Any, life: int, key: Secret) -> None:
        from blaxel.core.sandbox import SyncSandboxInstance

        self.name = str(sandbox.metadata.name)
        self._sandbox = sandbox
        self._key = key
        self._command = ""
        self._said = ""
        expires = datetime.now(UTC) + timedelta(seconds=life)

        def open_session() -> Any:
            with translated(key):
                return sandbox.sessions.create({"expires_at": expires})

        self._process = SyncSandboxInstance.from_session(retry(open_session)).process
        # One client for all input: the SDK's write_stdin makes a new one, with a new connection, for each call.
        self._client = self._process.get_api_client()
        self._client.with_timeout(_timeout())

    def run(self, command: str) -> tuple[int, str]:
        """Run a command to its end; its exit code and standard error. Raises Fault."""
        said: list[str] = []
        with translated(self._key):
            done = self._process.exec(
                {"command": command, "wait_for_completion": True, "timeout": 300, "on_stderr": said.append}
            )
        return int(done.exit_code), "\n".join(said)[-1000:]

    def begin(self, command: str) -> Transport:
        """The command that :meth:`read` starts."""
        self._command = command
        return self

    def read(self, take: Callable[[bytes], None]) -> None:
        def out(text: str) -> None:
            take(text.encode())

        def err(text: str) -> None:
            self._said = (self._said + text + "\n")[-2000:]

        request = {
            "name": PROCESS,
            "command": self._command,
            "stdin": True,
            "wait_for_completion": True,
            "timeout": 0,
            "on_stdout": out,
            "on_stderr": err,
        }
        with translated(self._key):
            # Starts it and follows its output in one request: its log stream, which reconnects, would need the workspace's key.
            self._process.exec(request)

    def write(self, data: bytes) -> None:
        from blaxel.core.sandbox.client.api.process import post_process_identifier_stdin
        from blaxel.core.sandbox.client.models import SuccessResponse
        from blaxel.core.sandbox.types import api_result

        with translated(self._key, repeatable=True):
            answer = post_process_identifier_stdin.sync_detailed(PROCESS, client=self._client, body=data)  # type: ignore[arg-type,unused-ignore]
            api_result(answer, SuccessResponse)

    def destroy(self) -> None:
        try:
            with translated(self._key):
                self._sandbox.delete()
        except Gone:
            pass  # as wanted
        self._client.get_httpx_client().close()

    def complaint(self) -> str:
        return self._said.strip()


def _timeout() -> Any:
    import httpx

    return httpx.Timeout(WRITE_TIMEOUT)
