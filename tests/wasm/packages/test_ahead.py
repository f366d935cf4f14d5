"""What is imported when an image is made, and what is left to sessions; wheels that misbehave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy
from safeexec_backends.wasm import setup
from safeexec_backends.wasm.image import boot, cache
from safeexec_backends.wasm.packages import pip, prepare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Installed = tuple[str, ...]
MODES: dict[str, dict[str, Any]] = {
    "in process": {"workers": 0},
    "workers": {"workers": 1},
    "a worker each": {"isolation": "session"},
}


def policy(installed: Installed) -> Policy:
    return Policy(packages=installed, imports="*")


@pytest.fixture(scope="module")
def here(installed: Installed) -> Iterator[Executor]:
    with Executor("wasm", policy=policy(installed), workers=0) as executor:
        yield executor


@pytest.mark.parametrize("mode", MODES)
def test_packages_work_wherever_sessions_live(mode: str, installed: Installed) -> None:
    code = """
import attrs, lazy, six
@attrs.define
class Point:
    x: int = attrs.field(validator=attrs.validators.instance_of(int))
import msgpack
attrs.asdict(Point(3)), six.text_type is str, lazy.pack([1, {"k": b"v"}]), msgpack.Packer.__module__
"""
    options = MODES[mode]
    with Executor("wasm", policy=policy(installed), **options) as executor:
        for _ in range(2):
            result = executor.run(code)
            assert result.value == ({"x": 3}, True, b"\x92\x01\x81\xa1k\xc4\x01v", "msgpack._cmsgpack"), result.error


def test_modules_of_what_was_asked_for_are_imported_ahead(here: Executor, installed: Installed) -> None:
    code = (
        "import sys\n[name in sys.modules for name in ('attr', 'attrs', 'six', 'lazy', 'msgpack', 'msgpack._cmsgpack')]"
    )
    assert here.run(code).value == [True, True, True, True, False, False]


def test_what_draws_randomness_when_imported_is_different_in_every_session(here: Executor) -> None:
    for code in ("import drawer\ndrawer.TOKEN", "import shuffler\nshuffler.VALUE"):
        values = [here.run(code).value for _ in range(3)]
        assert len(set(values)) == 3, values


def test_a_failed_or_endless_import_leaves_nothing_in_the_image(here: Executor, installed: Installed) -> None:
    assert here.run("import sys\nhasattr(sys, 'broken'), 'breaker' in sys.modules").value == (False, False)
    assert here.run("import breaker").error.type == "RuntimeError"  # type: ignore[union-attr]
    result = here.run("import spinner", policy=policy(installed).replace(limits=Limits(time=0.3)))
    assert result.error is not None and result.error.kind == "time"
    assert here.run("import sys\nsys.spun = 1\nimport spinner\nspinner.__name__").value == "spinner"


def test_what_breaks_the_looks_at_an_import_ends_neither_the_build_nor_its_memory(
    here: Executor, installed: Installed
) -> None:
    why = prepare.ensure(installed).facts["not_imported"]
    assert why["hanger"] == why["flooder"] == "its import takes more than 12 s"
    assert "ZeroDivisionError" in why["mangler"] and not {"six", "attrs", "lazy"} & why.keys()
    code = "import random\nfrom builtins import print as p\np(random.getstate()[0], end='')"
    assert here.run(code).stdout == "3"


def test_output_of_an_import_is_kept_to_a_bound() -> None:
    kept = boot.Interpreter.__new__(boot.Interpreter)
    kept.out = bytearray()
    for _ in range(40):
        kept._output(1, bytes(1 << 20) + b"end")
    assert len(kept.out) == 1 << 20 and kept.output().endswith("end")


def test_why_a_module_is_not_imported_ahead_is_told_without_control_characters(installed: Installed) -> None:
    lines = "\n".join(setup.describe(prepare.ensure(installed).compiled.parent))
    assert "drawer (its import draws random numbers" in lines and "shuffler (its import draws" in lines
    assert "breaker (RuntimeError: not \\x1b[2J today)" in lines and "\x1b" not in lines
    assert "spinner (its import takes more than 12 s)" in lines
    assert "  attrs " in lines and "  msgpack " in lines


def test_files_of_a_package_are_there_and_cannot_be_changed(here: Executor) -> None:
    code = """
import importlib.resources, importlib.metadata, lazy, os
found = importlib.resources.files(lazy).joinpath("data.txt").read_text(), importlib.metadata.version("safeexec-local-lazy")
try:
    open(lazy.__file__, "w")
except OSError as error:
    found += (type(error).__name__,)
found
"""
    assert here.run(code).value == ("data of the package", "1.0", "OSError")


def test_a_changed_image_is_not_loaded(own_cache: Path, installed: Installed) -> None:
    directory = prepare.ensure(installed).compiled.parent
    facts = directory / cache.FACTS
    original = facts.read_bytes()
    try:
        facts.write_bytes(original.replace(b'"compiled": "', b'"compiled": "0'))
        assert prepare._cached(directory) is None
    finally:
        facts.write_bytes(original)
    os.chmod(directory, 0o777)
    try:
        assert prepare._cached(directory) is None
    finally:
        os.chmod(directory, 0o700)


def test_a_second_executor_needs_neither_pip_nor_a_build(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(pip, "download", called)
    monkeypatch.setattr(prepare, "build_with", called)
    reversed_ = tuple(f" {name}" for name in reversed(installed))
    assert prepare.ensure(reversed_).compiled == prepare.ensure(installed).compiled
