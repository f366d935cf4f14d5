"""Tools that answer with objects that object to being looked at, and a host that has no threads left: every call is answered, no step hangs."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy, broker, watchdog
from safeexec.tools import collect
from tests.core.scripted import Behave, Peer, ScriptedBackend, threads_named
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


def test_a_tool_that_gets_no_thread_is_answered_and_the_step_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "def call(n):\n    try:\n        return f(n)\n    except RuntimeError as error:\n        return str(error)\n[call(n) for n in range(9)]"
    there, start = [0, 2, 3], broker.threads.start
    asked: list[int] = []

    def few(work: Callable[[], None]) -> None:
        asked.append(len(asked))
        if asked[-1] not in there:
            raise broker.threads.NoThread("can't start new thread")
        start(work)

    with Executor(PlainBackend()) as executor, executor.session({"f": lambda n: n}) as session:
        monkeypatch.setattr(broker.threads, "start", few)
        result = session.run(code)
        monkeypatch.undo()
        assert result.error is None and len(result.value) == 9, result
        assert set(map(str, result.value)) <= {*"012345678", "can't start new thread"}
        assert "can't start new thread" in result.value and 0 in result.value
        assert session.run("f(5)").value == 5


def test_a_step_without_threads_is_ended_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: Any) -> None:
        raise broker.threads.NoThread("can't start new thread")

    with Executor(PlainBackend(), policy=Policy(limits=Limits(time=0.3))) as executor, executor.session() as session:
        session.run("1")
        monkeypatch.setattr(broker.threads, "start", none)
        started = time.monotonic()
        result = session.run("while True: pass")
        monkeypatch.undo()
        assert result.error is not None and time.monotonic() - started < 10


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


def deaf(calls: int) -> Behave:
    """A guest that makes so many calls and takes no answer until it is killed."""

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        for number in range(1, calls + 1):
            peer.send({"t": "call", "id": number, "tool": "large", "a": [], "k": {}})
        peer.wait_for_the_end()

    return behave


def one_after_another() -> bytes:
    return bytes(1_000_000)


async def all_at_once() -> bytes:
    return bytes(1_000_000)


async def hangs() -> bytes:
    await asyncio.sleep(60)
    return b""


@pytest.mark.parametrize("tool", [one_after_another, all_at_once])
def test_the_clock_does_not_wait_for_answers_that_are_not_taken(tool: Any) -> None:
    """Calls that wait for a thread stopped it, and threads wait for a guest that takes no answers: it had the processor until Limits.wall."""
    policy = Policy(limits=Limits(time=0.5, wall=30, tool_calls=None))
    with Executor(ScriptedBackend(deaf(300)), policy=policy) as executor, executor.session({"large": tool}) as session:
        result = session.run("code")
    assert result.error is not None and result.error.kind == "time" and "Limits.time" in result.error.message
    assert result.usage.duration < 10


@pytest.mark.parametrize("tool", [one_after_another, all_at_once, hangs])
def test_answers_that_are_not_taken_cost_few_threads(tool: Any) -> None:
    policy = Policy(limits=Limits(time=1, tool_time=0.3, tool_calls=None))
    most = 0

    def count(_: float) -> None:
        nonlocal most
        most = max(most, len(threads_named("safeexec-worker")))

    before = len(threads_named("safeexec-worker"))
    watchdog.watch(id(count), count)
    try:
        with Executor(ScriptedBackend(deaf(900)), policy=policy) as executor:
            with executor.session({"large": tool}) as session:
                assert not session.run("code").ok
    finally:
        watchdog.unwatch(id(count))
    assert most - before < 3 * broker.MAX_PARALLEL


def test_calls_of_an_asynchronous_tool_run_in_numbers_and_all_are_answered(executor: Executor) -> None:
    inside = most = 0

    async def one(n: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)
        inside -= 1
        if n % 100 == 7:
            raise ValueError(n)
        return n

    calls = 3 * broker.MAX_FLYING
    code = (
        f"import asyncio\nfound = await asyncio.gather(*[one.aio(n) for n in range({calls})], return_exceptions=True)\n"
    )
    with executor.session([one], policy=executor.policy.replace(limits=Limits(time=20, tool_calls=None))) as session:
        result = session.run(code + "[n if type(n) is int else -1 for n in found]")
    assert result.error is None
    assert result.value == [-1 if n % 100 == 7 else n for n in range(calls)]
    assert broker.MAX_PARALLEL < most <= broker.MAX_FLYING


def test_asynchronous_tools_that_cannot_begin_are_answered_and_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        description, inputs, output_type = "", {}, "any"

        def __init__(self, name: str) -> None:
            self.name = name

        async def __call__(self) -> None:
            released = asyncio.get_running_loop().run_in_executor(None, release.wait, 20)
            assert await released

    release, answered = threading.Event(), threading.Semaphore(0)
    answers: list[Any] = []

    def answer(frame: Any) -> None:
        answers.append(frame[0]["t"])
        answered.release()

    def cannot() -> None:
        raise OSError("not now")

    monkeypatch.setattr(broker, "MAX_FLYING", 1)
    found = collect([Plain("slow"), Plain("broken")])
    assert found["slow"].is_async
    calls = broker.Broker(found, Limits(tool_calls=None), answer, lambda: None, lambda: None)
    found["broken"].call = cannot
    for number in range(1, 3002):
        name = "slow" if number == 1 else "broken"
        assert calls.request({"t": "call", "id": number, "tool": name, "a": [], "k": {}, "n": 10}, ()) is None
    assert not answers, "it is the turn of none of them yet"
    release.set()
    for _ in range(3001):
        assert answered.acquire(timeout=20)
    assert answers == ["result"] + ["failure"] * 3000
    assert calls.request({"t": "call", "id": 3002, "tool": "broken", "a": [], "k": {}, "n": 10}, ()) is None
    assert answered.acquire(timeout=20) and len(answers) == 3002 and not calls._begun, "there is room for the next"
