"""What a session asks of a guest that can go back, branch and be written down; and what it does when the guest breaks its word."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from safeexec import (
    AsyncExecutor,
    Executor,
    Limits,
    NotSupported,
    Policy,
    PolicyError,
    ProtocolError,
    SessionBusy,
    SessionClosed,
    Snapshot,
    SnapshotError,
    StepTimeout,
    wire,
)
from safeexec import snapshot as snapshots
from safeexec.backend import Backend, Guest, GuestDied, OnFrame, Wall
from tests.support.plain import PlainBackend

FAST = Policy(limits=Limits(time=0.2))


class Traveller(Guest):
    """Its state is a list. Code is one word: what becomes of the step, after the word was added to the list."""

    def __init__(self, state: list[Any] | None = None) -> None:
        self.state = state if state is not None else []
        self.kept: list[Any] | None = None
        self.asked: list[str] = []
        self.dead: list[Any] = []
        self.can_go_back = True
        self.rolling: threading.Event | None = None
        self.roll_on = threading.Event()
        self._gone = threading.Event()
        self._soft = threading.Event()

    def exchange(self, frame: wire.Frame, on_frame: OnFrame) -> None:
        header, _ = frame
        self.asked.append(header["t"])
        if self._gone.is_set():
            raise GuestDied("crash", "it is gone")
        done: dict[str, Any] = {"t": "done", "id": header["id"]}
        self._soft.clear()
        if header["t"] == "get":
            if header["name"] == "hang":
                self._wait()
            done["v"] = list(map(str, self.state))
        if header["t"] in ("set", "del"):
            self.state.append(header["t"])
        if header["t"] == "resume":
            self.state.append(sorted(set(header) - {"t", "id"}))
        if header["t"] == "run":
            self.dead.append(header.get("dead"))
            self.state.append(header["code"])
            self._step(header["code"], done, on_frame)
        on_frame((done, ()))

    def _step(self, word: str, done: dict[str, Any], on_frame: OnFrame) -> None:
        if word in ("exception", "memory", "output", "exit", "policy"):
            done["error"] = {"kind": word, "type": "T", "message": ""}
        elif word == "crash":
            self._gone.set()
            raise GuestDied("crash", "boom")
        elif word == "hang":
            self._wait()
        elif word == "soft":
            if not self._soft.wait(10):
                raise AssertionError("nobody interrupted")
            done["error"] = {"kind": "exception", "type": "KeyboardInterrupt", "message": ""}
        elif word == "forge":
            on_frame(({"t": "nonsense"}, ()))
        elif word == "call":
            on_frame(({"t": "call", "id": 1, "tool": "tool", "a": [], "k": {}, "n": 0}, ()))
            self._wait()

    def _wait(self) -> None:
        assert self._gone.wait(10)
        raise GuestDied("crash", "killed")

    def send(self, frame: wire.Frame) -> None:
        pass

    def interrupt(self) -> None:
        self._soft.set()

    def kill(self) -> None:
        self._gone.set()

    def close(self) -> None:
        self._gone.set()
        self.asked.append("close")

    def checkpoint(self) -> None:
        self.asked.append("checkpoint")
        self.kept = copy.copy(self.state)

    def rollback(self) -> None:
        self.asked.append("rollback")
        if self.rolling is not None:
            self.rolling.set()
            assert self.roll_on.wait(10)
        if not self.can_go_back or self.kept is None:
            raise GuestDied("crash", "the past is lost")
        self.state = copy.copy(self.kept)
        self._gone.clear()

    def fork(self) -> Traveller:
        if self._gone.is_set():
            raise GuestDied("crash", "it is gone")
        return Traveller(copy.copy(self.state))

    def snapshot(self) -> tuple[str, bytes]:
        return "engine-1", ",".join(map(str, self.state)).encode()


class TravelBackend(Backend):
    name = "travel"

    def __init__(self) -> None:
        self.guests: list[Traveller] = []

    def start(self, policy: Policy) -> Traveller:
        self.guests.append(Traveller())
        return self.guests[-1]

    def restore(self, engine: str, state: bytes, policy: Policy) -> Traveller:
        if engine != "engine-1":
            raise SnapshotError(f"made by {engine}")
        self.guests.append(Traveller(state.decode().split(",")))
        return self.guests[-1]

    @property
    def isolation(self) -> Mapping[str, Wall]:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def backend() -> TravelBackend:
    return TravelBackend()


def make(backend: TravelBackend, **fields: Any) -> Executor:
    return Executor(backend, policy=FAST.replace(**fields))


# -- rollback ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["memory", "output", "crash", "hang", "forge"])
def test_step_that_fails_hard_is_undone_and_the_session_goes_on(backend: TravelBackend, word: str) -> None:
    with make(backend).session() as session:
        session.run("good")
        result = session.run(word)
        assert result.error is not None and result.rolled_back and not session.closed
        assert backend.guests[0].state == ["good"]
        assert session.run("more").ok and backend.guests[0].state == ["good", "more"]


@pytest.mark.parametrize("word", ["exception", "exit", "policy"])
def test_ordinary_failure_keeps_what_the_step_did(backend: TravelBackend, word: str) -> None:
    with make(backend).session() as session:
        result = session.run(word)
        assert not result.rolled_back and backend.guests[0].state == [word]
    with make(backend, rollback="errors").session() as session:
        result = session.run(word)
        assert result.rolled_back and backend.guests[1].state == []


def test_never_means_never(backend: TravelBackend) -> None:
    with make(backend, rollback="never").session() as session:
        assert not session.run("memory").rolled_back and session.closed
    assert not {"checkpoint", "rollback"} & set(backend.guests[0].asked)


def test_interrupted_step_is_undone(backend: TravelBackend) -> None:
    with make(backend, limits=Limits()).session() as session:
        results = []
        thread = threading.Thread(target=lambda: results.append(session.run("soft")))
        thread.start()
        while thread.is_alive():
            session.interrupt()
            thread.join(0.001)
        assert results[0].rolled_back and backend.guests[0].state == []


def test_checkpoint_follows_every_request_that_may_change_something(backend: TravelBackend) -> None:
    with make(backend).session(variables={"x": 1}) as session:
        guest = backend.guests[0]
        assert guest.asked == ["init", "set", "checkpoint"]
        guest.asked.clear()
        session.run("a")
        session.variables["y"] = 2
        session.variables["y"]
        assert guest.asked == ["run", "checkpoint", "set", "checkpoint", "get"]


def test_one_step_needs_no_past(backend: TravelBackend) -> None:
    executor = make(backend)
    assert executor.run("a").ok
    assert not executor.run("memory").rolled_back
    assert all("checkpoint" not in guest.asked for guest in backend.guests)


def test_calls_given_up_before_an_undone_step_are_named_again(backend: TravelBackend) -> None:
    with make(backend).session(tools={"tool": lambda: threading.Event().wait(5)}) as session:
        session._abandoned = [7]
        session.run("crash")
        assert session.run("a").ok
        assert backend.guests[0].dead == [[7], [7]]
        assert session.run("b").ok and backend.guests[0].dead[-1] is None


def test_tool_calls_of_an_undone_step_are_told(backend: TravelBackend) -> None:
    with make(backend).session(tools={"tool": lambda: 1}) as session:
        result = session.run("call")
        assert result.rolled_back and [call.tool for call in result.tool_calls] == ["tool"]


def test_session_that_cannot_go_back_ends_and_says_so(backend: TravelBackend) -> None:
    session = make(backend).session()
    backend.guests[0].can_go_back = False
    result = session.run("memory")
    assert not result.rolled_back and session.closed
    with pytest.raises(SessionClosed, match="could not be undone: the past is lost"):
        session.run("a")


def test_session_closed_while_it_goes_back_stays_closed(backend: TravelBackend) -> None:
    session = make(backend).session()
    guest = backend.guests[0]
    guest.rolling = threading.Event()
    results = []
    thread = threading.Thread(target=lambda: results.append(session.run("crash")))
    thread.start()
    assert guest.rolling.wait(10)
    session.close()
    guest.roll_on.set()
    thread.join(10)
    assert not results[0].rolled_back and session.closed
    with pytest.raises(SessionClosed):
        session.run("a")
    for closer in [t for t in threading.enumerate() if t.name == "safeexec-close"]:
        closer.join(10)
    assert guest._gone.is_set() and guest.asked[-1] == "close"


def test_request_that_hangs_is_undone_too(backend: TravelBackend) -> None:
    with make(backend).session() as session:
        session.run("good")
        with pytest.raises(StepTimeout, match="as it was before"):
            session.variables["hang"]
        assert session.run("more").ok and backend.guests[0].state == ["good", "more"]


def test_request_that_kills_the_guest_is_undone_too(backend: TravelBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise GuestDied("crash", "boom")

    with make(backend).session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(backend.guests[0], "exchange", die)
            with pytest.raises(ProtocolError, match="boom; the session is as it was before"):
                session.variables["x"]
        assert session.run("a").ok


def test_policy_that_asks_for_more_than_the_guest_can_is_refused() -> None:
    class Plain(PlainBackend):
        def start(self, policy: Policy) -> Guest:
            return super().start(policy.replace(rollback=None))

    for mode in ("limits", "errors"):
        with Executor(Plain(), policy=Policy(rollback=mode)) as executor, pytest.raises(PolicyError, match="rollback"):
            executor.session()


# -- fork -------------------------------------------------------------------------------------------------------------------


def test_branches_go_their_own_ways(backend: TravelBackend) -> None:
    with make(backend) as executor, executor.session() as session:
        session.run("a")
        branch = session.fork()
        branch.run("b")
        twig = branch.fork()
        assert session.run("memory").rolled_back and branch.run("memory").rolled_back
        assert branch._guest.state == ["a", "b"] and session._guest.state == ["a"]  # type: ignore[attr-defined]
        session.close()
        assert twig.run("c").ok and branch.run("d").ok
    assert branch.closed and twig.closed  # with their executor


def test_fork_asks_the_branch_only_for_what_it_must(backend: TravelBackend) -> None:
    with make(backend).session(tools={"f": lambda: 1}) as session:
        plain, other = session.fork(), session.fork(tools={"g": lambda: 1}, reseed=True)
        assert plain._guest.state == [] and other._guest.state == [["reseed", "tools"]]  # type: ignore[attr-defined]
        assert list(plain._tools) == ["f"] and list(other._tools) == ["g"]


def test_fork_of_a_busy_closed_or_dead_session(backend: TravelBackend) -> None:
    session = make(backend, limits=Limits()).session()
    thread = threading.Thread(target=lambda: session.run("soft"))
    thread.start()
    while backend.guests[0].asked[-1] != "run":
        pass
    with pytest.raises(SessionBusy):
        session.fork()
    while thread.is_alive():
        session.interrupt()
        thread.join(0.001)
    backend.guests[0].kill()
    with pytest.raises(SessionClosed, match="it is gone"):
        session.fork()
    with pytest.raises(SessionClosed):
        session.fork()


def test_what_cannot_be_done_is_not_supported() -> None:
    with Executor(PlainBackend()) as executor, executor.session() as session:
        for attempt in (session.fork, session.snapshot, lambda: executor.restore(b"")):
            with pytest.raises(NotSupported, match=r"^the plain sandbox cannot .*; 'wasm'( and 'local')? can$"):
                attempt()
        assert session.run("1").value == 1


async def _async_story(backend: TravelBackend) -> None:
    async with AsyncExecutor(backend, policy=FAST) as executor, executor.session() as session:
        await session.run("a")
        branch = await session.fork()
        assert (await branch.run("memory")).rolled_back
        image = await session.snapshot()
        back = await executor.restore(image)
        assert (await back.run("b")).ok and backend.guests[-1].state[0] == "a"


def test_asynchronous(backend: TravelBackend) -> None:
    import asyncio

    asyncio.run(_async_story(backend))


# -- snapshots --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def image(backend: TravelBackend) -> Snapshot:
    with make(backend).session() as session:
        session.run("a")
        return session.snapshot()


def test_snapshot_travels(backend: TravelBackend, image: Snapshot, tmp_path: Path) -> None:
    path = image.save(tmp_path / "state")
    assert path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]
    for source in (image, bytes(image), path, str(path), Snapshot.load(path)):
        with make(backend).restore(source, tools={"f": lambda: 1}, variables={"x": 1}) as back:
            assert backend.guests[-1].state == ["a", ["limits", "tools"], "set"]
            assert back.run("memory").rolled_back and back.run("b").ok


def test_abandoned_calls_travel(backend: TravelBackend) -> None:
    with make(backend).session() as session:
        session._abandoned = [3]
        image = session.snapshot()
    with make(backend).restore(image) as back:
        back.run("a")
    assert backend.guests[-1].dead == [[3]]


def test_every_bit_counts(backend: TravelBackend, image: Snapshot) -> None:
    data = bytes(image)
    started = len(backend.guests)
    executor = make(backend)
    for size in range(len(data)):
        with pytest.raises(SnapshotError):
            executor.restore(data[:size])
    for place in range(len(data)):
        for bit in (1, 128):
            with pytest.raises(SnapshotError):
                executor.restore(data[:place] + bytes((data[place] ^ bit,)) + data[place + 1 :])
    with pytest.raises(SnapshotError):
        executor.restore(data + b"x")
    assert len(backend.guests) == started  # nothing was loaded


def test_wrong_version_sandbox_engine_and_policy_are_told_apart(backend: TravelBackend, image: Snapshot) -> None:
    executor = make(backend)
    data = bytes(image)
    with pytest.raises(SnapshotError, match="format 2"):
        executor.restore(data[:8] + (2).to_bytes(4, "little") + data[12:])
    with pytest.raises(SnapshotError, match="not a snapshot"):
        executor.restore(b"PK\x03\x04" + bytes(100))
    contents = snapshots.unpack(data, None)
    for changed, message in (
        (contents._replace(sandbox="docker"), "'docker' sandbox"),
        (contents._replace(engine="engine-0"), "engine-0"),
    ):
        with pytest.raises(SnapshotError, match=message):
            executor.restore(snapshots.pack(changed, None))
    with pytest.raises(SnapshotError, match=r"Policy\.imports"):
        executor.restore(image, policy=FAST.replace(imports=("math",)))
    with executor.restore(image, policy=FAST.replace(limits=Limits(time=9))) as back:  # limits are the restoring host's
        assert back.policy.limits.time == 9


def test_signed_snapshot(backend: TravelBackend) -> None:
    key = b"k" * 32
    executor = make(backend)
    with executor.session() as session:
        image = session.snapshot(key=key)
        plain = session.snapshot()
        with pytest.raises(SnapshotError, match="16 bytes"):
            session.snapshot(key=b"short")
    with executor.restore(image, key=key) as back:
        assert back.run("a").ok
    with pytest.raises(SnapshotError, match="is signed"):
        executor.restore(image)
    with pytest.raises(SnapshotError, match="not signed with this key"):
        executor.restore(image, key=b"K" * 32)
    with pytest.raises(SnapshotError, match="is not signed"):  # the signature cannot simply be left out
        executor.restore(plain, key=key)
    # Nor can the flag be turned over and the digest made anew.
    data = bytes(image).replace(b'"signed": true', b'"signed":false')
    end = 16 + int.from_bytes(data[12:16], "little")
    forged = data[:end] + hashlib.sha256(data[:end] + data[end + 32 :]).digest() + data[end + 32 :]
    with pytest.raises(SnapshotError, match="is not signed"):
        executor.restore(forged, key=key)


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"{}", b"null", b'"x"', b"[" * 5000, b"{", b'{"size": true}', b"\xff",
        b'{"sandbox": 1, "engine": "", "policy": {}, "abandoned": [], "size": 0, "signed": false}',
        b'{"sandbox": "travel", "engine": "e", "policy": [], "abandoned": [], "size": 0, "signed": false}',
        b'{"sandbox": "travel", "engine": "e", "policy": {"imports": 1}, "abandoned": [], "size": 0, "signed": false}',
        b'{"sandbox": "travel", "engine": "e", "policy": {}, "abandoned": ["x"], "size": 0, "signed": false}',
        b'{"sandbox": "travel", "engine": "e", "policy": {}, "abandoned": [-1], "size": 0, "signed": false}',
        b'{"sandbox": "travel", "engine": "e", "policy": {}, "abandoned": [1e400], "size": 0, "signed": false}',
        b'{"sandbox": "travel", "engine": "e", "policy": {}, "abandoned": [], "size": 0, "signed": "no"}',
        b'{"sandbox": "travel", "engine": "e", "policy": {}, "abandoned": [], "size": NaN, "signed": false}',
    ],
)  # fmt: skip
def test_hostile_header_is_refused(backend: TravelBackend, header: bytes) -> None:
    head = b"SAFEEXEC" + (1).to_bytes(4, "little") + len(header).to_bytes(4, "little") + header
    with pytest.raises(SnapshotError, match="damaged"):  # not: made under another policy, which it was as well
        make(backend).restore(head + hashlib.sha256(head).digest())
    assert backend.guests == []
