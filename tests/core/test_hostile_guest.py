"""A guest that breaks the protocol in every way a frame can: the step ends in a result, the session is closed, the host is unharmed."""

from __future__ import annotations

import gc
import struct
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeexec import (
    Executor,
    Limits,
    Policy,
    PolicyError,
    ProtocolError,
    Result,
    SafeExecError,
    SessionClosed,
    StepTimeout,
    UnsafeName,
)
from safeexec.testing.base import assert_closed, eventually
from tests.core.scripted import Behave, Peer, ScriptedBackend, frame, open_descriptors, packed, threads_named

LIMITS = Limits(time=0.5, value=200_000, output=10_000)


def attack(behave: Behave, tools: Any = (), max_frame: int | None = None, **limits: Any) -> tuple[Result, bool]:
    """The result of one step against a guest, and whether the session was closed by it."""
    chosen = Limits(**{"time": 0.5, "value": 200_000, "output": 10_000, **limits})
    with Executor(ScriptedBackend(behave, max_frame), policy=Policy(limits=chosen)) as executor:
        session = executor.session(tools)
        result = session.run("code")
        closed = session.closed
        if closed:
            assert_closed(session)
        return result, closed


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert eventually(lambda: not threads_named("scripted") and not threads_named("safeexec-close"), 5)


@pytest.fixture(autouse=True, scope="module")
def no_descriptor_left() -> Iterator[None]:
    gc.collect()
    before = open_descriptors()
    yield
    gc.collect()
    assert eventually(lambda: open_descriptors() <= before, 5)


Wanted = Callable[[int], bytes]
"""A frame that answers the request of this number: only its guest knows it."""


def done(**fields: Any) -> Wanted:
    return lambda number: frame({"t": "done", "id": number, **fields})


OF_NO_REQUEST: dict[str, Wanted] = {
    "wrong id": lambda number: frame({"t": "done", "id": number - 1}),
    "future id": lambda number: frame({"t": "done", "id": number + 1}),
    "id of another type": lambda number: frame({"t": "done", "id": float(number)}),
    "id that is text": lambda number: frame({"t": "done", "id": str(number)}),
    "id true": done(id=True),
    "no id": lambda number: frame({"t": "done"}),
}
BROKEN: dict[str, bytes | Wanted] = {
    **OF_NO_REQUEST,
    "unknown kind": frame({"t": "root", "id": 2}),
    "no kind": frame({"id": 2}),
    "kind of another type": frame({"t": ["done"], "id": 2}),
    "a request instead of an answer": frame({"t": "run", "id": 2, "code": "1"}),
    "a tool result instead of a call": frame({"t": "result", "id": 1, "v": 1}),
    "init again": frame({"t": "init", "id": 2}),
    "output without a blob": frame({"t": "out", "s": 1}),
    "output to a third stream": frame({"t": "out", "s": 3}, b"x"),
    "output to stream true": frame({"t": "out", "s": True}, b"x"),
    "output with two blobs": frame({"t": "out", "s": 1}, b"x", b"y"),
    "display of no kind": frame({"t": "display"}, b"x"),
    "display with a wrong count": frame({"t": "display", "m": ["a/b", "c/d"]}, b"x"),
    "display of a bad mime type": frame({"t": "display", "m": ["text/html; charset=x\r\nSet-Cookie: a"]}, b"x"),
    "display of a mime type with a newline": frame({"t": "display", "m": ["text/html\n"]}, b"x"),
    "display of a mime type that is a path": frame({"t": "display", "m": ["../../x"]}, b"x"),
    "display of a number": frame({"t": "display", "m": [5]}, b"x"),
    "display of a thousand kinds": frame({"t": "display", "m": ["a/b"] * 1000}, *[b"x"] * 1000),
    "error that is text": done(error="no"),
    "error of unknown kind": done(error={"kind": "root", "type": "X", "message": ""}),
    "error without a kind": done(error={"type": "X"}),
    "error of kind list": done(error={"kind": []}),
    "error message that is a list": done(error={"kind": "exception", "type": "X", "message": ["m"]}),
    "error line that is text": done(error={"kind": "exception", "type": "X", "message": "", "line": "1"}),
    "error line below zero": done(error={"kind": "exception", "type": "X", "message": "", "line": -1}),
    "failure that is text": done(fail="no"),
    "files that are no list": done(files={"a": 1}),
    "files without sizes": done(files=["a"]),
    "files without end": done(files=[["a", 1]] * 10_001),
    "processor time that is text": done(cpu="1"),
    "processor time without end": lambda number: packed(b'{"t": "done", "id": %d, "cpu": 1e999}' % number),
    "processor time that is no number": lambda number: packed(b'{"t": "done", "id": %d, "cpu": NaN}' % number),
    "memory below zero": done(rss=-1),
    "value of unknown kind": done(v={"$": "os.system"}),
    "value that refers to no blob": done(v={"$": "bytes", "i": 5}),
    "absurd frame": struct.pack("<II", 2**32 - 1, 2**31),
    "frame above the cap": struct.pack("<II", 2_000_000, 100),
    "header longer than its frame": struct.pack("<II", 10, 1000) + b"x" * 6,
    "frame shorter than a header": struct.pack("<I", 3) + b"abc",
    "header that is a list": packed(b"[]"),
    "header that is no JSON": packed(b"{,}"),
    "deep header": packed(b"[" * 200_000),
    "noise": bytes(range(256)) * 20,
    "malformed call": frame({"t": "call", "id": 1}),
    "call with a number for a name": frame({"t": "call", "id": 1, "tool": 5, "a": [], "k": {}}),
    "call with malformed arguments": frame({"t": "call", "id": 1, "tool": "f", "a": [{"$": "x"}], "k": {}}),
    "call with an id of another type": frame({"t": "call", "id": 1.5, "tool": "f", "a": [], "k": {}}),
    "call id below zero": frame({"t": "call", "id": -1, "tool": "f", "a": [], "k": {}}),
    "the same call twice": frame({"t": "call", "id": 1, "tool": "f", "a": [], "k": {}}) * 2,
    "calls out of order": frame({"t": "call", "id": 5, "tool": "f", "a": [], "k": {}}) + frame({"t": "call", "id": 4, "tool": "f", "a": [], "k": {}}),
}  # fmt: skip


