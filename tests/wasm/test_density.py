"""Ten thousand sessions alive at once in one process: memory, mappings, and every one still itself."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from safeexec import Executor, Policy
from safeexec_backends.wasm import WasmBackend

SESSIONS = 10_000
MEMORY = 6 << 30


def private(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"Private_\w+:\s+(\d+) kB", text)) * 1024


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand_sessions_are_alive_at_once() -> None:
    with Executor(WasmBackend(Policy(), workers=0)) as executor:
        executor.run("1")
        before = private(os.getpid())
        sessions = []
        for number in range(SESSIONS):
            session = executor.session()
            assert session.run(f"mine = {number}").error is None
            sessions.append(session)
        used = private(os.getpid()) - before
        with open("/proc/self/maps") as file:
            mappings = sum(1 for _ in file)
        print(f"\n{SESSIONS} sessions: {used / SESSIONS / 2**20:.3f} MB private each, {mappings} mappings")
        assert used <= MEMORY
        assert mappings < 65_530
        assert [s.run("mine").value for s in sessions[::97]] == list(range(0, SESSIONS, 97))
        for session in sessions:
            session.close()
