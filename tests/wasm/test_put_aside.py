"""Large data that stays as it is: mapped from a file instead of copied with every checkpoint, and right whatever happens to it then."""

from __future__ import annotations

import errno
import os
import random
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy, Session
from safeexec_backends.wasm import checkpoint, pages
from safeexec_backends.wasm.checkpoint import Past
from safeexec_backends.wasm.instance import WasmGuest
from tests.support.undone import SPIN

MB = 1 << 20
POLICY = Policy(limits=Limits(time=0.6, value=64 * MB, memory=256 * MB))
DIGEST = "import hashlib, random\ndef digest():\n    return hashlib.sha256(x).hexdigest()"
FILL = "x = bytearray(random.Random({seed}).randbytes({size}))"


def guest_of(session: Session) -> WasmGuest:
    guest = session._guest
    assert isinstance(guest, WasmGuest)
    return guest


def past_of(session: Session) -> Past:
    return guest_of(session)._past


def filled(executor: Executor, size: int = 12 * MB, steps: int = 5) -> Session:
    """A session with so many bytes, in which steps were run that leave them alone."""
    session = executor.session(policy=POLICY)
    session.run(DIGEST + "\n" + FILL.format(seed=1, size=size)).raise_for_error()
    for _ in range(steps):
        session.run("1").raise_for_error()
    return session


def digest(data: bytes | bytearray) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_it_is_mapped_and_copied_no_more(in_process: Executor) -> None:
    with filled(in_process) as session:
        base = guest_of(session)._host.base
        assert base is not None and pages.total(base.runs) >= 12 * MB
        session.run("2")
        state = past_of(session)._state
        session.run("3")
        assert state is None or pages.total(state.runs) < 4 * MB
        assert session.run("digest()").value == digest(random.Random(1).randbytes(12 * MB))
        session.run("x[5_000_000:5_000_100] = bytes(100)").raise_for_error()
        assert guest_of(session)._host.base is base, "what was written to is the instance's own again"
        expected = bytearray(random.Random(1).randbytes(12 * MB))
        expected[5_000_000:5_000_100] = bytes(100)
        assert session.run("digest()").value == digest(expected)


def test_the_first_page_is_never_mapped(in_process: Executor) -> None:
    with filled(in_process) as session:
        base = guest_of(session)._host.base
        assert base is not None and all(start >= pages.PAGE for start, _ in base.runs)
    assert checkpoint.lasting([(0, 3 * pages.PAGE), (5 * pages.PAGE, 6 * pages.PAGE)]) == [
        (pages.PAGE, 3 * pages.PAGE),
        (5 * pages.PAGE, 6 * pages.PAGE),
    ]
    assert checkpoint.lasting([(0, pages.PAGE)]) == []


def test_whatever_is_done_to_it(executor: Executor) -> None:
    chance = random.Random(7)
    session = filled(executor, 6 * MB, 1)
    x = bytearray(random.Random(1).randbytes(6 * MB))
    seen = 0
    for turn in range(60):
        what = chance.choice(
            ["rest", "rest", "rest", "rest", "write", "write much", "grow", "fail", "fork", "snapshot"]
        )
        if what == "rest":
            session.run("1").raise_for_error()
        elif what == "write":
            place, value = chance.randrange(len(x)), chance.randrange(256)
            x[place] = value
            session.run(f"x[{place}] = {value}").raise_for_error()
        elif what == "write much":
            place, data = chance.randrange(len(x) - 2 * MB), random.Random(turn).randbytes(2 * MB)
            x[place : place + 2 * MB] = data
            session.run(f"x[{place}:{place + 2 * MB}] = random.Random({turn}).randbytes({2 * MB})").raise_for_error()
        elif what == "grow" and len(x) < 20 * MB:
            x += random.Random(turn).randbytes(MB)
            session.run(f"x += random.Random({turn}).randbytes({MB})").raise_for_error()
        elif what == "fail" and turn % 2:
            result = session.run(f"x[::4096] = bytes(len(x[::4096]))\ny = bytes({2 * MB})\n{SPIN}")
            assert result.rolled_back
        elif what == "fork":
            branch = session.fork()
            branch.run("x[0] ^= 255").raise_for_error()
            assert session.run("digest()").value == digest(x)
            x[0] ^= 255
            session.close()
            session = branch
        elif what == "snapshot" and turn % 3 == 0:
            snapshot = session.snapshot()
            session.close()
            session = executor.restore(snapshot, policy=POLICY)
        guest = session._guest
        seen += not isinstance(guest, WasmGuest) or guest._host.base is not None
        if turn % 6 == 5:
            assert session.run("digest()").value == digest(x), (turn, what)
    assert session.run("digest()").value == digest(x)
    session.close()
    assert seen > 5


