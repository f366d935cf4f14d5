"""Code that got past the language rewrites the guest program of its own session: what that must not gain it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy, Session
from safeexec.testing.base import eventually

GUEST = """
import gc
from safeexec import guest
g = [o for o in gc.get_objects() if isinstance(o, guest.Guest) and o._running][0]
"""


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor("local", _language="full", policy=Policy(limits=Limits(value=100_000))) as made:
        yield made


def _fields(session: Session) -> list[str]:
    # The process that runs the code is another than the cell's first where steps can be undone.
    pidfd = session._guest._target()  # type: ignore[attr-defined]
    pid = Path(f"/proc/self/fdinfo/{pidfd}").read_text().partition("Pid:")[2].split()[0]
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _state(session: Session) -> str:
    return _fields(session)[0]


def _ticks(session: Session) -> int:
    fields = _fields(session)
    return int(fields[11]) + int(fields[12])


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="n/a: cells are signalled through pidfds")
@pytest.mark.parametrize("rollback", [None, "never"])
def test_thread_left_behind_uses_no_processor_between_steps(executor: Executor, rollback: Any) -> None:
    with executor.session(policy=Policy(rollback=rollback)) as session:
        assert session.run(
            "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()"
        ).ok
        assert eventually(lambda: _state(session) == "T")  # stopped, a moment after its last request
        before = _ticks(session)
        time.sleep(0.5)  # the span that is measured
        assert _ticks(session) - before <= 2
        assert session.run("1 + 1").value == 2


def test_answers_sent_in_advance_are_not_taken_for_the_next_step(executor: Executor) -> None:
    forge = """
send = g._channel.send
def forged(header, blobs=()):
    send(header, blobs)
    if header.get("t") == "done":
        for step in range(1, 5):
            send({"t": "done", "id": header["id"] + step, "v": "FORGED"})
g._channel.send = forged
"""
    with executor.session() as session:
        assert session.run(GUEST + forge).ok
        result = session.run("2 + 2")
        assert result.value is None and result.error is not None and result.error.kind == "protocol"


@pytest.mark.parametrize("value", ["['x' * 1000] * 10_000", "[1] * 200_000", "{str(i): {} for i in range(100_000)}"])
def test_host_holds_the_value_limit_itself(executor: Executor, value: str) -> None:
    forge = f"g._answer_value = lambda value, answer: answer.update(v={value}) or ()\n1.5"
    with executor.session() as session:
        result = session.run(GUEST + forge)
        assert result.value is None and result.error is not None and result.error.kind == "protocol"


def test_out_of_band_data_is_refused(executor: Executor) -> None:
    code = """
import socket
a, b = socket.socketpair()
refused = []
for call in (lambda: a.send(b"x", socket.MSG_OOB), lambda: b.recv(1, socket.MSG_OOB)):
    try:
        call()
    except PermissionError:
        refused.append(True)
a.send(b"y", socket.MSG_DONTWAIT)
[refused, b.recv(1, socket.MSG_PEEK), b.recv(1)]
"""
    assert executor.run(code).value == [[True, True], b"y", b"y"]
