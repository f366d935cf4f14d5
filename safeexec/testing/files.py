"""The working directory, from both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from safeexec.errors import LimitExceeded
from safeexec.names import UnsafeName
from safeexec.result import MOST_FILES
from safeexec.testing.base import Base

BAD_NAMES = (
    "/etc/passwd",
    "../up",
    "a/../../b",
    "a\\b",
    "c:d",
    "",
    ".",
    "a//b",
    "nul",
    "x\x1b[2J",
    "a\u202eb",
    "dot.",
    "tab\t",
)


class FileTests(Base):
    def test_files_from_the_policy_are_there(self, tmp_path: Path) -> None:
        path = tmp_path / "host.txt"
        path.write_bytes(b"from a path")
        policy = self._policy.replace(files={"data.csv": b"a,b\n1,2\n", "deep/in/it.txt": path})
        with self.session(policy=policy) as session:
            code = "with open('data.csv') as f:\n    a = f.read()\nwith open('deep/in/it.txt', 'rb') as f:\n    b = f.read()\n(a, b)"
            result = session.run(code)
            assert result.value == ("a,b\n1,2\n", b"from a path"), result.error
            assert result.files == ()
            assert [(f.name, f.size) for f in session.files.list()] == [("data.csv", 8), ("deep/in/it.txt", 11)]

    def test_what_a_step_writes_is_listed_and_read(self) -> None:
        with self.session() as session:
            result = session.run("with open('out.bin', 'wb') as f:\n    _ = f.write(bytes(range(256)))")
            assert [(f.name, f.size) for f in result.files] == [("out.bin", 256)], result.error
            assert session.files.read("out.bin") == bytes(range(256))
            assert session.run("1").files == ()
            assert [f.name for f in session.run("with open('out.bin', 'ab') as f:\n    _ = f.write(b'!')").files] == [
                "out.bin"
            ]

    def test_host_writes_and_removes(self) -> None:
        with self.session() as session:
            session.files.write("in/put.txt", "text ☃")
            assert session.run("open('in/put.txt', encoding='utf-8').read()").value == "text ☃"
            session.files.remove("in/put.txt")
            with pytest.raises(FileNotFoundError):
                session.files.read("in/put.txt")
            with pytest.raises(FileNotFoundError):
                session.files.remove("in/put.txt")
            assert session.run("1").value == 1

    def test_large_file_both_ways(self) -> None:
        data = bytes(range(251)) * 40_000
        with self.session() as session:
            session.files.write("large", data)
            assert session.run("import hashlib\nhashlib.sha256(open('large', 'rb').read()).hexdigest()").value
            assert session.files.read("large") == data

    def test_file_over_the_disk_limit_is_not_read(self) -> None:
        policy = self._policy.replace(files={"small": b"x"})
        with self.session(policy=policy) as session:
            assert session.files.read("small") == b"x"
        executor = self.started(limits=self.limits(disk=100_000).limits)
        if executor is not None:
            with executor, executor.session() as session, pytest.raises((LimitExceeded, OSError)):
                session.files.write("big", b"x" * 300_000)
                session.files.read("big")

    @pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
    def test_unsafe_names_are_refused_by_the_host(self, name: str) -> None:
        session = self.shared()
        with pytest.raises(UnsafeName):
            session.files.read(name)
        with pytest.raises(UnsafeName):
            session.files.write(name, b"")
        with pytest.raises(UnsafeName):
            session.files.remove(name)
        assert session.run("1").value == 1

    def test_saving_copies_files_to_the_host(self, tmp_path: Path) -> None:
        with self.session() as session:
            session.files.write("a.txt", "A")
            session.files.write("d/b.txt", "B")
            paths = session.files.save(tmp_path / "out")
            assert sorted(p.relative_to(tmp_path).as_posix() for p in paths) == ["out/a.txt", "out/d/b.txt"]
            assert (tmp_path / "out/d/b.txt").read_text() == "B"

    def test_ordinary_text_work(self) -> None:
        code = """
import csv, io, json
with open("t.csv", "w", newline="") as f:
    w = csv.writer(f)
    w.writerow(["n", "s"])
    w.writerows([[i, chr(97 + i)] for i in range(3)])
with open("t.csv", newline="") as f:
    rows = list(csv.DictReader(f))
with open("t.json", "w") as f:
    json.dump(rows, f)
json.load(open("t.json"))
"""
        assert self.value(code) == [{"n": "0", "s": "a"}, {"n": "1", "s": "b"}, {"n": "2", "s": "c"}]

    def test_file_name_that_is_not_unicode_is_survived(self) -> None:
        with self.session() as session:
            result = session.run("try:\n    open('a\\udcff', 'w').close()\nexcept Exception:\n    pass\n5")
            assert result.value == 5, result.error
            for info in session.files.list():
                with pytest.raises(UnsafeName):
                    session.files.read(info.name)
            assert session.run("6").value == 6

    def test_every_file_is_listed_and_those_of_a_step_up_to_a_bound(self) -> None:
        with self.session() as session:
            result = session.run(f"for i in range({MOST_FILES + 100}):\n    open(f'f{{i}}', 'w').close()")
            assert result.ok and len(result.files) == MOST_FILES, result.error
            assert {info.name for info in session.files.list()} == {f"f{i}" for i in range(MOST_FILES + 100)}

    def test_removed_file_is_gone_from_the_list(self) -> None:
        with self.session() as session:
            session.files.write("gone", b"x")
            assert session.run("import os\nos.remove('gone')").ok
            assert session.files.list() == ()
