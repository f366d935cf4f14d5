"""What the host's half of this sandbox and its workers agree on; the host's half loads nothing of wasmtime."""

from __future__ import annotations

from typing import Final

WORD: Final = b"\x01\0\0\0"
KEEP, BEGIN, WRITE = range(3)
"""What a frame of one byte asks of the worker: keep a checkpoint, say when the session is ready, write down its state."""
_SNAPSHOT: Final = 2


def engine(identity: str) -> str:
    """What can read the snapshots of sessions of the image with this identity."""
    return f"wasm-{_SNAPSHOT}-{identity}"