def test_what_is_written_again_and_again_is_put_aside_ever_less_often(
    in_process: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Counted(pages.Frozen):
        def __init__(self, *given: Any) -> None:
            made.append(1)
            super().__init__(*given)

    monkeypatch.setattr(checkpoint, "Frozen", Counted)
    with filled(in_process, 6 * MB, 0) as session:
        for _ in range(40):
            session.run("x[::4096] = x[::4096]").raise_for_error()  # what it was, and written all the same
    assert 1 <= len(made) <= 6


@pytest.mark.parametrize("refused", ["file", "room", "first mapping", "second mapping"])
def test_where_there_is_no_room_it_is_copied_as_before(
    refused: str, in_process: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = pages._map_fixed

    def mapped(*given: int) -> None:
        calls.append(1)
        if len(calls) == (1 if refused == "first mapping" else 2):
            raise OSError(errno.ENOMEM, "no room")
        real(*given)

    def none(*_given: Any) -> int:
        calls.append(1)
        raise OSError(errno.EMFILE, "no descriptor")

    def full(fd: int, _parts: list[memoryview]) -> None:
        calls.append(fd)
        raise OSError(errno.ENOSPC, "no room")

    if refused == "room":
        monkeypatch.setattr(pages, "_write", full)
    elif refused == "file":
        monkeypatch.setattr(os, "memfd_create", none)
    else:
        monkeypatch.setattr(pages, "_map_fixed", mapped)
    session = filled(in_process, 6 * MB, 0)
    # Two runs, so that there are two mappings.
    session.run("z = bytes(70_000); y = bytearray(random.Random(2).randbytes(3_000_000))").raise_for_error()
    for _ in range(5):
        session.run("1").raise_for_error()
    assert calls
    monkeypatch.undo()
    assert session.run("digest()").value == digest(random.Random(1).randbytes(6 * MB))
    assert session.run("x[7] = 0; y[7] = 0\n" + SPIN).rolled_back
    assert session.run("digest()").value == digest(random.Random(1).randbytes(6 * MB))
    assert session.run("bytes(y) == random.Random(2).randbytes(3_000_000)").value is True
    session.close()


def test_pages_that_found_no_room_close_their_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close = os.close

    def full(fd: int, _parts: list[memoryview]) -> None:
        monkeypatch.setattr(os, "close", lambda number: (closed.append(number), close(number)))
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(pages, "_write", full)
    with pytest.raises(OSError, match="no room"):
        pages.Frozen(memoryview(bytes(pages.PAGE)), [(0, pages.PAGE)])
    monkeypatch.undo()
    assert len(closed) == 1


def test_only_so_many_sessions_have_a_file(in_process: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_MOST_PUT", len(checkpoint._put) + 1)
    with filled(in_process, 6 * MB) as first, filled(in_process, 6 * MB) as second:
        assert guest_of(first)._host.base is not None
        assert guest_of(second)._host.base is None
        assert second.run("digest()").value == digest(random.Random(1).randbytes(6 * MB))
    with filled(in_process, 6 * MB) as third:
        assert guest_of(third)._host.base is not None, "the first one's was given back"


def test_where_the_kernel_tells_nothing_nothing_is_put_aside(
    in_process: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages.Finder, "ready", lambda self: False)
    session = filled(in_process, 6 * MB)
    assert guest_of(session)._host.base is None
    assert session.run("x[0] = 1\n" + SPIN).rolled_back
    assert session.run("digest()").value == digest(random.Random(1).randbytes(6 * MB))
    monkeypatch.undo()  # an instance that comes back where the kernel tells nothing ends that any is used again in this process
    session.close()
