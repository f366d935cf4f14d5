"""A tool whose answer is on its way when its step is undone, and arrives while the next step waits for a call of its own."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy, broker


def check(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step gets its own answer."""
    encoding, go, sent = threading.Event(), threading.Event(), threading.Event()
    settle = broker.Broker._settle

    class Encoder(broker.wire.Encoder):
        def encode(self, value: Any) -> Any:
            if value == "late":
                encoding.set()
                go.wait(30)
            return super().encode(value)

    def settled(self: broker.Broker, call: Any, value: Any, error: BaseException | None) -> None:
        settle(self, call, value, error)
        if value == "late":
            sent.set()

    monkeypatch.setattr(broker.wire, "Encoder", Encoder)
    monkeypatch.setattr(broker.Broker, "_settle", settled)

    def mine() -> str:
        go.set()
        assert sent.wait(30)
        return "mine"

    with executor.session({"late": lambda: "late", "mine": mine}, policy=Policy(limits=Limits(time=20))) as session:
        session.run("x = 1")

        def interrupt() -> None:
            encoding.wait(30)
            session.interrupt()

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert session.run("late()").rolled_back
        thread.join()
        assert [session.run("mine()").value for _ in range(2)] == ["mine", "mine"]
        assert session.run("late()").value == "late"
