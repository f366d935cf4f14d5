"""Snapshots made to attack: what a stranger wrote gives a guest nothing that it could not have made itself."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec import Executor, Limits, Policy, Snapshot, SnapshotError, snapshot
from safeexec_backends.wasm.instance import WasmGuest

FAST = Policy(limits=Limits(time=0.4))


def parts(image: Snapshot) -> tuple[dict[str, Any], bytes, bytes]:
    """Header; places and pages, one behind the other; contents."""
    state = snapshot.unpack(bytes(image), None).state
    length = int.from_bytes(state[:4], "little")
    header = json.loads(state[4 : 4 + length])
    rest = state[4 + length :]
    end = header["places"][1] + header["pages"]
    return header, rest[:end], rest[end:]


def forged(image: Snapshot, header: Any, written: bytes, contents: bytes) -> Snapshot:
    """A snapshot with another state in it, and every digest as it should be."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    state = len(text).to_bytes(4, "little") + text + written + contents
    return snapshot.pack(snapshot.unpack(bytes(image), None)._replace(state=state), None)


def placed(image: Snapshot, starts: list[int], lengths: list[int], data: bytes | None = None) -> Snapshot:
    """A snapshot whose memory differs elsewhere, by `data` if not by as many bytes as it says."""
    header, _, contents = parts(image)
    places = zlib.compress(struct.pack(f"<{len(starts) + len(lengths)}I", *starts, *lengths))
    pages = zlib.compress(bytes(sum(lengths) % 2**22) if data is None else data)
    header = change(header, places=[len(starts), len(places)], pages=len(pages))
    return forged(image, header, places + pages, contents)


def change(header: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**header, **fields}


def files(header: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**header, "files": {**header["files"], **fields}}


def nodes(header: dict[str, Any], *more: Any) -> dict[str, Any]:
    return files(header, nodes=[*header["files"]["nodes"], *more])


def linked(header: dict[str, Any], name: str, what: Any) -> dict[str, Any]:
    """With one more entry in the working directory."""
    described = [list(node) for node in header["files"]["nodes"]]
    described[header["files"]["working"]][3] = {**described[header["files"]["working"]][3], name: what}
    return files(header, nodes=described)