def sent(name: str, request: dict[str, Any]) -> bytes:
    """What is broken in this way, in answer to `request`."""
    broken = BROKEN[name]
    return broken if isinstance(broken, bytes) else broken(request["id"])


def test_an_answer_with_nothing_broken_in_it_is_one() -> None:
    result, closed = attack(lambda peer, request: peer.raw(done(v=1, cpu=1, rss=1, files=[["a", 1]])(request["id"])))
    assert result.value == 1 and result.error is None and not closed


@pytest.mark.parametrize("name", BROKEN)
def test_broken_protocol_ends_the_session(name: str) -> None:
    result, closed = attack(lambda peer, request: peer.raw(sent(name, request)), {"f": lambda: 1})
    assert result.error is not None and result.error.kind == "protocol", result.error
    assert result.value is None and closed
    # Else what is broken in an answer would not have been looked at.
    assert ("request that was not made" in result.error.message) == (name in OF_NO_REQUEST)


def test_failure_of_the_guest_program_is_no_success() -> None:
    result, closed = attack(lambda peer, r: peer.done(r, fail={"type": "ValueError", "message": "m"}))
    assert result.error is not None and not closed
    assert (result.error.kind, result.error.type, result.error.message) == ("exception", "ValueError", "m")


def test_second_answer_ends_the_next_step() -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.done(request, v=1)
        peer.done(request, v=2)

    with Executor(ScriptedBackend(behave), policy=Policy(limits=LIMITS)) as executor, executor.session() as session:
        assert session.run("1").value == 1
        error = session.run("2").error
        assert error is not None and error.kind == "protocol"
        assert_closed(session)


def test_answer_sent_early_is_no_answer_to_the_next_step() -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.done(request, v="now")
        peer.send({"t": "done", "id": request["id"] + 1, "v": "early"})

    with Executor(ScriptedBackend(behave), policy=Policy(limits=LIMITS)) as executor, executor.session() as session:
        assert session.run("1").value == "now"
        result = session.run("2")
        assert result.value is None and result.error is not None and result.error.kind == "protocol"
        assert session.closed


def test_guest_that_never_answers_is_ended_by_the_clock() -> None:
    result, closed = attack(lambda *_: None, time=0.1)
    assert result.error is not None and result.error.kind == "time" and closed


@pytest.mark.parametrize(
    "data", [b"", b"\x05", struct.pack("<II", 100, 50) + b"{", frame({"t": "out", "s": 1}, b"x" * 5000)[:-100]]
)
def test_guest_that_hangs_up_is_a_crash(data: bytes) -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.send({"t": "out", "s": 1}, b"before")
        peer.raw(data)
        peer.stream.shutdown(2)

    result, closed = attack(behave)
    assert result.error is not None and result.error.kind == "crash" and closed
    assert result.stdout == "before"


