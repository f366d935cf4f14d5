"""Numbered lines survive any cutting and repeating of the stream; what is lost is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeexec_backends._remote.lines import CHUNK, MAX_RECORD, ROW, LinesBroken, Receiver, Sender


def sent(bodies: list[bytes]) -> list[bytes]:
    sender = Sender()
    return [sender.line("d", body) for body in bodies]


def taken(receiver: Receiver, pieces: list[bytes]) -> list[bytes]:
    return [body for piece in pieces for _, body in receiver.feed(piece)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=8), st.integers(1, 50))
def test_any_cutting_gives_the_same(bodies: list[bytes], size: int) -> None:
    stream = b"".join(sent(bodies))
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert taken(Receiver(), pieces) == bodies


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=50), min_size=1, max_size=6), st.data())
def test_a_batch_that_was_cut_anywhere_can_be_sent_again(bodies: list[bytes], data: st.DataObject) -> None:
    batch = b"".join(sent(bodies))
    receiver = Receiver()
    got: list[bytes] = []
    for _ in range(3):
        got += taken(receiver, [batch[: data.draw(st.integers(0, len(batch)))]])
    got += taken(receiver, [batch])
    assert got == bodies


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=6), st.data())
def test_line_breaks_may_come_and_go(bodies: list[bytes], data: st.DataObject) -> None:
    """Vendors read streams by line: they put breaks in where a piece ends, and take them out."""
    stream = b"".join(sent(bodies)).replace(b"\n", data.draw(st.sampled_from([b"", b"\r\n", b"\n\n"])))
    for at in data.draw(st.lists(st.integers(0, len(stream)), max_size=5)):
        stream = stream[:at] + b"\n" + stream[at:]
    assert taken(Receiver(), [stream]) == bodies


def test_the_largest_line_passes() -> None:
    body = bytes(range(256)) * (CHUNK // 256)
    (line,) = sent([body])
    assert len(line) <= MAX_RECORD + 16 and taken(Receiver(), [line]) == [body]
    assert max(map(len, line.split(b"\n"))) <= ROW + 64


def test_a_missing_line_is_noticed() -> None:
    lines = sent([b"one", b"two", b"three"])
    with pytest.raises(LinesBroken, match="record 2 is missing"):
        taken(Receiver(), [lines[0], lines[2]])


def test_a_line_without_end_is_refused() -> None:
    receiver = Receiver()
    with pytest.raises(LinesBroken, match="without end"):
        for _ in range(100):
            list(receiver.feed(b"x" * 10_000))


@pytest.mark.parametrize(
    "line",
    [
        b"1 d 4 AAA",
        b"1 d 4 AAAA AAAA",
        b"x d 4 AAAA",
        b"1 q 4 AAAA",
        b"1 d 9999999999 AAAA",
        b"99999999999999999999 d 0 ",
        b"1 d 3 A==",
        "1 d 4 ÄÄ".encode(),
        b"\0" * 50,
    ],
)
def test_what_is_no_line_is_left_out(line: bytes) -> None:
    receiver = Receiver()
    assert taken(receiver, [b"~" + line + b"~\n"]) == []
    assert taken(receiver, sent([b"good"])) == [b"good"]
