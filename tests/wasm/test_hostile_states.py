"""What a guest, or who writes a snapshot, can do to the host by the shape of a file system; and snapshots changed in any way at all."""

from __future__ import annotations

import contextlib
import copy
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec import Executor, Limits, Policy, Session, Snapshot, SnapshotError, snapshot
from safeexec_backends.wasm import WasmBackend, fs_copy
from safeexec_backends.wasm.errno import Errno
from safeexec_backends.wasm.fs import HELD_MAX, O_CREAT, FileSystem
from safeexec_backends.wasm.fs_nodes import Directory, File, Symlink
from safeexec_backends.wasm.fs_tree import PATH_MAX, Quota
from safeexec_backends.wasm.instance import WasmGuest
from tests.wasm.forging import TIMES, alone, change, files, forged, parts, placed

SMALL = Policy(limits=Limits(time=2, memory=16 << 20, disk=1 << 20))


@pytest.fixture(scope="module")
def in_process() -> Executor:
    return Executor(WasmBackend(Policy(), workers=0))


@pytest.fixture(scope="module")
def image(in_process: Executor) -> Snapshot:
    with in_process.session() as session:
        result = session.run(
            "import os\nos.makedirs('a/b/d')\nopen('a/one', 'w').write('text')\nopen('two', 'wb').write(bytes(5000))\n"
            "os.symlink('two', 'link')\nf = open('two', 'r+b')\ng = os.open('a/b', 0)\nh = os.dup(g)\nos.mkdir('/tmp/t')\n"
            "os.chdir('/tmp/t')\nos.rmdir('/tmp/t')\nx = [1]"
        )
        assert result.ok
        return session.snapshot()


def inside(session: Session) -> FileSystem:
    guest = session._guest
    assert isinstance(guest, WasmGuest)
    return guest._host.files


def check(tree: FileSystem) -> None:
    """What holds of every file system that system calls have made."""
    seen: set[int] = {id(tree.root)}
    pending = [tree.root]
    names = used = directories = 0
    while pending:
        directory = pending.pop()
        for name, node in directory.entries.items():
            assert name not in ("", ".", "..") and "/" not in name and "\0" not in name
            if node.readonly:
                assert directory is tree.root
                continue
            assert id(node) not in seen, "two names for one"
            seen.add(id(node))
            names += 1
            if isinstance(node, Directory):
                directories += 1
                pending.append(node)
            elif isinstance(node, File | Symlink):
                used += node.size
    assert tree.root.entries["sandbox"] is tree.working
    assert used <= tree.used <= tree.quota.bytes
    assert names - 12 <= tree.inodes <= tree.quota.inodes, "five directories and seven devices are not counted"
    held = {id(file): len(file.place) for file in tree.files.values()}
    assert tree.held == sum(held.values()) <= HELD_MAX and len(tree.files) <= tree.quota.open_files
    assert sum(1 for _ in tree.walk()) <= names


# -- what a guest can make itself -------------------------------------------------------------------------------------------

STALE = """
import os
os.makedirs('/sandbox/a/b/d'); os.chdir('/sandbox/a/b/d')
os.rename('/sandbox/a/b', '/sandbox/q')
os.mkdir('/sandbox/z'); os.rename('/sandbox/q', '/sandbox/z/b')
try:
    os.rename('/sandbox/z', 'zz')
    raise AssertionError('a loop')
except OSError as error:
    result = error.strerror
os.rename('/sandbox/a', 'aa')  # no loop
result, os.listdir('/sandbox/z/b/d')
"""


def test_a_directory_cannot_be_moved_below_itself_by_way_of_an_old_place(in_process: Executor) -> None:
    with in_process.session() as session:
        assert session.run(STALE).value == ("Invalid argument", ["aa"])
        check(inside(session))
        with in_process.restore(session.snapshot()) as back:
            assert back.run("os.listdir('.')").value == ["aa"]


