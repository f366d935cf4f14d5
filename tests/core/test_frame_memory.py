"""The host's memory for large frames: used again, but never while somebody looks at it, and not kept for long."""

from __future__ import annotations

import os
import threading
from time import monotonic

import pytest

from safeexec import watchdog, wire
from safeexec.frame_memory import FrameMemory
from tests.core.test_wire_hostile import Source, frame_of

LARGE = 5 << 20


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> FrameMemory:
    """With a clock that only the test looks at."""
    monkeypatch.setattr(watchdog, "watch", lambda key, check: None)
    monkeypatch.setattr(watchdog, "unwatch", lambda key: None)
    return FrameMemory()


def test_it_is_used_again_when_nobody_looks_at_it(memory: FrameMemory) -> None:
    first = memory.take(LARGE)
    block = first.obj
    part = first[10:20]
    first.release()
    assert memory.take(LARGE).obj is not block, "a part of it is looked at"
    part.release()
    assert any(memory.take(LARGE - 7).obj is block for _ in range(2))
    assert len(block) == LARGE


def test_it_has_the_size_that_was_asked_for(memory: FrameMemory) -> None:
    for size in (LARGE, LARGE - 1, 0, 1, 100, 1 << 20, LARGE + 1, 33 << 20):
        view = memory.take(size)
        assert len(view) == size and not view.readonly


@pytest.mark.parametrize("size", [1000, 40 << 20])
def test_small_and_very_large_blocks_are_not_kept(memory: FrameMemory, size: int) -> None:
    memory.take(size)
    assert not memory._blocks


def test_it_is_given_back_after_a_while(memory: FrameMemory) -> None:
    memory.take(LARGE)
    memory._look(monotonic())
    assert memory._blocks
    memory._look(monotonic() + 2)
    assert not memory._blocks


def test_the_watchdog_gives_it_back() -> None:
    memory, seen = FrameMemory(), threading.Event()
    memory.take(LARGE)
    look = memory._look

    def looked(now: float) -> None:
        look(now)
        if not memory._blocks:
            seen.set()

    watchdog.watch(id(memory), looked)
    assert seen.wait(20)
    assert id(memory) not in watchdog._checks


def test_frames_stay_what_they_were_while_others_come(memory: FrameMemory) -> None:
    values = [os.urandom(8) * (LARGE // 8) for _ in range(6)]
    stream = b"".join(map(frame_of, values))
    reader = wire.FrameReader(Source(stream, [3, 70_000] * 1000).readinto, 2**23, room=memory.room)
    frames = [reader.next() for _ in values]
    assert [wire.Decoder(blobs).decode(header["v"]) for header, blobs in frames] == values


def test_rooms_are_of_it_from_a_megabyte_on(memory: FrameMemory) -> None:
    for size in (LARGE, 5, 1 << 20):
        room = memory.room(size)
        with room.getbuffer() as view:
            view[:] = bytes(size - 1) + b"z"
        value = room.getvalue()
        assert len(value) == size and value[-1:] == b"z"
        assert isinstance(value, memoryview if size >= 1 << 20 else bytes)


def test_many_readers_at_once_get_their_own(memory: FrameMemory) -> None:
    wrong: list[int] = []

    def read(number: int) -> None:
        for turn in range(30):
            view = memory.take(LARGE)
            mark = bytes([number, turn])
            view[:2] = view[-2:] = mark
            if bytes(view[:2]) != mark or bytes(view[-2:]) != mark:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(memory._blocks) <= 2
