"""The audit's corpus in containers on a real daemon, with the default settings. Judged by effect; what is left afterwards counts too."""

from __future__ import annotations

from typing import Any

import pytest

from safeexec.testing.base import eventually
from safeexec_backends.docker import reaper
from safeexec_fuzz import audit, cases, targets

pytestmark = pytest.mark.slow

ALL = cases.load()


@pytest.mark.timeout(2400)
def test_every_attack_is_contained_and_every_ordinary_program_runs(client: Any) -> None:
    outcome = audit.run(targets.sandbox("docker"), ALL, jobs=2)
    assert not outcome.broken and not outcome.left
    assert [
        (v.case.id, v.outcome, v.effects, v.why) for v in outcome.verdicts if v.outcome not in ("contained", "ok")
    ] == []
    assert outcome.count("attack", "contained") >= 570
    assert eventually(lambda: reaper.find(client) == [])
