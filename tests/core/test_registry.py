"""Finding a sandbox by name."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest

import safeexec
from safeexec import BackendUnavailable, Executor, Policy, PolicyError, registry
from tests.support.plain import PlainBackend


class Point:
    """An installed entry point."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def load(self) -> Any:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


def test_local_is_installed_and_loading_it_loads_no_other() -> None:
    assert "local" in registry.backend_names()
    script = "import sys\nfrom safeexec.registry import load_backend\nassert load_backend('local').name == 'local'\nprint(*[m for m in sys.modules if m.startswith('safeexec_backends.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {name.split(".")[1] for name in done.stdout.split()} <= {"local", "_hardening"}


@pytest.mark.parametrize("name", ["nothing", "", "a.b", "../x", "os", "__init__", "local; x", None, 5])
def test_unknown_sandbox_is_named_with_those_there_are(name: Any) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        Executor(name)
    assert repr(name) in str(caught.value) and "local" in str(caught.value)


def test_entry_point_of_another_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(PlainBackend):
        name = "theirs"

    monkeypatch.setattr(registry, "entry_points", lambda group: {"theirs": Point(Theirs)})
    with Executor("theirs") as executor:
        assert executor.sandbox == "theirs" and executor.run("1").value == 1


def test_missing_dependency_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "entry_points", lambda group: {"theirs": Point(ImportError("No module named 'vendor'"))}
    )
    with pytest.raises(BackendUnavailable, match=r"'vendor'.*pip install 'safeexec\[theirs\]'"):
        Executor("theirs")


class Optioned(PlainBackend):
    """Has options of its own, as the sandboxes have."""

    name = "optioned"

    def __init__(self, policy: Policy, *, size: int = 1, must: str = "") -> None:
        if must == "break":
            raise TypeError("what the sandbox itself does wrong")
        super().__init__(policy)


def test_an_unknown_option_is_named_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: {"optioned": Point(Optioned)})
    with pytest.raises(PolicyError, match=r"^the optioned sandbox has no option sizes; it has size, must$"):
        Executor("optioned", sizes=2)
    with pytest.raises(TypeError, match="does wrong"):
        Executor("optioned", must="break")


@pytest.mark.parametrize("found", [object(), dict, types, lambda policy: None])
def test_what_is_no_backend_is_refused(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: {"theirs": Point(found)})
    with pytest.raises(BackendUnavailable, match="not a safeexec"):
        Executor("theirs")


@pytest.mark.parametrize(
    ("sandbox", "known"), [("local", "none"), ("wasm", "workers, isolation, keep_bytes, preimport, progress")]
)
def test_our_sandboxes_name_the_options_they_have(sandbox: str, known: str) -> None:
    with pytest.raises(PolicyError, match=f"^the {sandbox} sandbox has no option timeout; it has {known}$"):
        safeexec.run("1", sandbox=sandbox, timeout=5)


def test_a_class_in_place_of_a_backend_is_told_what_is_wanted() -> None:
    with pytest.raises(BackendUnavailable, match=r"pass a Backend, PlainBackend\(...\)"):
        Executor(PlainBackend)  # type: ignore[arg-type]


def test_options_go_to_the_sandbox_or_are_refused() -> None:
    with pytest.raises(TypeError, match="options"):
        Executor(PlainBackend(), pool=3)
    with pytest.raises(PolicyError):
        Executor("local", no_such_option=1)
    with pytest.raises(PolicyError, match="Policy"):
        Executor(PlainBackend(), policy={"limits": 1})  # type: ignore[arg-type]