def test_guest_that_stops_in_the_middle_of_a_frame_is_ended_by_the_clock() -> None:
    result, closed = attack(lambda peer, _: peer.raw(struct.pack("<II", 100_000, 50) + b"{" * 20), time=0.1)
    assert result.error is not None and result.error.kind == "time" and closed


def endless(data: bytes) -> Behave:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        while True:
            peer.raw(data)

    return behave


@pytest.mark.parametrize(
    "data",
    [
        frame({"t": "out", "s": 1}, b"") * 500,
        frame({"t": "out", "s": 2}, b"spam" * 1000) * 20,
        frame({"t": "display", "m": ["text/plain"]}, b"x") * 300,
        frame({"t": "display", "m": ["image/png"]}, b"x" * 100_000),
        frame({"t": "display", "m": []}) * 300,
    ],
    ids=["empty output", "output", "displays", "giant displays", "empty displays"],
)
def test_endless_frames_cost_no_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        result, closed = attack(endless(data), time=0.3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.error is not None and result.error.kind == "time" and closed
    assert len(result.stdout) + len(result.stderr) <= 20_000 and len(result.displays) <= 100
    assert sum(len(d) for shown in result.displays for d in shown.data.values()) <= 200_000
    assert peak < 5_000_000


def test_endless_calls_of_no_tool_are_ended_by_the_clock() -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        number = 0
        while True:  # never reads the refusals: the host must not hang over sending them
            number += 1
            peer.send({"t": "call", "id": number, "tool": "none", "a": [], "k": {}})

    result, closed = attack(behave, time=0.3)
    assert result.error is not None and result.error.kind == "time" and closed


def test_guest_that_never_reads_its_answers_stops_no_other_clock() -> None:
    """Answers pile up unread until the host's socket is full, while a call overruns: the one thread that watches all clocks must go on."""
    release = threading.Event()

    def stuck(peer: Peer, request: dict[str, Any]) -> None:
        for number in range(1, 9):
            peer.send({"t": "call", "id": number, "tool": "big", "a": [], "k": {}})
        peer.send({"t": "call", "id": 9, "tool": "slow", "a": [], "k": {}})
        peer.wait_for_the_end()

    tools = {"big": lambda: b"x" * 190_000, "slow": lambda: release.wait(20)}
    policy = Policy(limits=Limits(time=1.5, tool_time=0.1, value=200_000))
    try:
        with Executor(ScriptedBackend(stuck), policy=policy) as executor, executor.session(tools) as session:
            results: list[Result] = []
            thread = threading.Thread(target=lambda: results.append(session.run("x")))
            thread.start()
            for _ in range(2):
                other, closed = attack(lambda *_: None, time=0.1)
                assert other.error is not None and other.error.kind == "time" and closed
            thread.join(10)
            assert results and results[0].error is not None and results[0].error.kind == "time"
    finally:
        release.set()


def test_a_check_that_raises_stops_no_other_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    from safeexec import watchdog

    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def broken(now: float) -> None:
        watchdog.unwatch(-1)
        raise OSError("a backend's trouble")

    watchdog.watch(-1, broken)
    result, _ = attack(lambda *_: None, time=0.1)
    assert result.error is not None and result.error.kind == "time"
    assert [str(r.exc_value) for r in reported] == ["a backend's trouble"]


def test_calls_in_flight_hold_a_bounded_amount() -> None:
    """A thousand calls at once, each with the largest argument."""
    release = threading.Event()
    payload = b"x" * 190_000
    refused: list[str] = []

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        def drain() -> None:
            try:
                while True:
                    header, _ = peer.reader.next()
                    if header["t"] == "failure":
                        refused.append(header["message"])
            except (EOFError, OSError):
                return

        drainer = threading.Thread(target=drain, name="scripted-drain", daemon=True)
        drainer.start()
        for number in range(1, 200):
            peer.send({"t": "call", "id": number, "tool": "f", "a": [{"$": "bytes", "i": 0}], "k": {}}, payload)
        release.set()
        peer.done(request)
        drainer.join(20)  # two must not read from one stream

    tracemalloc.start()
    try:
        result, _ = attack(behave, {"f": lambda b: release.wait(20)}, time=20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        release.set()
    assert result.error is None or result.error.kind != "protocol"
    assert any("too large together" in message for message in refused)
    assert peak < 20 * 200_000
    assert sum(len(str(call.arguments)) for call in result.tool_calls) < 2_000_000


def test_log_of_calls_holds_a_bounded_amount() -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        for number in range(1, 50):
            peer.send({"t": "call", "id": number, "tool": "f", "a": [{"$": "bytes", "i": 0}], "k": {}}, b"y" * 150_000)
            peer.reader.next()
        peer.done(request)

    result, _ = attack(behave, {"f": lambda b: len(b)}, time=20)
    assert result.ok and len(result.tool_calls) == 49
    kept = [len(c.arguments["b"]) for c in result.tool_calls if isinstance(c.arguments["b"], bytes)]
    assert 150_000 <= sum(kept) <= 200_000


def test_long_fields_are_cut() -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        text = "m" * 500_000
        peer.done(
            request, error={"kind": "exception", "type": text, "message": text, "traceback": text, "line": 2**31 - 1}
        )

    result, closed = attack(behave, max_frame=10**7)
    assert result.error is not None and result.error.kind == "exception" and not closed
    assert (
        len(result.error.type) <= 400
        and len(result.error.message) <= 400_000
        and len(result.error.traceback) <= 400_000
    )


def test_output_that_is_not_utf8_is_replaced() -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        for piece in (b"\xff\xfe", b"\xe2\x98", b"\x83", b"\xc3"):
            peer.send({"t": "out", "s": 1}, piece)
        peer.done(request)

    result, _ = attack(behave)
    assert result.ok and result.stdout.startswith("��☃")


def test_names_of_files_are_not_believed() -> None:
    evil = ["/etc/passwd", "../../x", "a\x1b[2Jb", "C:\\x", "x" * 10_000, "\ud800"]

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        listing = [[name, 1] for name in evil]
        if request["t"] == "run":
            peer.done(request, files=listing)
        elif request["t"] == "list":
            peer.done(request, v=listing)
        else:
            peer.send({"t": "done", "id": request["id"], "v": {"$": "bytes", "i": 0}}, b"x")

    with Executor(ScriptedBackend(behave)) as executor, executor.session() as session:
        names = [info.name for info in session.run("1").files]
        assert len(names) == len(evil) and max(map(len, names)) <= 4096
        for name in names:
            with pytest.raises(UnsafeName):
                session.files.read(name)
        with pytest.raises(UnsafeName):
            session.files.save("/nonexistent/never/made")


@pytest.mark.parametrize(
    "listing",
    [5, {"a": 1}, [["a"]], [["a", "1"]], [[1, 1]], [["a", True]], None, {"$": "opaque", "t": "x", "r": "y"}],
    ids=str,
)
def test_malformed_listing_of_files_is_a_protocol_error(listing: Any) -> None:
    with Executor(ScriptedBackend(lambda peer, r: peer.done(r, v=listing))) as executor, executor.session() as session:
        with pytest.raises(ProtocolError):
            session.files.list()


@pytest.mark.parametrize("names", [5, [5], ["a", None], {"a": 1}], ids=str)
def test_malformed_names_are_a_protocol_error(names: Any) -> None:
    with Executor(ScriptedBackend(lambda peer, r: peer.done(r, v=names))) as executor, executor.session() as session:
        with pytest.raises(ProtocolError):
            list(session.variables)


def test_file_without_end_fills_no_memory() -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.send({"t": "done", "id": request["id"], "v": {"$": "bytes", "i": 0}}, b"z" * request.get("size", 0))

    from safeexec import LimitExceeded

    policy = Policy(limits=Limits(disk=1_000_000, value=100_000))
    with Executor(ScriptedBackend(behave), policy=policy) as executor, executor.session() as session:
        with pytest.raises(LimitExceeded, match=r"Limits\.disk"):
            session.files.read("endless")


def test_saving_more_files_than_the_disk_could_hold_stops(tmp_path: Any) -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        if request["t"] == "list":
            peer.done(request, v=[[f"f{i}", 60_000] for i in range(1000)])
        else:
            peer.send({"t": "done", "id": request["id"], "v": {"$": "bytes", "i": 0}}, b"z" * 60_000)

    from safeexec import LimitExceeded

    policy = Policy(limits=Limits(disk=200_000, value=100_000))
    with Executor(ScriptedBackend(behave), policy=policy) as executor, executor.session() as session:
        with pytest.raises(LimitExceeded, match="together"):
            session.files.save(tmp_path)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 200_000


@pytest.mark.parametrize(
    "names",
    [[f"f{i}" for i in range(1_200)], ["/".join(["d"] * 400 + [str(i), "d", "d", "f"]) for i in range(300)], [f"{i}/f" for i in range(550)]],
    ids=["files", "deep folders", "folders"],
)  # fmt: skip
def test_saving_more_files_and_folders_than_the_disk_could_hold_makes_none(names: list[str], tmp_path: Any) -> None:
    """They have no bytes, and each takes a place on the host's disk: sixteen megabytes of names would be eight million folders."""
    asked = []

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        if request["t"] == "list":
            peer.done(request, v=[[name, 0] for name in names])
        else:
            asked.append(request)
            peer.send({"t": "done", "id": request["id"], "v": {"$": "bytes", "i": 0}}, b"")

    from safeexec import LimitExceeded
    from safeexec.integrations._attachments import files

    policy = Policy(limits=Limits(disk=1_000_000))
    with Executor(ScriptedBackend(behave), policy=policy) as executor, executor.session() as session:
        with pytest.raises(LimitExceeded, match="more files and folders"):
            session.files.save(tmp_path)
        assert not list(tmp_path.iterdir()) and not asked
        found, trouble = files(session, session.files.list())
        assert len(found) == len(asked) == min(len(names), 1000) and (len(names) > 1000) == (
            "are not passed on" in trouble
        )
        session.files.save(tmp_path, names[:150])
    assert len(list(tmp_path.rglob("f*"))) == 150


def test_files_that_take_for_ever_together_are_not_waited_for(tmp_path: Any) -> None:
    """Each took less than a step may: a thousand of them took hours."""
    asked = []

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        asked.append(request)
        threading.Event().wait(0.1)
        peer.send({"t": "done", "id": request["id"], "v": {"$": "bytes", "i": 0}}, b"x")

    from safeexec.integrations._attachments import files
    from safeexec.result import FileInfo

    names = [f"f{n}" for n in range(100)]
    with (
        Executor(ScriptedBackend(behave), policy=Policy(limits=Limits(wall=0.5))) as executor,
        executor.session() as session,
    ):
        with pytest.raises(StepTimeout, match=r"Limits\.wall"):
            session.files.save(tmp_path, names)
        assert 0 < len(list(tmp_path.iterdir())) <= len(asked) < 20
        found, trouble = files(session, [FileInfo(name, 1) for name in names])
        assert 0 < len(found) < 20 and "longer than one step" in trouble


@pytest.mark.parametrize("data", [b"x" * 200_001, None, "text", [1]])
def test_piece_of_a_file_that_was_not_asked_for_is_a_protocol_error(data: Any) -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        if isinstance(data, bytes):
            peer.send({"t": "done", "id": request["id"], "v": {"$": "bytes", "i": 0}}, data)
        else:
            peer.done(request, v=data)

    with Executor(ScriptedBackend(behave), policy=Policy(limits=LIMITS)) as executor, executor.session() as session:
        with pytest.raises(ProtocolError):
            session.files.read("a")


@pytest.mark.parametrize("fail", [5, [], "no", {"type": 5}, {"type": "KeyError", "message": []}], ids=str)
def test_malformed_refusal_is_a_protocol_error(fail: Any) -> None:
    with Executor(ScriptedBackend(lambda peer, r: peer.done(r, fail=fail))) as executor, executor.session() as session:
        with pytest.raises(ProtocolError):
            session.variables["x"]


@pytest.mark.parametrize(
    "name",
    ["KeyError", "OSError", "FileNotFoundError", "SystemExit", "KeyboardInterrupt", "eval", "Exception", "TooLarge"],
)
def test_refusal_raises_nothing_the_guest_chose(name: str) -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.done(request, fail={"type": name, "message": "m" * 9000})

    with Executor(ScriptedBackend(behave)) as executor, executor.session() as session:
        with pytest.raises((SafeExecError, KeyError, OSError)) as caught:
            session.variables["x"]
        assert len(str(caught.value)) < 6000 and caught.value.__cause__ is None


CONTROLS = "\x1b]0;title\x07\x9b2J\r\u202e"


@pytest.mark.parametrize("name", ["FileNotFoundError", "KeyError", "OSError", "TooLarge", "SyntaxError\x1b[2J"])
def test_errors_with_words_of_the_guest_act_on_no_terminal(name: str) -> None:
    """Python writes what nobody catches to the terminal, as it is."""

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        if request["t"] == "run":
            error = {"kind": "exception", "type": name, "message": CONTROLS, "traceback": CONTROLS}
            peer.done(request, error=error)
        else:
            peer.done(request, fail={"type": name, "message": CONTROLS})

    with Executor(ScriptedBackend(behave), policy=Policy(limits=LIMITS)) as executor, executor.session() as session:
        raised = []
        for work in (lambda: session.files.read("a.txt"), lambda: session.run("1").raise_for_error()):
            with pytest.raises((SafeExecError, OSError, KeyError), match="title") as caught:
                work()
            raised.append(str(caught.value) + "".join(traceback.format_exception_only(caught.value)))
        assert not [text for text in raised if set(text) & set(CONTROLS) - set("]0;title2J")]


def test_request_that_is_not_answered_times_out() -> None:
    with Executor(ScriptedBackend(lambda *_: None), policy=Policy(limits=Limits(time=0.1))) as executor:
        with executor.session() as session:
            with pytest.raises(StepTimeout) as caught:
                session.variables["x"]
            assert isinstance(caught.value, TimeoutError)
            assert_closed(session)


def test_tool_call_outside_a_step_is_a_protocol_error() -> None:
    called: list[int] = []

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.send({"t": "call", "id": 1, "tool": "f", "a": [], "k": {}})

    with Executor(ScriptedBackend(behave)) as executor, executor.session({"f": lambda: called.append(1)}) as session:
        with pytest.raises(ProtocolError):
            session.variables["x"]
        assert_closed(session)
    assert called == []


def test_code_that_goes_on_after_an_interrupt_calls_no_tool() -> None:
    begun, made = threading.Event(), []

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.send({"t": "call", "id": 1, "tool": "wait", "a": [], "k": {}})
        header, _ = peer.reader.next()
        assert header["t"] == "failure" and header["type"] == "KeyboardInterrupt"
        peer.send({"t": "call", "id": 2, "tool": "act", "a": [], "k": {}})
        header, _ = peer.reader.next()
        peer.done(request, v=[header["t"], header["type"]])

    def wait() -> None:
        begun.set()
        release.wait(20)

    release = threading.Event()
    with (
        Executor(ScriptedBackend(behave)) as executor,
        executor.session({"wait": wait, "act": lambda: made.append(1)}) as session,
    ):
        results: list[Result] = []
        thread = threading.Thread(target=lambda: results.append(session.run("x")))
        thread.start()
        assert begun.wait(10)
        session.interrupt()
        thread.join(10)
        release.set()
        assert results[0].value == ["failure", "KeyboardInterrupt"] and made == []


def test_session_that_cannot_start_says_so_and_leaves_nothing() -> None:
    from safeexec import BackendUnavailable

    class Dead(ScriptedBackend):
        def start(self, policy: Policy) -> Any:
            guest = super().start(policy)
            guest.kill()
            return guest

    with Executor(Dead(lambda *_: None)) as executor:
        with pytest.raises(BackendUnavailable, match="did not start"):
            executor.session()


def test_session_whose_first_variables_are_bad_leaves_nothing() -> None:
    with Executor(ScriptedBackend(lambda peer, r: peer.done(r))) as executor:
        with pytest.raises(PolicyError):
            executor.session(variables={"not a name": 1})
        with pytest.raises(TypeError):
            executor.session(variables={"f": print})


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_result(data: bytes) -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.raw(data)
        peer.stream.shutdown(2)

    result, closed = attack(behave)
    assert result.error is not None and result.error.kind in ("protocol", "crash") and closed


@given(st.lists(st.sampled_from(sorted(BROKEN)), max_size=3), st.booleans())
def test_good_frames_between_bad_ones_change_nothing(names: list[str], last: bool) -> None:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.send({"t": "out", "s": 1}, b"a")
        for name in names:
            peer.raw(sent(name, request))
        peer.done(request, v=1)

    result, closed = attack(behave)
    assert result.stdout == "a"
    assert (result.value == 1 and not closed) if not names else (result.error is not None and closed)


def test_closed_session_does_not_come_back() -> None:
    _, closed = attack(lambda peer, request: peer.raw(sent("noise", request)))
    assert closed
    with Executor(ScriptedBackend(lambda peer, r: peer.done(r, v=1))) as executor:
        session = executor.session()
        assert session.run("1").value == 1
        session.close()
        for use in (
            lambda: session.variables["x"],
            lambda: session.files.list(),
            lambda: session.add_tools([]),
            lambda: session.files.write("a", b""),
        ):
            with pytest.raises(SessionClosed):
                use()