def test_a_removed_directory_gives_its_place_in_the_quota_back_once(in_process: Executor) -> None:
    stand = "import os\nos.mkdir('x'); os.chdir('x'); os.rmdir('/sandbox/x')\n"
    again = "for _ in range(1000): os.close(os.open('.', 0))\n"
    with in_process.session() as session:
        assert session.run(stand + again).ok
        assert inside(session).inodes == 0
        with in_process.restore(session.snapshot()) as back, session.fork() as branch:
            for one in (back, branch):
                assert one.run(again).ok
                assert inside(one).inodes == 0
                assert one.run("os.mkdir('y')").error is not None, "nothing is made where no quota sees it"
                check(inside(one))
        devices = "for name in os.listdir('/dev'):\n    if name not in ('.', '..'): os.remove('/dev/' + name)"
        assert session.run(devices).ok
        assert inside(session).inodes == 0


def test_open_files_keep_few_removed_directories(in_process: Executor) -> None:
    """Each keeps those above it, which are in no quota once they are removed: 250 of them could keep four million."""
    hold = (
        "import os\nfds = []\nfor n in range(900): os.mkdir('d'); os.chdir('d')\n"
        "def more():\n    while True: fds.append(os.open('.', 0))"
    )
    with in_process.session() as session:
        assert session.run(hold).ok
        result = session.run("more()")
        assert result.error is not None and result.error.type == "OSError"
        assert session.run("len(fds)").value == (HELD_MAX - 3) // 902
        check(inside(session))
        assert session.run("for n in range(900): os.chdir('..'); os.rmdir('d')").ok
        assert session.run("for fd in fds: os.close(fd)\nfds.clear()").ok
        check(inside(session))
        assert inside(session).inodes == 0 and inside(session).held == 3


def test_paths_without_end_are_in_no_list(in_process: Executor) -> None:
    """The paths of a thousand files in two thousand directories, one in the other, took the host three gigabytes."""
    with in_process.session() as session:
        session.run(
            "import os\nopen('seen', 'w').close()\nfor n in range(500): os.mkdir('d' * 255); os.chdir('d' * 255)"
        )
        session.run("for n in range(200): open(str(n), 'w').close()")
        tracemalloc.start()
        result = session.run("open('last', 'w').close()")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert result.ok and peak < 2 << 20, peak
        assert [one.name for one in session.files.list() if len(one.name) <= PATH_MAX] == ["seen"]
        assert all(len(name) <= PATH_MAX for name, _ in inside(session).walk())


# -- what a snapshot can say --------------------------------------------------------------------------------------------------


def compact(image: Snapshot, header: Any, written: bytes, contents: bytes) -> Snapshot:
    return forged(image, json.dumps(header, separators=(",", ":")).encode(), written, contents)


def node_of(header: dict[str, Any], *path: str) -> int:
    at: int = header["files"]["working"]
    for name in path:
        at = header["files"]["nodes"][at][3][name]
    return at


def with_entries(header: dict[str, Any], where: int, entries: dict[str, Any]) -> dict[str, Any]:
    nodes = copy.deepcopy(header["files"]["nodes"])
    nodes[where][3] = entries
    return files(header, nodes=nodes)


def opened(header: dict[str, Any], what: Any, flags: int) -> dict[str, Any]:
    first, *rest = header["files"]["open"]
    return files(header, open=[[what, flags, *first[2:]], *rest])


