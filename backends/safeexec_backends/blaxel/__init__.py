"""The ``blaxel`` sandbox: microVMs at Blaxel, through its SDK ``blaxel``."""

from safeexec_backends.blaxel.backend import BlaxelBackend

BACKEND = BlaxelBackend

__all__ = ["BACKEND", "BlaxelBackend"]
