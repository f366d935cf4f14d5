"""A package with native code in live sandboxes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec import Executor, Policy, PolicyError
from safeexec_backends.wasm.packages import pip, prepare

# The first test makes the image, which takes half a minute on a machine with nothing else to do.
pytestmark = pytest.mark.timeout(900)
POLICY = Policy(packages=("msgpack",), imports="*")
MODES: dict[str, dict[str, Any]] = {
    "in process": {"workers": 0},
    "workers": {"workers": 1},
    "a worker each": {"isolation": "session"},
}


@pytest.fixture(scope="module")
def here() -> Iterator[Executor]:
    with Executor("wasm", policy=POLICY, workers=0) as executor:
        yield executor


@pytest.mark.parametrize("mode", MODES)
def test_native_code_works_wherever_sessions_live(mode: str) -> None:
    code = "import msgpack\nmsgpack.unpackb(msgpack.packb([1, {'k': b'v'}, 2.5])), msgpack.Packer.__module__"
    with Executor("wasm", policy=POLICY, **MODES[mode]) as executor:
        for _ in range(2):
            assert executor.run(code).value == ([1, {"k": b"v"}, 2.5], "msgpack._cmsgpack")


def test_it_is_imported_ahead(here: Executor) -> None:
    assert here.run("import sys\n'msgpack._cmsgpack' in sys.modules").value is True


@pytest.mark.parametrize("name", ["evil.cpython-314-wasm32-emscripten.so", "evil.so"])
def test_a_library_that_the_guest_writes_is_not_loaded(name: str, here: Executor) -> None:
    code = f"""
import sys, glob
data = open(glob.glob("/lib/site-packages/msgpack/*.so")[0], "rb").read()
open({name!r}, "wb").write(b"\\0asm\\1\\0\\0\\0" + data)
try:
    import evil
except ImportError as error:
    print(type(error).__name__)
import _imp, importlib.machinery as m
for path in ("/sandbox/{name}", "/lib/site-packages/msgpack/../../../etc/passwd", "/" * 3000, "x\\0y"):
    try:
        _imp.create_dynamic(m.ModuleSpec("evil", None, origin=path))
    except (ImportError, ValueError) as error:
        print(type(error).__name__)
"""
    result = here.run(code)
    assert result.ok and set(result.stdout.split()) <= {"ImportError", "ValueError"}, result.error
    assert len(result.stdout.split()) == 5


def test_a_library_has_no_entry_but_its_own(here: Executor) -> None:
    code = """
import _imp, glob, importlib.machinery as m
path = glob.glob("/lib/site-packages/msgpack/*.so")[0]
out = []
for name in ("_cmsgpack", "nothing", "malloc", "safeexec_send"):
    try:
        out.append(_imp.create_dynamic(m.ModuleSpec(name, None, origin=path)).__name__.split(".")[-1])
    except ImportError as error:
        out.append("ImportError")
out
"""
    assert here.run(code).value == ["_cmsgpack", "ImportError", "ImportError", "ImportError"]


def test_a_forked_session_keeps_its_packages(here: Executor) -> None:
    with here.session() as session:
        assert session.run("import msgpack\npacker = msgpack.Packer()").ok
        with session.fork() as branch:
            assert branch.run("packer.pack({'a': 1})").value == b"\x81\xa1a\x01"


def test_an_error_below_native_code_has_the_users_lines(here: Executor) -> None:
    result = here.run("import msgpack\n\ndef f(x):\n    raise KeyError('mine')\nmsgpack.packb(object(), default=f)")
    assert result.error is not None and (result.error.type, result.error.line) == ("KeyError", 4)


def test_deep_recursion_through_native_code_ends_the_step_at_most(here: Executor) -> None:
    code = """
import msgpack
def f(x):
    return msgpack.packb(x, default=f)
try:
    msgpack.packb(object(), default=f)
except RecursionError:
    print("caught")
"""
    for _ in range(3):
        result = here.run(code)
        assert result.stdout == "caught\n" or (result.error is not None and result.error.kind in ("crash", "exception"))
    assert here.run("1 + 1").value == 2


def test_a_session_may_want_less_than_its_executor_has_and_not_more(here: Executor) -> None:
    assert here.run("import msgpack", policy=Policy(imports="*")).ok
    with pytest.raises(PolicyError, match="make an Executor for numpy"):
        here.run("1", policy=Policy(packages=("numpy",)))


def test_only_so_many_images_are_kept(tmp_path: Path) -> None:
    for number in range(12):
        made = tmp_path / f"packages-{number}"
        made.mkdir()
        os.utime(made, (number, number))
    prepare._remove_oldest(tmp_path, tmp_path / "packages-0")
    kept = {int(p.name.split("-")[1]) for p in tmp_path.iterdir()}
    assert kept == {0, 5, 6, 7, 8, 9, 10, 11}


def test_the_next_executor_needs_neither_pip_nor_a_build(here: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object) -> None:
        raise AssertionError("it was called")

    monkeypatch.setattr(pip, "download", called)
    monkeypatch.setattr(prepare, "build_with", called)
    assert prepare.ensure((" msgpack ", "msgpack")).compiled == prepare.ensure(("msgpack",)).compiled