ATTACKS: dict[str, Any] = {
    "places of a wrong shape": lambda h: change(h, places=[1]),
    "places that are numbers": lambda h: change(h, places=7),
    "no places": lambda h: change(h, places=None),
    "too few places": lambda h: change(h, places=[h["places"][0] - 1, h["places"][1]]),
    "too many places": lambda h: change(h, places=[h["places"][0] + 1, h["places"][1]]),
    "places without end": lambda h: change(h, places=[2**40, h["places"][1]]),
    "less than no places": lambda h: change(h, places=[-1, h["places"][1]]),
    "places beyond the end": lambda h: change(h, places=[h["places"][0], 2**40]),
    "places that end before they begin": lambda h: change(h, places=[h["places"][0], -5]),
    "floating places": lambda h: change(h, places=[float(h["places"][0]), h["places"][1]]),
    "true places": lambda h: change(h, places=[True, h["places"][1]]),
    "a memory that is too small": lambda h: change(h, memory=65536),
    "a memory beyond the limit": lambda h: change(h, memory=2**32),
    "a memory beyond addresses": lambda h: change(h, memory=2**40),
    "a memory of odd size": lambda h: change(h, memory=h["memory"] + 1),
    "a negative memory": lambda h: change(h, memory=-65536),
    "no clock": lambda h: change(h, clock=None),
    "a clock of another kind": lambda h: change(h, clock="now"),
    "a clock before time": lambda h: change(h, clock=-1),
    "streams beyond the end": lambda h: change(h, pages=10**9),
    "a negative stream": lambda h: change(h, pages=-1),
    "contents beyond Limits.disk": lambda h: change(h, contents=2**40),
    "contents that are not there": lambda h: change(h, contents=h["contents"] + 1),
    "contents of no file": lambda h: change(h, contents=h["contents"] - 1),
    "no files": lambda h: change(h, files=None),
    "files of another kind": lambda h: change(h, files=[1]),
    "no nodes": lambda h: files(h, nodes=None),
    "a million nodes": lambda h: nodes(h, *[["d", 0, 0, {}, 5]] * 100_000),
    "a file of negative size": lambda h: nodes(h, ["f", 0, 0, -1, 5]),
    "a file of endless size": lambda h: nodes(h, ["f", 0, 0, 2**62, 5]),
    "a node of no kind": lambda h: nodes(h, ["b", 0, 0, 1, 5]),
    "a node that is none": lambda h: nodes(h, 7),
    "an unknown device": lambda h: nodes(h, ["c", 0, 0, "mem", 5]),
    "a device that is a list": lambda h: nodes(h, ["c", 0, 0, ["null"], 5]),
    "a mode with more in it": lambda h: nodes(h, ["d", 0o170000, 0, {}, 5]),
    "an inode beyond numbers": lambda h: nodes(h, ["d", 0, 0, {}, 2**64]),
    "a time before time": lambda h: nodes(h, ["d", 0, -(2**63) * 10**9 - 1, {}, 5]),
    "a time beyond time": lambda h: nodes(h, ["d", 0, 2**63 * 10**9, {}, 5]),
    "a link to nothing": lambda h: nodes(h, ["l", 0, 0, "", 5]),
    "a link that is too long": lambda h: nodes(h, ["l", 0, 0, "x" * 5000, 5]),
    "a name with a slash": lambda h: linked(h, "../up", 0),
    "a name that goes up": lambda h: linked(h, "..", h["files"]["root"]),
    "a name that stays": lambda h: linked(h, ".", h["files"]["root"]),
    "no name": lambda h: linked(h, "", h["files"]["root"]),
    "a name with a NUL": lambda h: linked(h, "a\0b", h["files"]["root"]),
    "a name that is too long": lambda h: linked(h, "x" * 256, h["files"]["root"]),
    "a name of surrogates": lambda h: linked(h, "\ud800", h["files"]["root"]),
    "a directory in itself": lambda h: linked(h, "loop", h["files"]["working"]),
    "the root below itself": lambda h: linked(h, "loop", h["files"]["root"]),
    "a node that does not exist": lambda h: linked(h, "ghost", 10**6),
    "a node counted from the end": lambda h: linked(h, "ghost", -1),
    "a shared file that is not there": lambda h: linked(h, "ghost", "lib/../../etc/passwd"),
    "the host's files": lambda h: linked(h, "ghost", "/etc/passwd"),
    "a shared file by an empty name": lambda h: linked(h, "ghost", ""),
    "a root that is a file": lambda h: files(h, root=next(n for n, d in enumerate(h["files"]["nodes"]) if d[0] == "f")),
    "a root that is shared": lambda h: files(h, root="lib"),
    "a working directory that is shared": lambda h: files(h, working="lib"),
    "a working directory of nothing": lambda h: files(h, working=None),
    "a place that is no list": lambda h: files(h, cwd="sandbox"),
    "a place that is nowhere": lambda h: files(h, cwd=[]),
    "a place that begins elsewhere": lambda h: files(h, cwd=[["", h["files"]["working"]]]),
    "a place of endless length": lambda h: files(h, cwd=[["", h["files"]["root"]]] * 10**5),
    "a mask beyond its bits": lambda h: files(h, umask=0o7777),
    "too many descriptors": lambda h: files(h, descriptors=[[n, 0] for n in range(1000)]),
    "a descriptor twice": lambda h: files(h, descriptors=[[0, 0], [0, 0]]),
    "a negative descriptor": lambda h: files(h, descriptors=[[-1, 0], *h["files"]["descriptors"][1:]]),
    "a descriptor of nothing": lambda h: files(h, descriptors=[[9, 99], *h["files"]["descriptors"]]),
    "open files without descriptors": lambda h: files(h, open=h["files"]["open"] * 2),
    "a place in a file before its start": lambda h: files(h, open=[[*f[:3], -5, f[4]] for f in h["files"]["open"]]),
    "a place in a file beyond numbers": lambda h: files(h, open=[[*f[:3], 2**63, f[4]] for f in h["files"]["open"]]),
    "flags beyond their bits": lambda h: files(h, open=[[f[0], 2**40, *f[2:]] for f in h["files"]["open"]]),
    "a shared file open for writing": lambda h: files(
        h, open=[["lib/python314.zip", 1, *f[2:]] for f in h["files"]["open"]]
    ),
    "a cursor of another kind": lambda h: files(h, open=[[*f[:4], 5] for f in h["files"]["open"]]),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_state_is_refused(in_process: Executor, image: Snapshot, attack: str) -> None:
    header, written, contents = parts(image)
    with pytest.raises(SnapshotError):
        in_process.restore(forged(image, ATTACKS[attack](header), written, contents))


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
    for attack in list(ATTACKS.values())[::6]:
        with pytest.raises(SnapshotError):
            workers.restore(forged(image, attack(header), written, contents))
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
