from __future__ import annotations

from typing import Any, ClassVar

import pytest

from safeexec.backend import Orphan
from safeexec.errors import BackendUnavailable
from tests.cli import launch
from tests.cli.conftest import Command
from tests.support.plain import PlainBackend


def test_every_sandbox_and_every_wall_is_listed(cli: Command) -> None:
    ran = cli("doctor")
    assert ran.code == 0
    assert "plain: ready" in ran.out and "--allow-net HOST" in ran.out and "  process   stands\n" in ran.out
    assert "broken: not available: start the \\x1b]0;owned\\x07 daemon with [red]care[/red]\n" in ran.out
    assert "  seccomp   stands\n" in ran.out and "  landlock  MISSING: the kernel is too \\x1b[31mold\n" in ran.out


def test_json(cli: Command) -> None:
    ran = cli("doctor", "--json")
    assert ran.code == 0 and ran.err == ""
    assert set(ran.json) == {"schema", "safeexec", "python", "system", "sandboxes"}
    plain, broken = ran.json["sandboxes"]
    assert (plain["name"], plain["viable"], plain["reason"]) == ("plain", True, "")
    assert plain["network"] == {"works": True, "reason": ""} and broken["network"] is None
    assert plain["walls"]["process"] == {"active": True, "reason": ""} and plain["seconds"] > 0
    assert plain["walls"]["rollback"]["active"] is False and plain["walls"]["rollback"]["reason"]
    assert broken["viable"] is False and "daemon" in broken["reason"]
    assert broken["walls"]["landlock"] == {"active": False, "reason": "the kernel is too \x1b[31mold"}
    assert "\x1b" not in ran.out


def test_exit_code_4_when_none_can_run(cli: Command) -> None:
    assert cli("doctor", "--sandbox", "broken").code == 4
    assert cli("doctor", "--sandbox", "nosuch").code == 4
    assert cli("doctor", "--sandbox", "plain").code == 0


class Leaves(PlainBackend):
    """Has a box whose host is gone, one whose host lives, and one that sticks."""

    left: ClassVar[set[str]] = set()

    @property
    def facts(self) -> dict[str, str]:
        return {"daemon": "boxes 1.0\x1b[31m"}

    @classmethod
    def orphans(cls) -> list[Orphan]:
        def stick() -> None:
            raise BackendUnavailable("no permission")

        kept = Orphan("box of process 2, which runs", None)
        found = [Orphan(f"box {name}", lambda name=name: cls.left.remove(name)) for name in sorted(cls.left)]  # type: ignore[misc]
        return [*found, kept, *([Orphan("box stuck", stick)] if "stuck" in cls.left else [])]


def test_clean_shows_and_removes_what_is_orphaned_and_nothing_else(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"leaves": Leaves}
    monkeypatch.setattr("safeexec.cli.orphans.load_backend", lambda name: kinds.get(name) or launch.load(name))
    monkeypatch.setattr("safeexec.cli.doctor.backend_names", lambda: ("plain", "leaves", "nosuch"))
    Leaves.left = {"a\x1b[2J", "b"}
    ran = cli("doctor", "--clean")
    assert ran.code == 0 and Leaves.left == set()
    assert "leaves: removed box a\\x1b[2J\nleaves: removed box b\n" in ran.out
    assert "leaves: left alone: box of process 2, which runs\n" in ran.out
    assert "nosuch: not looked at: there is no sandbox 'nosuch'" in ran.out and "plain" not in ran.out
    Leaves.left = {"c"}
    found = cli("doctor", "--clean", "--json", "--sandbox", "leaves").json
    assert found["sandboxes"] == [
        {"name": "leaves", "reason": "", "removed": ["box c"], "kept": ["box of process 2, which runs"], "failed": []}
    ]
    Leaves.left = {"stuck"}
    ran = cli("doctor", "--clean", "--sandbox", "leaves")
    assert ran.code == 1 and "leaves: could not be removed: box stuck: no permission\n" in ran.out
    assert cli("doctor", "--clean", "--sandbox", "nosuch").code == 4
    assert cli("doctor", "--clean", "--sandbox", "plain").code == 0


def test_facts_are_shown_harmless(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safeexec.registry.load_backend", lambda name: Leaves)
    assert "  daemon: boxes 1.0\\x1b[31m\n" in cli("doctor", "--sandbox", "leaves").out
    assert cli("doctor", "--sandbox", "leaves", "--json").json["sandboxes"][0]["facts"] == {
        "daemon": "boxes 1.0\x1b[31m"
    }


class Raises(PlainBackend):
    def __init__(self, policy: Any) -> None:
        raise ZeroDivisionError("a bug")


class Wrong(PlainBackend):
    """Starts, but cannot run anything."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy, python="/bin/false")


@pytest.mark.parametrize(
    ("kind", "words"), [(Raises, "it fails with ZeroDivisionError: a bug"), (Wrong, "did not start")]
)
def test_a_broken_sandbox_is_a_finding(cli: Command, monkeypatch: pytest.MonkeyPatch, kind: Any, words: str) -> None:
    monkeypatch.setattr("safeexec.registry.load_backend", lambda name: kind if name == "bad" else launch.load(name))
    ran = cli("doctor", "--sandbox", "bad")
    assert ran.code == 4 and words in ran.out
