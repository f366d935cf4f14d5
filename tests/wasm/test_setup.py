"""Preparing the image, and carrying Pyodide's files to machines without network."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from safeexec.errors import BackendUnavailable
from safeexec_backends.wasm import cli, setup
from safeexec_backends.wasm.image import sources


def test_state_of_a_ready_image_and_of_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = setup.setup()
    ready = setup.state()
    assert ready.ready and ready.directory == directory and ready.size > 30 << 20
    monkeypatch.setenv("SAFEEXEC_CACHE", str(tmp_path))
    missing = setup.state()
    assert not missing.ready and "safeexec setup wasm" in missing.reason


def test_source_that_is_not_pyodide_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAFEEXEC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.tgz").write_bytes(b"no archive")
    with pytest.raises(BackendUnavailable, match="cannot be read"):
        setup.setup(tmp_path / "x.tgz", rebuild=True)


def test_exported_wheel_installs_and_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = setup.export_wheel(tmp_path)
    first = wheel.read_bytes()
    assert setup.export_wheel(tmp_path).read_bytes() == first
    target = tmp_path / "installed"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--target",
            str(target),
            str(wheel),
        ],
        check=True,
    )
    monkeypatch.syspath_prepend(str(target))
    monkeypatch.setattr(sources, "_ROADS", sources._ROADS[:1])
    found = sources.fetch(tmp_path / "empty", None, lambda _: None)
    assert found.wasm[:4] == b"\0asm" and found.library[:2] == b"PK"


def test_a_wheel_that_has_no_room_leaves_no_half_and_says_where(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))  # as on a disk that is full
    try:
        with pytest.raises(OSError, match="safeexec_wasm_data"):
            setup.export_wheel(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())


def test_an_option_without_effect_is_not_passed_over(tmp_path: Path) -> None:
    setup.setup()
    done = CliRunner().invoke(cli.command, ["--from", str(tmp_path)], standalone_mode=False)
    assert done.return_value == 0 and "--from was not looked at" in done.stderr and "ready" in done.stdout
    done = CliRunner().invoke(cli.command, ["--export-wheel", str(tmp_path), "--rebuild"])
    assert done.exit_code == 2 and "--rebuild" in done.stderr and not list(tmp_path.iterdir())
