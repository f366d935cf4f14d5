"""Links that a program makes: as on Linux within its folders, and never out of them."""

import os
import sys
import threading

import pytest

from safeexec_backends.local.language.facades import links, paths


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A folder that is all the program may touch, beside one that it may not."""
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret").write_text("CANARY")
    monkeypatch.chdir(folder)
    before = list(paths._roots)
    paths.set_roots(str(folder))
    yield folder
    paths._roots[:] = before


def test_a_link_is_what_the_program_wrote(run, inside):
    source = """
import os
from pathlib import Path
Path("a").write_text("text")
os.mkdir("d")
os.symlink("a", "l")
Path("d/l").symlink_to("../a")
Path("h").hardlink_to("a")
os.link("l", "hl")
os.symlink("nowhere", "none")
(
    os.readlink("l"), os.readlink(b"l"), str(Path("d/l").readlink()), Path("d/l").read_text(), os.path.islink("l"), Path("l").resolve().name,
    os.stat("a").st_nlink, os.path.islink("hl"), os.path.exists("none"), os.path.lexists("none"), Path("l").is_symlink(),
)
"""
    assert run(source) == ("a", b"a", "../a", "text", True, "a", 2, True, False, True, True)


def test_a_link_that_is_put_back_is_what_the_program_wrote(run, inside):
    """As a session's files are, after a step that is undone: it is another inode then."""
    run("import os\nos.symlink('a', 'l')")
    target = os.readlink(inside / "l")
    os.symlink(target, inside / "other")
    os.replace(inside / "other", inside / "l")
    assert run("os.readlink('l')") == "a"
    os.symlink(inside / "b", inside / "other")
    os.replace(inside / "other", inside / "l")
    assert run("os.readlink('l')") == f"{inside}/b"


def test_errors_of_links_are_those_of_linux(run, inside):
    source = """
import os
open("a", "w").close()
os.symlink("loop", "loop")
seen = []
for act in (lambda: os.symlink("a", "a"), lambda: os.readlink("a"), lambda: os.symlink("", "z"), lambda: open("loop"), lambda: os.link("none", "z")):
    try: act()
    except OSError as error: seen.append((type(error).__name__, error.errno, error.filename, error.filename2))
seen
"""
    assert run(source) == [
        ("FileExistsError", 17, "a", "a"), ("OSError", 22, "a", None), ("FileNotFoundError", 2, "", "z"), ("OSError", 40, "loop", None),
        ("FileNotFoundError", 2, "none", "z"),
    ]  # fmt: skip


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "d/../../secret", "/dev/null", "/", ".."])
@pytest.mark.parametrize("make", ["os.symlink", "os.link"])
def test_no_link_leads_out(run, inside, make, target):
    with pytest.raises((PermissionError, FileNotFoundError)):
        run(f"import os\nos.makedirs('d', exist_ok=True)\n{make}({target!r}, 'x')")
    assert not os.path.lexists(inside / "x")


def test_moving_does_not_make_a_link_lead_out(run, inside):
    """As it was written, it would lead to the folder beside."""
    source = """
import os
os.makedirs("a/b")
os.symlink("../../secret", "a/b/l")
os.rename("a/b/l", "l")
os.rename("a/b", "b")
os.symlink("../b/none", "a/l")
os.rename("a/l", "l2")
"""
    run(source)
    for name in ("l", "l2"):
        target = os.readlink(inside / name)
        assert target.startswith(f"{inside}/") and ".." not in target
    with pytest.raises(FileNotFoundError):
        run("open('l')")


def test_what_is_listed_above_a_link_is_not_exchanged(run, inside, monkeypatch):
    """Between the look and the use of ``l/../..``, another thread makes the link lead to another depth."""
    run("import os\nos.makedirs('a/b/c')\nos.symlink('a/b/c', 'l')\nos.symlink('.', 'flat')")
    original = paths.check

    def slow(path, follow=True):
        found = original(path, follow)
        if os.path.lexists("flat"):
            os.replace("flat", "l")
        return found

    from safeexec_backends.local.language.facades import files, pathlib_

    monkeypatch.setattr(files, "check", slow)
    monkeypatch.setattr(pathlib_, "check", slow)
    reset = "import os\nos.path.lexists('l') and os.remove('l')\nos.symlink('a/b/c', 'l')\nos.symlink('.', 'flat')\n"
    for listed in (
        "[e.name for e in os.scandir('l/../..')]",
        "[n for _, ds, fs in os.walk('l/../..') for n in ds + fs]",
        "__import__('glob').glob('*', root_dir='l/../..')",
        "[p.name for p in __import__('pathlib').Path('l/../..').glob('*')]",
    ):
        assert "secret" not in run(reset + listed), listed


def test_nothing_is_found_outside_while_links_are_exchanged(run, inside):
    """By the kernel's own word: whatever way a path is walked, from a link that a thread exchanges all the time, the other folder is not reached."""
    run("import os\nos.makedirs('a/b/c')\nos.symlink('a/b/c', 'l')")
    going = threading.Event()

    def exchange():
        while not going.is_set():
            for target in (".", "a/b/c"):
                links.symlink(target, "new")
                os.replace("new", "l")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        source = """
import os
seen = set()
for _ in range(300):
    for act in (os.listdir, lambda p: [e.name for e in os.scandir(p)], lambda p: next(os.walk(p))[2], lambda p: [open(p + "/secret").read()]):
        try: seen.update(act("l/../.."))
        except OSError: pass
"secret" in seen, "CANARY" in seen
"""
        assert run(source) == (False, False)
    finally:
        going.set()
        thread.join()


def test_a_walk_is_told_of_no_folder_behind_a_link(run, inside):
    """What it goes on with is looked at before it is walked through, and may be another place by then."""
    source = """
import os
os.makedirs("a/b/c")
os.symlink("a/b/c", "l")
for _, folders, _ in os.walk("."):
    folders[:] = ["l/../.."]
"""
    with pytest.raises(PermissionError, match="below its folder"):
        run(source)


def test_walking_above_shows_what_linux_shows(run, inside):
    source = """
import os, pathlib
os.makedirs("a/b")
open("a/f", "w").close()
os.chdir("a/b")
found = list(os.walk("..")), sorted(map(str, pathlib.Path("..").rglob("*"))), sorted(e.name for e in os.scandir(".."))
os.chdir("../..")
found
"""
    assert run(source) == ([("..", ["b"], ["f"]), ("../b", [], [])], ["../b", "../f"], ["b", "f"])


def test_archives_keep_links(run, inside):
    source = """
import os, tarfile
open("a", "w").write("x")
os.symlink("a", "s")
os.link("a", "h")
with tarfile.open("t.tar", "w") as archive:
    for name in "ash": archive.add(name)
with tarfile.open("t.tar") as archive: archive.extractall("o")
os.readlink("o/s"), open("o/s").read(), os.stat("o/a").st_nlink
"""
    assert run(source) == ("a", "x", 2)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="n/a: new in 3.13")
def test_a_path_from_a_uri(run):
    assert run("import pathlib\nstr(pathlib.Path.from_uri('file:///tmp/a%20b'))") == "/tmp/a b"
    with pytest.raises(ValueError, match="absolute"):
        run("import pathlib\npathlib.Path.from_uri('file:a')")
