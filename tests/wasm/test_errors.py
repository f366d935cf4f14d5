"""Errors have the numbers that programs know from Linux, wherever a program can see one."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from tests.wasm.conftest import Run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="n/a: the numbers are Linux's")

FAILURES = {
    "open('missing')": (errno.ENOENT, "FileNotFoundError"),
    "os.mkdir('d')": (errno.EEXIST, "FileExistsError"),
    "os.rmdir('d')": (errno.ENOTEMPTY, "OSError"),
    "open('d')": (errno.EISDIR, "IsADirectoryError"),
    "os.listdir('d/f')": (errno.ENOTDIR, "NotADirectoryError"),
    "os.symlink('l', 'l') or open('l')": (errno.ELOOP, "OSError"),
    "open('x' * 300)": (errno.ENAMETOOLONG, "OSError"),
    "[open('d/f') for _ in range(1000)]": (errno.EMFILE, "OSError"),
    "os.close(99)": (errno.EBADF, "OSError"),
    "os.readlink('d/f')": (errno.EINVAL, "OSError"),
    "os.open('d/f', os.O_CREAT | os.O_EXCL)": (errno.EEXIST, "FileExistsError"),
    "os.remove('/lib/python314.zip')": (errno.EROFS, "OSError"),
    "__import__('_socket').socket()": (errno.ENOSYS, "OSError"),
    "os.kill(99999, 9)": (errno.EPERM, "PermissionError"),
    "__import__('shutil').rmtree('missing')": (errno.ENOENT, "FileNotFoundError"),
    "__import__('pathlib').Path('missing').stat()": (errno.ENOENT, "FileNotFoundError"),
}


@pytest.mark.parametrize("code", FAILURES)
def test_what_fails_has_linux_s_number_and_the_right_class(run: Run, code: str) -> None:
    number, kind = FAILURES[code]
    setup = "import errno, os\nos.mkdir('d')\nopen('d/f', 'w').close()\n"
    ask = f"try:\n    {code}\nexcept OSError as error:\n    found = error.errno, type(error).__name__, error.strerror, str(error)[:12]\n"
    text = os.strerror(number)
    assert run(setup + ask + "found").value == (number, kind, text, f"[Errno {number}] {text}"[:12])


def test_names_texts_and_subclasses_fit_the_numbers(run: Run) -> None:
    code = "import errno, os\n{n: v for n, v in vars(errno).items() if n[0] == 'E'}, errno.errorcode, {n: os.strerror(n) for n in (*range(134), 150, 999)}"
    names, codes, texts = run(code).value
    differing = {name for name, number in names.items() if getattr(errno, name, number) != number}
    assert differing == {"EFBIG"} and len(names) > 100
    assert {name: codes[number] for name, number in names.items() if names[codes[number]] != number} == {}
    same = {number for number, text in texts.items() if text == os.strerror(number)}
    assert same >= {*range(41), 95, 98, 104, 107, 110, 111, 113, 150, 999} - {errno.EFBIG}
    kinds = run("[type(OSError(n, 'text')).__name__ for n in range(1, 125)]").value
    assert kinds == [type(OSError(n, "text")).__name__ for n in range(1, 125)]


def test_a_text_is_asked_for_by_a_number(run: Run) -> None:
    found = run(
        "import os\nfound = []\nfor code in ('2', 2.0, None):\n    try:\n        os.strerror(code)\n    except TypeError:\n        found.append(code)\nfound"
    )
    assert found.value == ["2", 2.0, None]


def test_an_overflow_says_what_it_says_elsewhere(run: Run) -> None:
    assert run("try:\n    2.0 ** 10_000\nexcept OverflowError as error:\n    found = str(error)\nfound").value == str(
        (34, os.strerror(34))
    )


def test_an_interrupted_call_is_made_again(run: Run) -> None:
    code = (
        "import os, signal, time\nseen = []\nsignal.signal(signal.SIGALRM, lambda *a: seen.append(a[0]))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.05)\nbefore = time.monotonic()\ntime.sleep(0.3)\n"
        "seen, time.monotonic() - before >= 0.3"
    )
    assert run(code).value == ([14], True)


def test_a_file_that_may_not_grow_so_far_is_not_taken_for_an_interrupted_call(run: Run) -> None:
    """CPython's buffered files make a call again whose error has WASI's number of EINTR, which is Linux's of EFBIG."""
    result = run(
        "import io\nclass Raw(io.RawIOBase):\n    writable = lambda self: True\n    def write(self, data):\n        import errno\n"
        "        raise OSError(errno.EFBIG, 'too large')\nfile = io.BufferedWriter(Raw())\nfile.write(b'x')\n"
        "try:\n    file.flush()\nexcept OSError as error:\n    found = str(error)\nfile.detach\nfound",
        time=10,
    )
    assert result.value == "[Errno 200] too large", result.error
    truncated = run("open('f', 'wb').truncate(2**62)")
    assert truncated.error is not None and truncated.error.message == "[Errno 200] File too large"


def test_what_was_imported_with_the_image_knows_the_same_numbers(run: Run) -> None:
    """A module that had remembered WASI's would not know a directory that is there already, or a file that is not."""
    code = (
        "import contextlib, os, pathlib, tempfile\npathlib.Path('a/b').mkdir(parents=True)\npathlib.Path('a/b').mkdir(parents=True, exist_ok=True)\n"
        "os.makedirs('a/b', exist_ok=True)\npathlib.Path('x').unlink(missing_ok=True)\nos.symlink('loop', 'loop')\n"
        "pathlib.Path('loop').exists(), os.path.realpath('loop'), pathlib.Path('a\\0').exists(), bool(tempfile.mkdtemp())"
    )
    assert run(code).value == (False, "/sandbox/loop", False, True)
