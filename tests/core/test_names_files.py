"""File names from a sandbox, and saving its files on the host."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import safeexec
from safeexec import Executor, LimitExceeded, Limits, Policy, PolicyError, Session, UnsafeName, whole
from safeexec.cli import save
from safeexec.names import check_collisions, check_name
from safeexec.snapshot import Snapshot
from tests.support.plain import PlainBackend

BAD = [
    "", "/", "/etc/passwd", "//x", "..", ".", "a/..", "../a", "a/../b", "./a", "a//b", "a/", "a/.", "\\", "a\\b", "\\\\host\\x", "C:", "C:x", "a:b",
    "con", "CON", "nul.txt", "AUX.tar.gz", "com1", "LPT9", "com¹", "conin$", "d/nul", "a.", "a ", " a", "a./b", "a /b", "...", "\0", "a\0b", "a\nb",
    "a\rb", "\x1b[2Jx", "a\x7f", "a\x9b", "a\u202eb", "a\u2066b", "a\u200bb", "\ufeffa", "a\xadb", "a\u2028b", "a\ud800", "a\ue000", "x" * 256, "é" * 128, "a/" * 600 + "a",
]  # fmt: skip
GOOD = [
    "a",
    "a.b",
    ".hidden",
    "..a",
    "a..b",
    "dir/sub/file.txt",
    "-rf",
    "ünïcode ☃ 文.txt",
    "a b c",
    "~",
    "$x",
    "x" * 255,
    "console",
    "com",
    "nulls",
    "a'b\"c;d|e",
]


@pytest.mark.parametrize("name", BAD, ids=lambda n: ascii(n)[:30])
def test_unsafe_names(name: str) -> None:
    with pytest.raises(UnsafeName) as caught:
        check_name(name)
    assert str(caught.value).isascii() and str(caught.value).isprintable() and len(str(caught.value)) < 1500


@pytest.mark.parametrize("name", GOOD, ids=lambda n: ascii(n)[:30])
def test_ordinary_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", [None, 5, b"a", ["a"], Path("a"), type("S", (str,), {})("a")])
def test_only_exact_strings_are_names(name: Any) -> None:
    with pytest.raises(UnsafeName):
        check_name(name)


@given(
    st.text(max_size=30) | st.lists(st.sampled_from([".", "..", "/", "a", "\\", " ", "nul", "\0", ":"])).map("".join)
)
def test_accepted_names_stay_below_any_directory(name: str) -> None:
    try:
        check_name(name)
    except UnsafeName:
        return
    path = os.path.normpath(os.path.join("/root/of/it", name))
    assert path.startswith("/root/of/it/") and path == f"/root/of/it/{name}"


@pytest.mark.parametrize(
    "names",
    [
        ("a", "A"),
        ("straße", "STRASSE"),
        ("é", "e\u0301"),
        ("ﬁ", "fi"),
        ("a", "a/b"),
        ("A", "a/b"),
        ("d/x", "D/X"),
        ("a/b", "x", "a"),
        ("a", "a"),
    ],
)
def test_collisions(names: tuple[str, ...]) -> None:
    with pytest.raises(UnsafeName):
        check_collisions(names)


def test_no_collisions() -> None:
    check_collisions(["a", "b", "a.b", "d/a", "d/b", "e/a", "ab/c"])


@pytest.fixture
def session() -> Iterator[Session]:
    with Executor(PlainBackend()) as executor, executor.session() as made:
        made.files.write("out.txt", "mine")
        made.files.write("sub/in.txt", "below")
        yield made


def test_saved_files_are_ordinary(session: Session, tmp_path: Path) -> None:
    paths = session.files.save(tmp_path / "new" / "folder")
    assert [p.read_text() for p in paths] == ["mine", "below"]
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) & 0o133 == 0 and path.is_file()
    assert sorted(p.name for p in (tmp_path / "new/folder").iterdir()) == ["out.txt", "sub"]


def test_what_exists_is_replaced_and_what_was_not_named_stays(session: Session, tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("old and longer")
    (tmp_path / "other").write_text("kept")
    session.files.save(tmp_path, ["out.txt"])
    assert (tmp_path / "out.txt").read_text() == "mine" and (tmp_path / "other").read_text() == "kept"
    assert not (tmp_path / "sub").exists()


def test_link_planted_in_place_of_a_file_is_replaced_not_followed(session: Session, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "target"
    target.mkdir()
    (target / "out.txt").symlink_to(victim)
    session.files.save(target, ["out.txt"])
    assert victim.read_text() == "precious"
    assert not (target / "out.txt").is_symlink() and (target / "out.txt").read_text() == "mine"


def test_what_a_process_that_was_killed_left_keeps_nobody_from_saving(session: Session, tmp_path: Path) -> None:
    """Its successor in a container has the same process id, and would meet the same name each time."""
    for name in ("out.txt", "state", "picture.png"):
        (tmp_path / f".{name}.{os.getpid()}.part").write_bytes(b"half of it")
    session.files.write("out.txt", "mine")
    session.files.save(tmp_path)
    Snapshot(b"x").save(tmp_path / "state")
    save._write(tmp_path, "picture.png", b"y")
    assert [(tmp_path / name).read_bytes() for name in ("out.txt", "state", "picture.png")] == [b"mine", b"x", b"y"]
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600


def test_two_threads_may_write_one_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    failed: list[OSError] = []

    def work(data: bytes) -> None:
        try:
            for _ in range(20):
                whole.write(tmp_path / "out", data)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and (tmp_path / "out").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_long_name_is_written_and_what_fails_leaves_nothing(tmp_path: Path) -> None:
    whole.write(tmp_path / ("\U0001f600" * 60), b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=rf"directory: '{tmp_path / 'folder'}'$"):
        whole.write(tmp_path / "folder", b"x")
    with pytest.raises(OSError, match=rf"directory: '{tmp_path / 'none' / 'x'}'$"):
        whole.write(tmp_path / "none" / "x", b"x")
    assert len(list(tmp_path.iterdir())) == 2


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """No file can become longer, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("private", [False, True])
def test_what_a_file_held_stays_when_the_new_has_no_room(tmp_path: Path, private: bool) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"of before")
    with no_room(4096), pytest.raises(OSError, match=rf"large: '{path}'$"):
        whole.save(path, b"x" * 100_000, private=private)
    assert path.read_bytes() == b"of before" and list(tmp_path.iterdir()) == [path]


