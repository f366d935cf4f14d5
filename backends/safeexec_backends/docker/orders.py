"""What the host says on the second socket to a container whose steps can be undone, and what is said back.

Shipped as text next to inside.py; CPython 3.9 and later.
"""

from __future__ import annotations

import struct

INTERRUPT, KILL, BACK = 0, 1, 2
"""The last byte of an order; the seven before it are a number, little-endian. Interrupt the step with that number; end the runner; go back to the checkpoint with that number, with a connection for whoever serves then."""
ORDER = 8
SAID = struct.Struct("<Iii")
"""What the keeper says: how often it has gone back, what happened, and a number."""
ENDED, OUT_OF_MEMORY, LOST = 1, 2, 3
"""The runner has ended with this exit code; the same, and a process was killed for its memory; there is no way back, and why."""
NONE, THREADS, PROCESSES, FILES, MEMORY, FAILED = range(6)
