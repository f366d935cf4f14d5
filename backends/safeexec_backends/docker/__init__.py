"""The docker sandbox: the guest program in a hardened container, or in gVisor by ``runtime="runsc"``."""

from __future__ import annotations

from safeexec_backends.docker.backend import DockerBackend

BACKEND = DockerBackend

__all__ = ["BACKEND", "DockerBackend"]
