"""The executors behind `safeexec.run`: made once for callers that come together, not closed under one that runs, none forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import safeexec
from safeexec import Policy, registry, shared
from tests.core.scripted import Peer, ScriptedBackend


class Counted(ScriptedBackend):
    made: ClassVar[list[Counted]] = []
    slow: threading.Event | None = None
    running = threading.Event()
    go = threading.Event()

    def __init__(self, policy: Policy, **options: Any) -> None:
        super().__init__(self._answer)
        Counted.made.append(self)
        self.closed = False
        if Counted.slow is not None:
            assert Counted.slow.wait(20)

    @staticmethod
    def _answer(peer: Peer, request: dict[str, Any]) -> None:
        if request.get("code") == "wait":
            Counted.running.set()
            assert Counted.go.wait(20)
        peer.done(request, v=request.get("code"))

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "load_backend", lambda _: Counted)
    monkeypatch.setattr(shared, "_shared", type(shared._shared)())  # not what other tests share
    Counted.made, Counted.slow, Counted.running, Counted.go = [], None, threading.Event(), threading.Event()
    yield
    Counted.go.set()
    shared.close_shared()
    assert all(backend.closed for backend in Counted.made)


def in_threads(count: int, values: list[Any], code: str = "7", **options: Any) -> list[threading.Thread]:
    def call() -> None:
        values.append(safeexec.run(code, sandbox="counted", **options))

    threads = [threading.Thread(target=call, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_callers_that_come_together_share_one() -> None:
    values: list[Any] = []
    Counted.slow = threading.Event()
    threads = in_threads(6, values)
    Counted.slow.set()
    join(threads)
    assert [result.value for result in values] == ["7"] * 6 and len(Counted.made) == 1


def test_none_is_closed_under_a_caller() -> None:
    values: list[Any] = []
    threads = in_threads(1, values, "wait", number=0)
    assert Counted.running.wait(20)
    for number in range(1, 10):
        assert safeexec.run("1", sandbox="counted", number=number).value == "1"
    assert not Counted.made[0].closed
    assert sum(not backend.closed for backend in Counted.made) <= shared._MAX_SHARED + 1
    Counted.go.set()
    join(threads)
    assert values[0].value == "wait", values[0].error


def test_one_that_is_made_while_all_are_closed_is_closed_by_its_caller() -> None:
    values: list[Any] = []
    Counted.slow = threading.Event()
    threads = in_threads(2, values)
    # One makes it, the other waits for that: one that came after the next line would make another.
    while not (Counted.made and sum(one.users for one in list(shared._shared.values())) == 2):
        threading.Event().wait(0.001)
    shared.close_shared()
    Counted.slow.set()
    join(threads)
    assert [result.value for result in values] == ["7"] * 2
    assert all(backend.closed for backend in Counted.made)


def test_one_that_cannot_be_made_is_tried_again() -> None:
    def fail(_: str) -> Any:
        raise safeexec.BackendUnavailable("not today")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load_backend", fail)
        for _ in range(2):
            with pytest.raises(safeexec.BackendUnavailable, match="not today"):
                safeexec.run("1", sandbox="counted")
    assert safeexec.run("1", sandbox="counted").value == "1"
