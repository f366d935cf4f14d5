"""Wheels as hostile archives: what is refused, and what becomes of the rest."""

from __future__ import annotations

import stat
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec_backends.wasm.packages import wheels

from .archives import make_wheel


def test_files_and_modules_of_a_wheel(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {
        "pkg/__init__.py": "x = 1",
        "pkg/data/table.bin": b"\0\1",
        "single.py": "",
        "fast.cpython-314-wasm32-emscripten.so": b"",
        "_private.py": "",
        "tests/__init__.py": "",
        "space/below/__init__.py": "",
        "Pkg_Name-1.0.data/purelib/extra/__init__.py": "",
        "Pkg_Name-1.0.data/scripts/tool": "#!python",
        "Pkg_Name-1.0.data/data/etc/passwd": "root",
    }
    wheel = wheels.read(make_wheel(tmp_path, "Pkg_Name", members))
    assert (wheel.name, wheel.version) == ("pkg-name", "1.0")
    assert wheel.modules == ("extra", "fast", "pkg", "single")
    assert wheel.files["pkg/data/table.bin"] == b"\0\1" and wheel.files["extra/__init__.py"] == b""
    assert not any("tool" in name or "passwd" in name for name in wheel.files)


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "/etc/evil.py", "pkg/../../evil.py", "pkg//evil.py", "./evil.py", "C:/evil.py", "pkg\\..\\evil.py", "a" * 256 + ".py",
     "x-1.0.data/purelib/../../evil.py", "/".join("d" * 70)],
)  # fmt: skip
def test_names_that_reach_out_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(wheels.BadWheel, match="outside the packages' directory"):
        wheels.read(make_wheel(tmp_path, "x", {name: "evil"}))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind: int, tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "x", {})
    item = zipfile.ZipInfo("x/link")
    item.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(item, "/etc/passwd")
    with pytest.raises(wheels.BadWheel, match="link or a device"):
        wheels.read(path)


def test_an_archive_that_blows_up_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_wheel(tmp_path, "bomb", {f"bomb/{n}": bytes(1 << 20) for n in range(20)})
    assert path.stat().st_size < 100_000

    def unpacked(*_: object) -> None:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(zipfile.ZipFile, "open", unpacked)
    with pytest.raises(wheels.BadWheel, match="too large"):
        wheels.read(path, budget=10 << 20)


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "liar", {"liar.py": bytes(1 << 20)})
    data = path.read_bytes()
    size = (1 << 20).to_bytes(4, "little")
    path.write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(wheels.BadWheel, match="cannot be read"):
        wheels.read(path)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "MAX_FILES", 10)
    with pytest.raises(wheels.BadWheel, match="too large"):
        wheels.read(make_wheel(tmp_path, "many", {f"many/{n}.py": "" for n in range(20)}))


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "x", {"x.py": "first"})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x.py", "second")
    with pytest.raises(wheels.BadWheel, match="twice"):
        wheels.read(path)


def test_a_file_that_is_a_directory_too_is_refused(tmp_path: Path) -> None:
    with pytest.raises(wheels.BadWheel, match="a file in one place"):
        wheels.read(make_wheel(tmp_path, "x", {"x": "file", "x/y.py": "below"}))


@pytest.mark.parametrize("name", ["x.whl", "x-1.0.whl", "x-1.0-py3-none-any.zip", "-1.0-py3-none-any.whl"])
def test_names_that_no_wheel_has_are_refused(name: str, tmp_path: Path) -> None:
    made = make_wheel(tmp_path, "x", {})
    with pytest.raises(wheels.BadWheel, match="not the name of a wheel"):
        wheels.read(made.rename(tmp_path / name))


@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 300),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_archive_is_read_or_refused(changes: list[tuple[int, int]], cut: int, tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "x", {"x/__init__.py": "x = 1\n" * 50, "x/data": bytes(range(256))})
    data = bytearray(path.read_bytes())
    for place, byte in changes:
        data[place % len(data)] = byte
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        found = wheels.read(path)
    except wheels.BadWheel:
        return
    assert all(not name.startswith("/") and ".." not in name.split("/") for name in found.files)


def test_members_are_counted_before_the_archive_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To describe six million of them takes gigabytes."""
    monkeypatch.setattr(wheels, "MAX_FILES", 20)
    path = make_wheel(tmp_path, "x", {f"x/f{number}.py": "" for number in range(30)})
    few = make_wheel(tmp_path, "y", {f"y/f{number}.py": "" for number in range(17)})
    assert len(wheels.read(few).files) == 20

    def read(_: Path) -> None:
        raise AssertionError("it is read")

    monkeypatch.setattr(zipfile, "ZipFile", read)
    with pytest.raises(wheels.BadWheel, match="too large"):
        wheels.read(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_what_is_unpacked_is_bounded_by_what_is_said_of_it(method: int, tmp_path: Path) -> None:
    path = tmp_path / "x-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.py", bytes(64 << 20))
    path.write_bytes(path.read_bytes().replace((64 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    tracemalloc.start()
    try:
        with pytest.raises(wheels.BadWheel, match=r"cannot be read|in a way that wheels are not"):
            wheels.read(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_members_that_cannot_be_unpacked_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.py", bytes(range(256)) * 50)
    data = bytearray(path.read_bytes())
    start = 30 + len("x.py")
    data[start + 8 : start + 40] = b"\xff" * 32
    path.write_bytes(data)
    with pytest.raises(wheels.BadWheel, match="cannot be read"):
        wheels.read(path)


def test_an_empty_file_is_no_wheel(tmp_path: Path) -> None:
    path = tmp_path / "x-1.0-py3-none-any.whl"
    path.touch()
    with pytest.raises(wheels.BadWheel, match="cannot be read"):
        wheels.read(path)