def test_a_file_keeps_its_permissions_and_a_link_its_place(tmp_path: Path) -> None:
    path, link = tmp_path / "kept", tmp_path / "link"
    path.write_bytes(b"of before")
    path.chmod(0o640)
    link.symlink_to(path)
    whole.save(link, b"new")
    assert path.read_bytes() == b"new" and link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640
    umask = os.umask(0o027)
    try:
        whole.save(tmp_path / "fresh", b"x")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "there")
    whole.save(dangling, b"y")
    assert (tmp_path / "there").read_bytes() == b"y"
    # What holds secrets follows nobody's link.
    whole.save(link, b"mine", private=True)
    assert not link.is_symlink() and path.read_bytes() == b"new" and stat.S_IMODE(link.stat().st_mode) == 0o600


@pytest.mark.parametrize("private", [False, True])
def test_a_pipe_and_a_device_are_written_to_and_stay_what_they_are(tmp_path: Path, private: bool) -> None:
    pipe, data = tmp_path / "pipe", bytes(range(256)) * 1000
    os.mkfifo(pipe)
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append(pipe.read_bytes()))
    reader.start()
    whole.save(pipe, data, private=private)
    reader.join(10)
    assert taken == [data] and pipe.is_fifo()
    device = tmp_path / "null"  # by a link: /dev/null itself is not for a test to replace
    device.symlink_to("/dev/null")
    whole.save(device, data, private=private)
    assert device.is_symlink() and device.is_char_device()
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space.*'{full}'$"):
        whole.save(full, data, private=private)


@pytest.mark.parametrize("private", [False, True])
def test_an_open_file_of_this_process_is_written_to_and_not_replaced(tmp_path: Path, private: bool) -> None:
    """/dev/stdout, where a shell has made it a file: what is printed afterwards must not be lost."""
    with open(tmp_path / "out", "wb") as file:
        inode = os.fstat(file.fileno()).st_ino
        whole.save(f"/proc/self/fd/{file.fileno()}", b"saved", private=private)
    assert (tmp_path / "out").stat().st_ino == inode and (tmp_path / "out").read_bytes() == b"saved"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_file_in_a_folder_that_may_not_be_written_is_written_where_it_is(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="safeexec-"))  # others may pass through it
    try:
        folder.chmod(0o755)
        path = folder / "theirs"
        path.write_bytes(b"of before")
        os.chown(path, 65534, 65534)
        code = f"import os; from safeexec import whole; os.setgroups([]); os.setgid(65534); os.setuid(65534); whole.save({str(path)!r}, b'new')"
        env = {**os.environ, "PYTHONPATH": str(Path(safeexec.__file__).parents[1])}
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=env)
        assert path.read_bytes() == b"new" and path.stat().st_uid == 65534
        whole.save(path, b"root's")
        assert path.read_bytes() == b"root's" and path.stat().st_uid == 65534
    finally:
        shutil.rmtree(folder)


