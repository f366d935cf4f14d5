"""The blaxel backend: creates sandboxes and says what holds in them."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from safeexec.backend import Wall
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.policy import Policy
from safeexec_backends._remote import program
from safeexec_backends._remote.backend import RemoteBackend, common_walls, need_sdk
from safeexec_backends._remote.faults import Fault, Gone, Secret, retry
from safeexec_backends._remote.guest import Transport, log

IMAGE = "blaxel/py-app:latest"
SHORTEST = 300
"""Seconds: Blaxel lets no sandbox expire earlier."""
CLOSED = {"firewall": {"rulesets": ["proxy"]}, "proxy": {"allowedDomains": ["nothing.invalid"]}}
"""Traffic through Blaxel's proxy only, and that lets one name through which does not exist: it has no plain off."""

_log_in_lock = threading.Lock()
_logged_in: tuple[str, Secret] | None = None


class BlaxelBackend(RemoteBackend):
    """Sandboxes at Blaxel.

    `api_key`, `workspace`: else the environment's BL_API_KEY and BL_WORKSPACE; the SDK has one of each for the whole process. `image`: one with Python 3.9
    or later. `memory`: MB of the sandbox. `region`: as Blaxel has them. `timeout`: seconds a sandbox lives at most, 300 at least. `internet`: do not ask Blaxel to
    close the network. `start_timeout`: seconds for the guest to start. Raises BackendUnavailable without the SDK or a key, PolicyError.
    """

    name = "blaxel"
    vendor = "Blaxel"

    def __init__(
        self,
        policy: Policy,
        *,
        api_key: str | None = None,
        workspace: str | None = None,
        image: str = IMAGE,
        memory: int = 2048,
        region: str | None = None,
        timeout: int = 3600,
        internet: bool = False,
        python: str = "python3",
        start_timeout: float = 60.0,
    ) -> None:
        key = api_key or os.environ.get("BL_API_KEY")
        workspace = workspace or os.environ.get("BL_WORKSPACE")
        need_sdk("blaxel", "blaxel")
        if not key or not workspace:
            raise BackendUnavailable(
                "the blaxel sandbox needs a key and a workspace: set BL_API_KEY and BL_WORKSPACE, or pass api_key= and workspace="
            )
        if timeout < SHORTEST:
            raise PolicyError(f"timeout= must be {SHORTEST} seconds at least")
        self._key = Secret(key)
        _log_in(workspace, self._key)
        self._timeout = timeout
        self._internet = internet
        self._python = python
        self._asked = {"image": image, "memory": memory, "ttl": f"{timeout}s", "region": region}
        super().__init__(policy, start_timeout)

    @property
    def isolation(self) -> Mapping[str, Wall]:
        reason = "Blaxel is asked to let nothing through; that it does is not verified"
        if self._internet:
            reason = "internet=True: the sandbox reaches the internet"
        return {**common_walls("a microVM at Blaxel"), "network": Wall(False, reason)}

    def check(self, policy: Policy) -> None:
        super().check(policy)
        program.requirements(policy.packages)

    def open(self, policy: Policy) -> Transport:
        from blaxel.core.sandbox import SyncSandboxInstance

        from safeexec_backends.blaxel.faults import translated
        from safeexec_backends.blaxel.transport import BlaxelTransport

        name = f"safeexec-{uuid.uuid4().hex[:24]}"
        asked: dict[str, Any] = {**self._asked, "name": name, "labels": {"safeexec": "session"}}
        if not self._internet and not policy.packages:
            asked["network"] = CLOSED

        def create() -> Any:
            with translated(self._key):
                # By name, and "if not there": a repeated request makes no second sandbox.
                return SyncSandboxInstance.create(asked, create_if_not_exist=True)

        try:
            transport = BlaxelTransport(retry(create, attempts=3), self._timeout, self._key)
            if policy.packages:
                self._install(transport, policy)
            return transport.begin(program.command(policy, self._python, bool(policy.packages)))
        except BaseException:
            self._discard(name)  # also when the answer to its creation was lost
            raise

    def _install(self, transport: Any, policy: Policy) -> None:
        """Install packages, then ask for the network that was open for it to be closed, before any code runs."""
        from blaxel.core.sandbox import SyncSandboxInstance
        from blaxel.core.sandbox.types import SandboxUpdateNetwork

        from safeexec_backends.blaxel.faults import translated

        code, said = transport.run(program.install_command(policy.packages, self._python))
        if code:
            names = ", ".join(policy.packages)
            raise BackendUnavailable(f"installing {names} in the sandbox failed: {said}")
        if not self._internet:

            def shut() -> None:
                with translated(self._key):
                    SyncSandboxInstance.update_network(transport.name, SandboxUpdateNetwork(network=CLOSED))

            retry(shut)

    def _discard(self, name: str) -> None:
        from blaxel.core import sandbox

        from safeexec_backends.blaxel.faults import translated

        instances: Any = sandbox.SyncSandboxInstance  # its delete is attached to it after the class

        def delete() -> None:
            with translated(self._key):
                instances.delete(name)

        try:
            retry(delete, attempts=3)
        except Gone:
            pass
        except Fault as error:
            log.warning("sandbox %s could not be ended, it stays until it expires: %s", name, error)


def _log_in(workspace: str, key: Secret) -> None:
    """Give the SDK its credentials, which it keeps for the whole process. Raises BackendUnavailable when it has others of ours."""
    from blaxel.core.authentication import CredentialsType
    from blaxel.core.authentication.apikey import ApiKey
    from blaxel.core.client.client import client
    from blaxel.core.common.settings import settings

    global _logged_in
    with _log_in_lock:
        if _logged_in is not None and (_logged_in[0], _logged_in[1].reveal()) != (workspace, key.reveal()):
            raise BackendUnavailable("Blaxel's SDK has one key for a whole process, and another is in use in this one")
        if _logged_in is None:
            auth = ApiKey(CredentialsType(api_key=key.reveal(), workspace=workspace), workspace, settings.base_url)
            settings.auth = auth
            client.with_auth(auth)
            _logged_in = (workspace, key)
