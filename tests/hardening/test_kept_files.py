"""Files that are changed while they are kept: by effect, on folders that somebody else exchanges meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from safeexec_backends._hardening import kept_files
from safeexec_backends._hardening.folders import remove_tree
from safeexec_backends._hardening.kept_files import KeptFiles, TooMuch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="n/a: links and devices as Linux has them")


@pytest.mark.parametrize("device", ["zero", "null"])
def test_a_file_that_becomes_a_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """A device has neither holes nor an end: looking for them went on for as long as there was memory, and the host waited."""
    folder = tmp_path / "d"
    folder.mkdir()
    with open(folder / device, "wb") as file:
        file.seek(2**20)
        file.write(b"x")
    kept = KeptFiles((str(tmp_path),), 2**22)
    opened = kept_files._open

    def exchanged(path: str, *rest: Any) -> int:
        if os.path.basename(path) == device and not folder.is_symlink():
            folder.rename(tmp_path / "e")
            folder.symlink_to("/dev")
        return opened(path, *rest)

    monkeypatch.setattr(kept_files, "_open", exchanged)
    signal.alarm(30)
    try:
        with pytest.raises(TooMuch, match="change"):
            kept.save(False)
    finally:
        signal.alarm(0)


def test_a_hole_made_where_one_is_looked_for_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "f", "wb") as file:
        file.seek(2**20)
        file.write(b"x")
    seek = os.lseek
    monkeypatch.setattr(os, "lseek", lambda fd, place, how: place if how != os.SEEK_SET else seek(fd, place, how))
    signal.alarm(30)
    try:
        with pytest.raises(TooMuch, match="change"):
            KeptFiles((str(tmp_path),), 2**22).save(False)
    finally:
        signal.alarm(0)


def test_files_far_below_are_not_many(tmp_path: Path) -> None:
    """Each path is looked up folder by folder: sixteen thousand files that lie three hundred deep kept the host waiting for eight seconds."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("a", dir_fd=here)
        here, above = os.open("a", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    kept = KeptFiles((str(tmp_path),), 2**22)
    with pytest.raises(TooMuch, match="many"):
        kept.save(False)
    os.close(here)
    files = tmp_path / "a"
    (files / "a").rename(tmp_path / "b")
    remove_tree(str(tmp_path / "b"))
    for number in range(1000):
        (files / str(number)).touch()
    kept.save(False)


def test_a_page_more_than_the_limit_is_a_full_disk_and_not_a_file_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a page has 64 KiB, a file of a hundred bytes takes that much, and a smaller disk is rounded up to it."""
    file = tmp_path / "f"
    file.write_bytes(b"x" * 100)
    found = os.lstat(file)
    large = SimpleNamespace(**{name: getattr(found, name) for name in dir(found) if name.startswith("st_")})
    large.st_blocks = 65536 // 512
    monkeypatch.setattr(kept_files, "_PAGE", 65536)
    assert kept_files._contents(str(file), large, 1000) == ((0, b"x" * 100),)
    large.st_blocks *= 2
    with pytest.raises(TooMuch, match="large"):
        kept_files._contents(str(file), large, 1000)
