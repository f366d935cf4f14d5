from __future__ import annotations

from typing import Any

import pytest

from tests.cli import launch
from tests.cli.conftest import Command
from tests.support.plain import PlainBackend


def test_every_sandbox_and_every_wall_is_listed(cli: Command) -> None:
    ran = cli("doctor")
    assert ran.code == 0
    assert "plain: ready" in ran.out and "  process  stands\n" in ran.out
    assert "broken: not available: start the \\x1b]0;owned\\x07 daemon with [red]care[/red]\n" in ran.out
    assert "  seccomp   stands\n" in ran.out and "  landlock  MISSING: the kernel is too \\x1b[31mold\n" in ran.out


def test_json(cli: Command) -> None:
    ran = cli("doctor", "--json")
    assert ran.code == 0 and ran.err == ""
    assert set(ran.json) == {"schema", "safeexec", "python", "system", "sandboxes"}
    plain, broken = ran.json["sandboxes"]
    assert (plain["name"], plain["viable"], plain["reason"]) == ("plain", True, "")
    assert plain["walls"] == {"process": {"active": True, "reason": ""}} and plain["seconds"] > 0
    assert broken["viable"] is False and "daemon" in broken["reason"]
    assert broken["walls"]["landlock"] == {"active": False, "reason": "the kernel is too \x1b[31mold"}
    assert "\x1b" not in ran.out


def test_exit_code_4_when_none_can_run(cli: Command) -> None:
    assert cli("doctor", "--sandbox", "broken").code == 4
    assert cli("doctor", "--sandbox", "nosuch").code == 4
    assert cli("doctor", "--sandbox", "plain").code == 0


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
    monkeypatch.setattr("safeexec.executor.load_backend", lambda name: kind if name == "bad" else launch.load(name))
    ran = cli("doctor", "--sandbox", "bad")
    assert ran.code == 4 and words in ran.out
