"""The modal backend: creates sandboxes and says what holds in them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from safeexec.backend import Wall
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.policy import Policy
from safeexec_backends._remote import program
from safeexec_backends._remote.backend import RemoteBackend, common_walls, need_sdk
from safeexec_backends._remote.faults import Fault, Gone, Secret, retry
from safeexec_backends._remote.guest import Transport, log

OWN_MEMORY = 256
"""MiB that the interpreter, the relay and Modal's own processes may have beside ``Limits.memory``."""
LONGEST = 24 * 3600


class ModalBackend(RemoteBackend):
    """Sandboxes at Modal.

    `token_id`, `token_secret`: else the environment's MODAL_TOKEN_ID and MODAL_TOKEN_SECRET. `app`: name of the app they belong to, made if missing. `image`:
    a ``modal.Image``, or the name of one in a registry; otherwise Debian with `python_version`. `timeout`: seconds a sandbox lives at most, which Modal
    cannot put off. `internet`: let the code reach the internet, which is off otherwise. `cpu`, `region`: as Modal has them. `start_timeout`: seconds for the
    guest to start, an image that must be built included. Raises BackendUnavailable without the SDK or a token, PolicyError.
    """

    name = "modal"
    vendor = "Modal"

    def __init__(
        self,
        policy: Policy,
        *,
        token_id: str | None = None,
        token_secret: str | None = None,
        app: str = "safeexec",
        image: Any = None,
        python_version: str = "3.12",
        timeout: int = 3600,
        internet: bool = False,
        cpu: float | None = None,
        region: str | None = None,
        python: str = "python3",
        start_timeout: float = 300.0,
    ) -> None:
        need_sdk("modal", "modal")
        token_id = token_id or os.environ.get("MODAL_TOKEN_ID")
        secret = token_secret or os.environ.get("MODAL_TOKEN_SECRET")
        if not token_id or not secret:
            raise BackendUnavailable(
                "the modal sandbox needs a token: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or pass token_id= and token_secret="
            )
        if not 0 < timeout <= LONGEST:
            raise PolicyError(f"timeout= must be from 1 to {LONGEST} seconds")
        import modal  # not before it is sure to be needed: it takes a second

        # The SDK's HTTP/2 library writes every header to its debug log, the token among them.
        if logging.getLogger("hpack").level == logging.NOTSET:
            logging.getLogger("hpack").setLevel(logging.INFO)
        self._modal: Any = modal
        self._token_id = Secret(token_id)
        self._key = Secret(secret)
        self._app_name = app
        self._image = image
        self._python_version = python_version
        self._timeout = timeout
        self._internet = internet
        self._more = {"cpu": cpu, "region": region}
        self._python = python
        self._connect_lock = threading.Lock()
        self._client: Any = None
        self._app: Any = None
        super().__init__(policy, start_timeout)

    @property
    def isolation(self) -> Mapping[str, Wall]:
        network = Wall(True, "no network, by Modal's own rule for the sandbox")
        if self._internet:
            network = Wall(False, "internet=True: the sandbox reaches the internet")
        return {**common_walls("a gVisor container at Modal"), "network": network}

    def check(self, policy: Policy) -> None:
        super().check(policy)
        program.requirements(policy.packages)

    def _connected(self) -> tuple[Any, Any]:
        """The client and the app. Raises Fault."""
        from safeexec_backends.modal.faults import translated

        with self._connect_lock, translated(self._key):
            if self._client is None:
                # A client of our own: the token of the environment's profile is not ours to use.
                self._client = self._modal.Client.from_credentials(self._token_id.reveal(), self._key.reveal())
            if self._app is None:
                self._app = self._modal.App.lookup(self._app_name, client=self._client, create_if_missing=True)
            return self._client, self._app

    def _make_image(self, policy: Policy) -> Any:
        image = self._image
        if image is None:
            image = self._modal.Image.debian_slim(python_version=self._python_version)
        elif isinstance(image, str):
            image = self._modal.Image.from_registry(image)
        # The image is built by Modal, with a network; the sandbox has none.
        return image.pip_install(*program.requirements(policy.packages)) if policy.packages else image

    def open(self, policy: Policy) -> Transport:
        from safeexec_backends.modal.faults import translated
        from safeexec_backends.modal.transport import ModalTransport

        client, app = self._connected()
        memory = -(-policy.limits.memory // 2**20) + OWN_MEMORY
        with translated(self._key):
            # Not repeated by us: it makes a sandbox. The SDK repeats it under a key of its own, by which Modal makes one only.
            sandbox = self._modal.Sandbox.create(
                app=app,
                client=client,
                image=self._make_image(policy),
                timeout=self._timeout,
                block_network=not self._internet,
                memory=(128, memory),
                **self._more,
            )
        try:
            return ModalTransport(sandbox, program.arguments(policy, self._python), self._key)
        except BaseException:
            self._discard(sandbox)
            raise

    def _discard(self, sandbox: Any) -> None:
        from safeexec_backends.modal.faults import translated

        def end() -> None:
            with translated(self._key):
                sandbox.terminate()

        try:
            retry(end, attempts=3)
        except Gone:
            pass
        except Fault as error:
            log.warning("sandbox %s could not be ended, it stays until it expires: %s", sandbox.object_id, error)

    def close(self) -> None:
        super().close()
        with self._connect_lock:
            client, self._client, self._app = self._client, None, None
        if client is not None:
            client.close()
