"""Snapshots made to attack: what a stranger wrote gives a guest nothing that it could not have made itself."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec import Executor, Limits, Policy, Snapshot, SnapshotError, snapshot
from safeexec_backends.wasm.instance import WasmGuest
from tests.wasm.forging import ATTACKS, HARMLESS, change, forged, nodes, parts, placed

FAST = Policy(limits=Limits(time=0.4))


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_state_is_refused(in_process: Executor, image: Snapshot, attack: str) -> None:
    header, written, contents = parts(image)
    why, make = ATTACKS[attack]
    with pytest.raises(SnapshotError, match=f"malformed: {why}"):
        in_process.restore(forged(image, make(header), written, contents))


def test_what_those_are_made_of_is_taken_when_nothing_is_wrong_with_it(in_process: Executor, image: Snapshot) -> None:
    header, written, contents = parts(image)
    with in_process.restore(forged(image, nodes(header, *HARMLESS), written, contents)) as session:
        assert session.run("x").value == [1]


@pytest.mark.parametrize(
    ("starts", "lengths"),
    [
        ([2**32 - 128], [128]),
        ([0, 2**32 - 1], [1, 2**32 - 1]),
        ([0], [2**32 - 1]),
        ([0, 0], [128, 128]),
        ([128, 0], [128, 128]),
        ([0, 64], [128, 128]),
        ([0, 128], [0, 128]),
        ([0], [0]),
    ],
    ids=[
        "beyond the memory",
        "around the end",
        "longer than it",
        "twice",
        "backwards",
        "overlapping",
        "empty",
        "only empty",
    ],
)
def test_hostile_places_are_refused(
    in_process: Executor, image: Snapshot, starts: list[int], lengths: list[int]
) -> None:
    with pytest.raises(SnapshotError, match="pages"):
        in_process.restore(placed(image, starts, lengths))


@pytest.mark.parametrize("data", [b"", bytes(127), bytes(129), bytes(2**24)])
def test_pages_that_do_not_fit_their_places_are_refused(in_process: Executor, image: Snapshot, data: bytes) -> None:
    with pytest.raises(SnapshotError, match=r"too short|too long"):
        in_process.restore(placed(image, [4096], [128], data))


def test_hostile_state_is_refused_by_workers_too(workers: Executor, image: Snapshot) -> None:
    header, written, contents = parts(image)
    for why, make in list(ATTACKS.values())[::6]:
        with pytest.raises(SnapshotError, match=f"malformed: {why}"):
            workers.restore(forged(image, make(header), written, contents))
    with workers.restore(image) as back:
        assert back.run("x").value == [1]


def test_more_streams_than_there_should_be(in_process: Executor, image: Snapshot) -> None:
    header, written, contents = parts(image)
    bomb = zlib.compress(bytes(2**28), 9)
    for made in (
        # A quarter gigabyte instead of the places, and of the pages.
        forged(image, change(header, places=[5, len(bomb)], pages=0), bomb, contents),
        forged(image, change(header, pages=len(bomb)), written[: header["places"][1]] + bomb, contents),
        forged(image, header, written, bomb),
        forged(image, header, written, contents + b"more"),
        forged(image, header, written[:-1] + b"\0", contents),
        forged(image, change(header, pages=0), written[: header["places"][1]], contents),
        forged(image, b"{", written, contents),
        forged(image, b"[" * 10_000, written, contents),
        forged(image, b"null", written, contents),
    ):
        with pytest.raises(SnapshotError):
            in_process.restore(made)
    whole = snapshot.unpack(bytes(image), None)
    for state in (b"", b"\xff\xff\xff\xff", whole.state[:100], b"\0\0\0\0"):
        with pytest.raises(SnapshotError):
            in_process.restore(snapshot.pack(whole._replace(state=state), None))


def test_limits_are_the_restoring_hosts(in_process: Executor) -> None:
    with in_process.session() as session:
        session.run("big = bytearray(50_000_000)\nopen('f', 'wb').write(bytes(5_000_000))")
        image = session.snapshot()
    for limits, message in ((Limits(memory=2**20), r"Limits\.memory"), (Limits(disk=2**20), r"Limits\.disk")):
        with pytest.raises(SnapshotError, match=message):
            in_process.restore(image, policy=Policy(limits=limits))
    policy = Policy(limits=Limits(output=100, value=5000, disk=6_000_000))
    with in_process.restore(image, policy=policy) as back:
        assert back.run("print('x' * 200)").truncated
        assert back.run("'x' * 10_000").truncated
        result = back.run("open('g', 'wb').write(bytes(2_000_000))")
        assert result.error is not None and result.error.type == "OSError"


def test_snapshot_of_another_image_is_refused(executor: Executor, image: Snapshot) -> None:
    contents = snapshot.unpack(bytes(image), None)
    with pytest.raises(SnapshotError, match="another version"):
        executor.restore(snapshot.pack(contents._replace(engine=contents.engine[:-1] + "x"), None))


def test_quotas_are_counted_anew(in_process: Executor, image: Snapshot) -> None:
    with in_process.restore(image) as back:
        guest = back._guest
        assert isinstance(guest, WasmGuest)
        files_of = guest._host.files
        assert files_of.used == 4 + 5000 + len("a") and files_of.inodes == 4
        # Closing what is in every fresh tree gives nothing back that was not taken.
        back.run(
            "import os\nfor _ in range(100): os.close(os.open('/dev/null', 0)), os.listdir('/'), os.listdir('/tmp')"
        )
        assert files_of.inodes == 4


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_state_is_refused_or_harmless(
    in_process: Executor, image: Snapshot, data: st.DataObject
) -> None:
    """Whatever stands in the header: an error that says so, or a session that still runs within its limits. Never anything else."""
    header, written, contents = parts(image)
    place: Any = header
    for _ in range(data.draw(st.integers(0, 6))):
        if isinstance(place, dict) and place:
            key: Any = data.draw(st.sampled_from(sorted(place)))
        elif isinstance(place, list) and place:
            key = data.draw(st.integers(0, len(place) - 1))
        else:
            break
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            junk = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.floats()
            place[key] = data.draw(junk | st.lists(junk, max_size=4) | st.dictionaries(st.text(max_size=3), junk))
            break
        place = place[key]
    try:
        back = in_process.restore(forged(image, header, written, contents))
    except SnapshotError:
        return
    with back:
        result = back.run("import os\n(x, sorted(os.listdir('/sandbox')))")
        assert result.error is None or result.error.kind in ("exception", "crash")
        if result.ok and not back.closed:
            back.files.list()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=300), st.integers(0, 10**7))
def test_hostile_memory_stays_the_guests_own(in_process: Executor, image: Snapshot, junk: bytes, where: int) -> None:
    """Linear memory with anything written into it: the guest may crash, the host and other sessions do not notice."""
    memory = parts(image)[0]["memory"]
    block = (junk * (4096 // len(junk) + 1))[:4096]
    made = placed(image, [where % (memory // 4096) * 4096], [4096], block)
    try:
        with in_process.restore(made, policy=FAST) as back:
            back.run("x = 1")
    except Exception as error:
        assert type(error).__module__.startswith("safeexec.")
    assert in_process.run("1 + 1").value == 2