def test_hard_link_planted_in_place_of_a_file_is_replaced(session: Session, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "target"
    target.mkdir()
    os.link(victim, target / "out.txt")
    session.files.save(target, ["out.txt"])
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "file"])
def test_what_is_planted_in_place_of_a_folder_is_refused(session: Session, tmp_path: Path, kind: str) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    place = target / "sub"
    if kind == "link":
        place.symlink_to(outside)
    elif kind == "dangling":
        place.symlink_to(tmp_path / "nowhere")
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.write_text("file")
    with pytest.raises(OSError):
        session.files.save(target, ["sub/in.txt"])
    assert list(outside.iterdir()) == [] and not (tmp_path / "nowhere").exists()


def test_fifo_in_place_of_a_file_is_replaced_without_waiting_for_a_reader(session: Session, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.txt")
    done = threading.Event()
    thread = threading.Thread(target=lambda: (session.files.save(tmp_path, ["out.txt"]), done.set()), daemon=True)
    thread.start()
    assert done.wait(10)
    assert (tmp_path / "out.txt").read_text() == "mine"


def test_folder_in_place_of_a_file_is_an_error_and_leaves_nothing(session: Session, tmp_path: Path) -> None:
    (tmp_path / "out.txt").mkdir()
    with pytest.raises(OSError):
        session.files.save(tmp_path, ["out.txt"])
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_collision_or_bad_name_saves_nothing(session: Session, tmp_path: Path) -> None:
    session.files.write("OUT.txt", "other")
    with pytest.raises(UnsafeName):
        session.files.save(tmp_path)
    with pytest.raises(UnsafeName):
        session.files.save(tmp_path, ["out.txt", "../x"])
    assert list(tmp_path.iterdir()) == []


def test_links_and_special_files_of_the_guest_are_not_files(session: Session, tmp_path: Path) -> None:
    session.run("import os\nos.symlink('/etc/passwd', 'link')\nos.mkfifo('pipe')\nos.symlink('/', 'rootlink')")
    assert [f.name for f in session.files.list()] == ["out.txt", "sub/in.txt"]
    assert [p.name for p in session.files.save(tmp_path)] == ["out.txt", "in.txt"]


def test_files_of_a_policy_are_checked(tmp_path: Path) -> None:
    for name in ("../x", "/x", "a\\b", "nul"):
        with pytest.raises(PolicyError):
            Policy(files={name: b""})
    with pytest.raises(PolicyError):
        Policy(files={"a": 5})  # type: ignore[dict-item]
    for missing in (tmp_path / "missing", tmp_path):
        with (
            pytest.raises(PolicyError, match="not a file"),
            Executor(PlainBackend(), policy=Policy(files={"a": missing})) as executor,
        ):
            executor.session()
    large = tmp_path / "large"
    large.write_bytes(b"x" * 2000)
    for content in (large, b"x" * 2000):
        with pytest.raises(PolicyError, match=r"Limits\.disk"):
            Policy(files={"a": content}, limits=Limits(disk=1000)).file_bytes("a")


def test_a_file_is_written_from_bytes_or_text_only(session: Session) -> None:
    for data in (b"ab", bytearray(b"ab"), memoryview(b"xabx")[1:3], "ab"):
        session.files.write("out.txt", data)
        assert session.files.read("out.txt") == b"ab"
    for other in (5, [97], None):
        with pytest.raises(TypeError):
            session.files.write("out.txt", other)
        assert session.files.read("out.txt") == b"ab"


def test_writing_more_than_the_disk_holds_is_refused_before_it_is_sent() -> None:
    with Executor(PlainBackend()) as executor, executor.session() as session:
        session.files.write("empty", b"")
        assert session.files.read("empty") == b""
        with pytest.raises((LimitExceeded, FileNotFoundError)):
            session.files.read("missing")
