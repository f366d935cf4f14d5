"""Tools that answer with objects that object to being looked at, and a host that has no threads left: every call is answered, no step hangs."""

from __future__ import annotations

import dataclasses
import datetime
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy, broker
from safeexec.tools import collect
from tests.support.plain import PlainBackend

ENDLESS = Policy(limits=Limits(time=20, tool_time=None, wall=None))  # a call without an answer is waited for


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(PlainBackend(), policy=ENDLESS) as made:
        yield made


def exits(*_: Any, **__: Any) -> Any:
    raise SystemExit(3)


def interrupts(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


class NamelessKind(type):
    __name__ = property(interrupts)  # type: ignore[assignment]


class Nameless(metaclass=NamelessKind):
    pass


class NamelessError(Exception, metaclass=NamelessKind):
    pass


class Classless:
    __class__ = property(exits)  # type: ignore[assignment]


class ClasslessError(Exception):
    __class__ = property(exits)  # type: ignore[assignment]


class Mute(Exception):
    __str__ = interrupts


class MuteExit(SystemExit):
    __str__ = exits


class Refusal:
    """Raises what has no text when it is asked for its class."""

    @property
    def __class__(self) -> Any:
        raise Mute


@dataclasses.dataclass
class Record:
    a: int = 1


class EvilRecord(Record):
    def __getattribute__(self, name: str) -> Any:
        return exits() if name == "a" else super().__getattribute__(name)


class Nowhere(datetime.tzinfo):
    utcoffset = exits


class Text(str):
    def __str__(self) -> str:
        return Text("x")

    __len__ = __format__ = encode = exits


class Wordy(Exception):
    def __str__(self) -> str:
        return Text("words")


VALUES: dict[str, Callable[[], Any]] = {
    "class": Classless,
    "refusal": Refusal,
    "metaclass": Nameless,
    "record": EvilRecord,
    "zone": lambda: datetime.datetime(2026, 1, 1, tzinfo=Nowhere()),
    "exception class": ClasslessError,
}
ERRORS: dict[str, BaseException] = {
    "class": ClasslessError(),
    "metaclass": NamelessError(),
    "text": Mute(),
    "exit": MuteExit(),
    "group": BaseExceptionGroup("x", [KeyboardInterrupt(), Mute()]),
    "generator": GeneratorExit(),
    "stop": StopIteration(3),
    "wordy": Wordy(),
}
CODE = """
{}
try:
    evil()
except Exception as error:
    found = type(error).__name__
found
"""


@pytest.mark.parametrize("lent", [False, True])  # whether the thread that runs the tool reads the calls that follow
@pytest.mark.parametrize("name", [*(f"value {n}" for n in VALUES), *(f"error {n}" for n in ERRORS)])
def test_every_call_is_answered(executor: Executor, name: str, lent: bool) -> None:
    def evil() -> Any:
        kind, _, which = name.partition(" ")
        if kind == "value":
            return VALUES[which]()
        raise ERRORS[which]

    def quick() -> None:
        pass

    with executor.session([evil, quick]) as session:
        result = session.run(CODE.format("quick()\n" * 4 if lent else ""))
        assert result.ok and type(result.value) is str, result
        assert session.run("quick()\n5").value == 5


def test_calls_that_wait_for_a_thread_that_is_not_to_be_had_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    calls = broker.Broker(
        collect({"f": lambda: 1}), Limits(tool_calls=None), answers.append, lambda: None, lambda: None
    )
    work = [
        calls.request({"t": "call", "id": n, "tool": "f", "a": [], "k": {}, "n": 10}, ())
        for n in range(1, broker.MAX_PARALLEL + 2001)
    ]

    def no_threads(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(broker.threads, "start", no_threads)
    first = work[0]
    assert first is not None
    first()
    assert [frame[0]["t"] for frame in answers] == ["result", *["failure"] * 2000]
    assert {frame[0].get("message") for frame in answers[1:]} == {"can't start new thread"}


def test_a_call_that_ran_out_of_its_time_without_a_thread_is_given_up_later(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    calls = broker.Broker(collect({"f": lambda: 1}), Limits(tool_time=1), answers.append, lambda: None, lambda: None)
    assert calls.request({"t": "call", "id": 1, "tool": "f", "a": [], "k": {}, "n": 10}, ()) is not None

    def no_threads(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    late = next(iter(calls._running.values())).deadline + 1
    with monkeypatch.context() as patch:
        patch.setattr(broker.threads, "start", no_threads)
        with pytest.raises(RuntimeError):
            calls.check(late)
    monkeypatch.setattr(broker.threads, "start", lambda work: work())
    calls.check(late)
    assert [frame[0]["type"] for frame in answers] == ["TimeoutError"]


def test_the_tools_loop_is_made_again_where_its_thread_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "_loop", None)

    def no_thread(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            broker.shared_loop()
    loop = broker.shared_loop()
    try:
        turned = threading.Event()
        loop.call_soon_threadsafe(turned.set)
        assert turned.wait(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)


@pytest.mark.parametrize("why", ["over", "too many", "too large", "unknown"])
def test_arguments_of_a_refused_call_are_not_read(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    limits = Limits(tool_calls=0 if why == "too many" else 5)
    calls = broker.Broker(collect({"f": lambda x: 1}), limits, answers.append, lambda: None, lambda: None)
    if why == "over":
        calls.stop(tell=False)

    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("they are read")

    monkeypatch.setattr(broker.wire, "Decoder", read)
    size = 2**31 if why == "too large" else 10
    tool = "g" if why == "unknown" else "f"
    assert calls.request({"t": "call", "id": 1, "tool": tool, "a": [[]], "k": {}, "n": size}, ()) is None
    assert [frame[0]["t"] for frame in answers] == ["failure"]