SHAPES: dict[str, tuple[str, Any]] = {
    "another working directory, which could be moved": (
        "its files: a working directory in another place",
        lambda h: files(h, working=node_of(h, "a", "b", "d")),
    ),
    "the root for the working directory": (
        "its files: a working directory in another place",
        lambda h: files(h, working=h["files"]["root"]),
    ),
    "a file with two names": (
        "its files: something with two names",
        lambda h: with_entries(h, node_of(h, "a", "b", "d"), {"again": node_of(h, "two")}),
    ),
    "a file with many names": (
        "its files: something with two names",
        lambda h: with_entries(h, node_of(h, "a", "b", "d"), {str(n): node_of(h, "a", "one") for n in range(20_000)}),
    ),
    "shared files under many names": (
        "its files: a shared file in another place",
        lambda h: with_entries(h, node_of(h, "a", "b", "d"), {str(n): "lib" for n in range(20_000)}),
    ),
    "a shared directory under another name": (
        "its files: a shared file in another place",
        lambda h: with_entries(h, h["files"]["root"], {**h["files"]["nodes"][h["files"]["root"]][3], "mine": "lib"}),
    ),
    "a link that is open": (
        "its files: a link that is open",
        lambda h: opened(h, node_of(h, "link"), 2),
    ),
    "a directory open for writing": (
        "its files: a directory that is open for writing",
        lambda h: opened(h, node_of(h, "a"), 1),
    ),
    "directories above files without end": (
        "its files: places that are too long",
        lambda h: files(
            h,
            open=[
                [
                    *f[:2],
                    [["", h["files"]["root"]]] + [["n", node_of(h, "a")]] * (HELD_MAX // len(h["files"]["open"])),
                    *f[3:],
                ]
                for f in h["files"]["open"]
            ],
        ),
    ),
    "a removed directory with something in it": (
        "its files: a removed directory that is not empty",
        lambda h: files(
            h,
            nodes=[
                *h["files"]["nodes"],
                ["d", 0, TIMES, {"deep": len(h["files"]["nodes"]) + 1}, 5],
                ["d", 0, TIMES, {}, 5],
            ],
        ),
    ),
    "a clock at the end of time": (
        "its clock",
        lambda h: change(h, clock=2**63 - 1),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_no_system_call_makes_are_refused(in_process: Executor, image: Snapshot, shape: str) -> None:
    header, written, contents = parts(image)
    why, make = SHAPES[shape]
    with pytest.raises(SnapshotError, match=f"malformed: {why}"):
        in_process.restore(compact(image, make(header), written, contents))


def _lists(header: dict[str, Any]) -> bytes:
    return b'{"memory":[' + b",".join([b"[]"] * 2_000_000) + b"]}"


def _beside(header: dict[str, Any]) -> bytes:
    return json.dumps(header).encode()[:-1] + b', "more": [' + b",".join([b"{}"] * 2_000_000) + b"]}"


def _nested(header: dict[str, Any]) -> bytes:
    return b'{"files":' * 1_000_000


def _digits(header: dict[str, Any]) -> bytes:
    return b'{"memory":' + b"1" * 2_000_000 + b"}"


def _slashes(header: dict[str, Any]) -> bytes:
    return json.dumps(files(alone(header), root="/" * 6_000_000)).encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (_lists, "its header"),
        (_beside, "its header"),
        (_nested, "its header"),
        (_digits, "its header"),
        (_slashes, "its files: a shared file that is not here"),
    ],
)
def test_a_header_that_would_grow_is_refused_before_it_does(
    in_process: Executor, image: Snapshot, text: Any, why: str
) -> None:
    header, written, contents = parts(image)
    made = forged(image, text(header), written, contents)
    in_process.run("1")
    tracemalloc.start()
    try:
        with pytest.raises(SnapshotError, match=f"malformed: {why}"):
            in_process.restore(made, policy=SMALL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The header itself, what of it is no text, and the snapshot's own copies.
    assert peak < 6 * len(bytes(made)) + (8 << 20), peak


def test_more_places_than_memory_has_blocks_are_refused(in_process: Executor, image: Snapshot) -> None:
    memory = parts(image)[0]["memory"]
    count = memory // 256 + 3
    with pytest.raises(SnapshotError, match="its pages"):
        in_process.restore(placed(image, list(range(0, 2 * count, 2)), [1] * count))


def test_the_largest_tree_that_a_guest_can_make_comes_back(in_process: Executor) -> None:
    """The bound on a header's size refuses nothing real: as many files as there may be, as many open as may be, deep down."""
    with in_process.session(policy=SMALL.replace(limits=Limits(time=20, disk=1 << 20))) as session:
        session.run(
            "import os\nfor n in range(190): os.mkdir('[,{'); os.chdir('[,{')\nkept = [os.open('.', 0) for _ in range(250)]"
        )
        session.run("for n in range(2000): open('[],' * 20 + str(n), 'w').close()")
        before = inside(session)
        assert before.inodes == before.quota.inodes and len(before.files) > 250
        with in_process.restore(session.snapshot(), policy=session.policy) as back:
            check(inside(back))
            assert inside(back).inodes == before.inodes and inside(back).held == before.held


# -- any change -----------------------------------------------------------------------------------------------------------------

OPERATIONS = """
import os, random
r = random.Random({seed})
def paths():
    found = ['.', '..', '/sandbox', '/tmp', '/dev', 'new']
    for base in ('/sandbox', '/tmp', '/dev'):
        for where, directories, names in os.walk(base):
            found += [where + '/' + n for n in directories + names][:20]
            if len(found) > 60: break
    return found
fds = []
for _ in range(60):
    known = paths()
    one, two = r.choice(known), r.choice(known) + r.choice(['', '', '/n%d' % r.randrange(9)])
    try:
        match r.randrange(9):
            case 0: os.rename(one, two)
            case 1: os.mkdir(two)
            case 2: os.rmdir(one)
            case 3: os.unlink(one)
            case 4: os.chdir(one)
            case 5: fds.append(os.open(one, r.choice([0, 1, 2, 64, 66, 512 | 1, os.O_PATH])))
            case 6: os.symlink(one, two)
            case 7: os.close(r.choice(fds or list(range(20))))
            case 8: os.write(r.choice(fds or list(range(3, 20))), bytes(r.choice([1, 5000])))
    except (OSError, UnicodeError): pass
len(paths())
"""


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every place in plain data that holds something: its container and key."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        one = pending.pop()
        keys: Any = list(one) if isinstance(one, dict) else range(len(one))
        for key in keys:
            found.append((one, key))
            if isinstance(one[key], dict | list):
                pending.append(one[key])
    return found


def mutate(data: st.DataObject, header: dict[str, Any]) -> None:
    """One change that keeps to what such headers are made of, or not."""
    spots = places_in(header)
    box, key = spots[data.draw(st.integers(0, len(spots) - 1))]
    other, there = spots[data.draw(st.integers(0, len(spots) - 1))]
    kind = data.draw(st.sampled_from(("swap", "copy", "step", "drop", "again", "rename", "junk", "number", "node")))
    if kind == "swap":
        box[key], other[there] = other[there], box[key]
    elif kind == "copy":
        box[key] = copy.deepcopy(other[there])
    elif kind == "step" and type(box[key]) is int:
        box[key] += data.draw(st.sampled_from((-1, 1, 4096, -4096, 2**31, 2**32, 2**53, 2**63)))
    elif kind == "drop":
        del box[key]
    elif kind == "again" and isinstance(box, list):
        box.insert(key, copy.deepcopy(box[key]))
    elif kind == "rename" and isinstance(box, dict):
        name = data.draw(
            st.sampled_from(("..", ".", "", "a/b", "/", "n\0", "\udcff", "\ud800", "sandbox", "lib", "dev", "x" * 300))
        )
        box[name] = box.pop(key)
    elif kind == "junk":
        box[key] = data.draw(
            st.none()
            | st.booleans()
            | st.floats()
            | st.text(max_size=5)
            | st.just([])
            | st.just({})
            | st.just("lib/../lib")
        )
    elif kind == "number":
        box[key] = data.draw(
            st.integers(-2, 40) | st.sampled_from((2**16, 2**31, 2**32 - 1, 2**53, 2**62, 2**63, 2**64))
        )
    elif kind == "node" and isinstance(header.get("files"), dict) and isinstance(header["files"].get("nodes"), list):
        directories = [
            n for n in header["files"]["nodes"] if isinstance(n, list) and len(n) == 5 and isinstance(n[3], dict)
        ]
        if directories:
            where = directories[data.draw(st.integers(0, len(directories) - 1))]
            where[3][data.draw(st.sampled_from(("n", "two", "sandbox", "z")))] = data.draw(st.integers(0, 25))


def survives(executor: Executor, made: Snapshot, seed: int) -> bool:
    """Restore a snapshot that may be anything; whether it was taken. What is taken behaves as a guest's own work."""
    try:
        back = executor.restore(made, policy=SMALL)
    except SnapshotError:
        return False
    with back:
        check(inside(back))
        result = back.run(OPERATIONS.replace("{seed}", str(seed)))
        assert result.error is None or result.error.kind != "protocol", result.error
        if not back.closed:
            check(inside(back))
            try:
                executor.restore(back.snapshot(), policy=SMALL).close()  # and can be written down again
            except SnapshotError as error:
                raise AssertionError("a state that was restored cannot be") from error
    return True


def change_header(executor: Executor, image: Snapshot, data: st.DataObject) -> None:
    header, written, contents = parts(image)
    for _ in range(data.draw(st.integers(1, 4))):
        mutate(data, header)
    survives(executor, forged(image, header, written, contents), data.draw(st.integers(0, 10**6)))


def change_bytes(executor: Executor, image: Snapshot, data: st.DataObject) -> None:
    contents = snapshot.unpack(bytes(image), None)
    state = bytearray(contents.state)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(state) - 1))
        kind = data.draw(st.sampled_from(("flip", "cut", "splice", "grow")))
        if kind == "flip":
            state[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del state[at : at + data.draw(st.integers(1, 5000))]
            state = state or bytearray(1)
        elif kind == "splice":
            state[at : at + 4] = data.draw(st.sampled_from((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80\0\0\0")))
        else:
            state[at:at] = state[: data.draw(st.integers(1, 500))]
    survives(executor, snapshot.pack(contents._replace(state=bytes(state)), None), 1)


FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=40, **FUZZ)  # type: ignore[arg-type]
@given(data=st.data())
def test_a_changed_header_is_refused_or_a_file_system(
    in_process: Executor, image: Snapshot, data: st.DataObject
) -> None:
    change_header(in_process, image, data)


@settings(max_examples=25, **FUZZ)  # type: ignore[arg-type]
@given(data=st.data())
def test_changed_bytes_are_refused_or_a_state(in_process: Executor, image: Snapshot, data: st.DataObject) -> None:
    change_bytes(in_process, image, data)


@pytest.mark.slow
@settings(max_examples=3000, **FUZZ)  # type: ignore[arg-type]
@given(data=st.data())
def test_many_changed_headers(in_process: Executor, image: Snapshot, data: st.DataObject) -> None:
    change_header(in_process, image, data)


@pytest.mark.slow
@settings(max_examples=1000, **FUZZ)  # type: ignore[arg-type]
@given(data=st.data())
def test_much_changed_bytes(in_process: Executor, image: Snapshot, data: st.DataObject) -> None:
    change_bytes(in_process, image, data)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_envelope_is_refused(data: st.DataObject) -> None:
    """Whatever bytes: SnapshotError, or what was packed. With a key, only what was packed."""
    key = bytes(range(32)) if data.draw(st.booleans()) else None
    whole = snapshot.Contents("wasm", "engine", {"imports": "x"}, (1, 2), b"state" * 20)
    packed = bytearray(bytes(snapshot.pack(whole, key)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(packed) - 1))
        packed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        packed = packed or bytearray(1)
    try:
        found = snapshot.unpack(bytes(packed), key)
    except SnapshotError:
        return
    assert found == whole


def test_fs_state_is_what_is_loaded(in_process: Executor, image: Snapshot) -> None:
    """That the checks above see what they are meant to see: the unchanged image passes them, a tree with a loop does not."""
    assert survives(in_process, image, 7)
    with in_process.restore(image) as back:
        tree = fs_copy.copy(inside(back))
        assert isinstance(tree.working.entries["a"], Directory)
        tree.working.entries["a"].entries["loop"] = tree.working
        with pytest.raises(AssertionError, match="two names"):
            check(tree)


def test_looking_for_files_holds_no_paths_of_what_is_not_looked_at_yet() -> None:
    tree = FileSystem({}, Quota(inodes=20_000))
    for _ in range(1900):
        tree.make_directory("d", 0o777)
        tree.change_directory("d")
    for number in range(10_000):  # each with a path of four thousand characters
        tree.make_directory(str(number), 0o777)
    tree.open("7/f", O_CREAT, 0o666)
    tracemalloc.start()
    try:
        found = [name for name, _ in tree.walk()]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == ["d/" * 1900 + "7/f"] and peak < 10_000_000


def test_files_are_found_where_they_are() -> None:
    tree = FileSystem({}, Quota())
    places = ["a", "b/c", "b/d/e", "b/d/f", "b/g", "h/i/j", "k/l", "z"]
    for place in places:
        for end in [i for i, char in enumerate(place) if char == "/"]:
            with contextlib.suppress(Errno):
                tree.make_directory(place[:end], 0o777)
        tree.open(place, O_CREAT, 0o666)
    tree.make_directory("empty", 0o777)
    tree.make_directory("b/empty", 0o777)
    assert [name for name, _ in tree.walk()] == ["a", "z", "k/l", "h/i/j", "b/c", "b/g", "b/d/e", "b/d/f"]
