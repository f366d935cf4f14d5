"""The ``modal`` sandbox: gVisor containers at Modal, through its SDK ``modal``."""

from safeexec_backends.modal.backend import ModalBackend

BACKEND = ModalBackend

__all__ = ["BACKEND", "ModalBackend"]
