"""What a worker does when a session goes back to its checkpoint before the end of the one it was is heard."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from safeexec import wire
from safeexec_backends.wasm import worker_session
from safeexec_backends.wasm.agreed import BEGIN, GREETING, KEEP, WORD
from safeexec_backends.wasm.instance import Runtime
from safeexec_backends.wasm.worker_session import WorkerSession

LIMITS = {"memory": 128 << 20, "disk": 1 << 20}


class Wire:
    """The host's end of one session that is served here instead of in a worker."""

    def __init__(self, runtime: Runtime, number: int, origin: WorkerSession | None = None) -> None:
        self.host, inner = socket.socketpair()
        self.host.settimeout(30)
        order = {"mode": "fresh" if origin is None else "back", **LIMITS}
        self.session = WorkerSession(runtime, inner, number, order, origin)
        self.reader = wire.FrameReader(self.host.recv_into, 1 << 20)
        self.greeting = GREETING.pack(LIMITS["memory"], LIMITS["disk"]) if origin is None else b""

    def ask(self, header: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        self.host.sendall(self.greeting + wire.pack(header)[0])
        self.greeting = b""
        assert self.session.serve()
        while True:
            answer, _ = self.reader.next()
            if answer["t"] in ("done", "died"):
                return dict(answer)

    def word(self, word: int) -> None:
        """Something for the worker itself."""
        self.host.sendall(WORD + bytes([word]))
        assert self.session.serve()


def run(number: int, code: str) -> dict[str, Any]:
    return {"t": "run", "id": number, "code": code}


@pytest.mark.parametrize("taken", [True, False], ids=["checkpoint taken", "checkpoint only asked for"])
def test_the_old_instance_is_freed_before_there_is_a_new_one(
    runtime: Runtime, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Wire(runtime, 1)
    assert first.ask(run(1, "x = 41"))["t"] == "done"
    first.word(KEEP)
    if taken:
        first.ask(run(2, "x = 0"))
    old = first.session._host
    assert old is not None
    sizes = []
    make = worker_session.fresh

    def watched(*given: Any) -> Any:
        sizes.append(old.memory.size)
        return make(*given)

    monkeypatch.setattr(worker_session, "fresh", watched)
    first.session.kill()
    second = Wire(runtime, 2, first.session)
    second.word(BEGIN)
    assert sizes == [0] and first.session._host is None
    answer = second.ask(run(1, "x + 1"))
    assert answer["v"] == 42
    # Its hang-up comes late: there is nothing left to do, and no instance is made for it.
    first.host.close()
    assert not first.session.serve() and len(sizes) == 1
    for one in (first, second):
        one.session.drop()
        one.session.kill()
        one.session.close()
        one.host.close()
