"""The ``e2b`` sandbox: Firecracker microVMs at E2B, through its SDK ``e2b-code-interpreter``."""

from safeexec_backends.e2b.backend import E2BBackend

BACKEND = E2BBackend

__all__ = ["BACKEND", "E2BBackend"]
