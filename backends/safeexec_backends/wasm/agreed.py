"""What the host's half of this sandbox and its workers agree on; the host's half loads nothing of wasmtime."""

from __future__ import annotations

import struct
from typing import Final

WORD: Final = b"\x01\0\0\0"
KEEP, BEGIN, WRITE, LAST = range(4)
"""What a frame of one byte says to the worker: keep a checkpoint, say when the session is ready, write down its state, the next request is the last."""
GREETING: Final = struct.Struct("<QQ")
"""What the host says first of a fresh session: how many bytes of memory and of files it may have."""
ASK: Final = struct.Struct("<QQ")
"""Over a channel of their own the host asks for states to keep: the session's number, and how many bytes its state may have."""
ANSWER: Final = struct.Struct("<BI")
"""What became of that (one of the following), and how many bytes of state follow."""
WRITTEN, BUSY, RESTLESS, LARGE = range(4)
PIECE: Final = 1 << 20
"""Bytes of a state that travel in one frame; the last has fewer."""
KEEP_BYTES: Final = 128 << 20
"""Bytes of states that the host keeps for one executor. A small session has 10 to 130 KB."""
AHEAD: Final = 8
"""Channels of sessions to come that a worker is given together: an order wakes it, which costs more than what it orders."""
_SNAPSHOT: Final = 2


def engine(identity: str) -> str:
    """What can read the snapshots of sessions of the image with this identity."""
    return f"wasm-{_SNAPSHOT}-{identity}"
