"""The e2b backend: creates sandboxes, keeps them alive while they are in use, and says what holds in them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from safeexec.backend import Guest, Wall
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.policy import Policy
from safeexec_backends._remote import program
from safeexec_backends._remote.backend import RemoteBackend, common_walls, need_sdk
from safeexec_backends._remote.faults import Fault, Gone, Secret, retry
from safeexec_backends._remote.guest import Transport, log
from safeexec_backends._remote.keeper import Keeper

INSTALL_TIMEOUT = 300.0


class E2BBackend(RemoteBackend):
    """Sandboxes at E2B.

    `api_key`: else the environment's E2B_API_KEY. `template`: its name or id. `timeout`: seconds after which E2B ends a sandbox whose host is gone;
    it is renewed while a session is open. `metadata`: labels of the sandboxes. `internet`: let the code reach the internet, which is off
    otherwise. `native`: run code by the template's own code interpreter instead of the common guest; see ``native.py`` for what that gives and costs.
    `start_timeout`: seconds for the guest to start. Raises BackendUnavailable without the SDK or a key, PolicyError.
    """

    name = "e2b"
    vendor = "E2B"

    def __init__(
        self,
        policy: Policy,
        *,
        api_key: str | None = None,
        template: str | None = None,
        timeout: int = 300,
        metadata: Mapping[str, str] | None = None,
        internet: bool = False,
        native: bool = False,
        python: str = "python3",
        start_timeout: float = 60.0,
    ) -> None:
        need_sdk("e2b_code_interpreter", "e2b")
        key = api_key or os.environ.get("E2B_API_KEY")
        if not key:
            raise BackendUnavailable("the e2b sandbox needs a key: set E2B_API_KEY, or pass api_key=")
        if timeout < 15:
            raise PolicyError("timeout= must be 15 seconds at least: it is renewed every third of it")
        import e2b_code_interpreter  # not before it is sure to be needed: it takes a second

        self._sdk: Any = e2b_code_interpreter.Sandbox
        self._key = Secret(key)
        self._template = template
        self._timeout = timeout
        self._metadata = {"safeexec": "session", **(metadata or {})}
        self._internet = internet
        self._native = native
        self._python = python
        super().__init__(policy, start_timeout)
        self._keeper = Keeper(timeout / 3, self._guests)  # type: ignore[arg-type]

    @property
    def isolation(self) -> Mapping[str, Wall]:
        network = Wall(False, "internet=True: the sandbox reaches the internet")
        if not self._internet:
            network = Wall(True, "no internet, by E2B's own rule for the sandbox")
        walls = {**common_walls("a Firecracker microVM at E2B"), "network": network}
        if self._native:
            walls["memory"] = Wall(False, "native=True: the template's machine bounds it")
            walls["imports"] = Wall(False, "native=True: the code interpreter imports what it likes")
        return walls

    def check(self, policy: Policy) -> None:
        super().check(policy)
        program.requirements(policy.packages)
        if self._native:
            from safeexec_backends.e2b.native import check_native

            check_native(policy)

    def start(self, policy: Policy) -> Guest:
        guest: Guest = self._start_native(policy) if self._native else super().start(policy)
        self._keeper.wake()
        return guest

    def _start_native(self, policy: Policy) -> Guest:
        from safeexec_backends.e2b.native import NativeGuest

        self.check(policy)
        if self._closed:
            raise BackendUnavailable("the e2b sandbox is closed")
        try:
            sandbox = self._create(policy)
        except Fault as error:
            raise BackendUnavailable(f"E2B did not start a sandbox: {error}") from None
        guest = NativeGuest(sandbox, policy, self._key, self._timeout, self._guests.discard)
        self.keep(guest)
        return guest

    def open(self, policy: Policy) -> Transport:
        from safeexec_backends.e2b.transport import E2BTransport

        sandbox = self._create(policy)
        try:
            return E2BTransport(
                sandbox, program.command(policy, self._python, bool(policy.packages)), self._key, self._timeout
            )
        except BaseException:
            self._discard(sandbox)
            raise

    def _create(self, policy: Policy) -> Any:
        from safeexec_backends.e2b.faults import translated

        identity = str(uuid.uuid4())  # one for all attempts: a repeated request makes no second sandbox

        def create() -> Any:
            with translated(self._key):
                return self._sdk.create(
                    template=self._template,
                    timeout=self._timeout,
                    metadata=self._metadata,
                    allow_internet_access=self._internet or bool(policy.packages),
                    idempotency_key=identity,
                    api_key=self._key.reveal(),
                )

        sandbox = retry(create, attempts=3)
        if policy.packages:
            try:
                self._install(sandbox, policy)
            except BaseException:
                self._discard(sandbox)
                raise
        return sandbox

    def _install(self, sandbox: Any, policy: Policy) -> None:
        """Install packages, then close the network that was open for it, before any code runs."""
        import e2b

        from safeexec_backends.e2b.faults import translated

        names = ", ".join(policy.packages)
        with translated(self._key):
            try:
                sandbox.commands.run(program.install_command(policy.packages, self._python), timeout=INSTALL_TIMEOUT)
            except e2b.CommandExitException as error:
                raise BackendUnavailable(f"installing {names} in the sandbox failed: {error.stderr[-1000:]}") from None
        if not self._internet:

            def shut() -> None:
                with translated(self._key):
                    sandbox.update_network({"allow_internet_access": False})

            retry(shut)

    def _discard(self, sandbox: Any) -> None:
        from safeexec_backends.e2b.faults import translated

        def kill() -> None:
            with translated(self._key):
                sandbox.kill(request_timeout=10.0)

        try:
            retry(kill, attempts=3)
        except Gone:
            pass
        except Fault as error:
            log.warning("sandbox %s could not be ended, it stays until it expires: %s", sandbox.sandbox_id, error)

    def close(self) -> None:
        self._keeper.stop()
        super().close()
