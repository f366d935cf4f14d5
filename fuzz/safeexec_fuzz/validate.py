"""Runs the corpus on the weak executor and records which attacks were seen to bite: ``python -m safeexec_fuzz.validate``.

An attack counts when the weak executor shows the very effect that the case names. Run it after the corpus has changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from safeexec import whole

from . import audit
from .cases import Case, load
from .targets import target


def bites(cases: Sequence[Case], jobs: int = 0) -> dict[str, str]:
    """Case id to digest of those that the weak executor was bitten by."""
    outcome = audit.run(target("weak"), cases, jobs=jobs)
    return {
        v.case.id: v.case.digest
        for v in outcome.verdicts
        if v.outcome == "escaped" and v.case.effect in {name for name, _ in v.effects}
    }


def main() -> int:
    """Write the record beside the corpus."""
    cases = load(("attack", "finding"))
    found = bites(cases)
    record = json.dumps(dict(sorted(found.items())), indent=0) + "\n"
    whole.save(Path(__file__).parent / "corpus" / "validated.json", record.encode())
    missing = [case.id for case in cases if case.id not in found]
    print(f"{len(found)} of {len(cases)} attacks bite; not: {', '.join(missing) or 'none'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
