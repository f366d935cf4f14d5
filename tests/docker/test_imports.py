"""The rule for imports that the guest program in a container keeps, without a container."""

from __future__ import annotations

import pytest

from safeexec import guest
from safeexec.guest import ImportRefused
from safeexec_backends.docker.program import source
from safeexec_backends.import_rule import ImportRule


def test_a_refused_import_names_the_closest_of_many() -> None:
    ruled = ImportRule(guest, ("json", "numpy.*", *(f"module{n}" for n in range(30))), __import__)
    asking = {"__name__": "__main__"}
    assert ruled("json", asking, None, ("x",)).__name__ == "json"
    with pytest.raises(ImportRefused) as info:
        ruled("jsonn", asking, None, ("x",))
    said = "Import of 'jsonn' is not allowed; allowed: json and 31 more (Policy.imports; by default safeexec.DEFAULT_IMPORTS)"
    assert str(info.value) == said


def test_everything_the_program_needs_is_shipped_with_it() -> None:
    assert b"safeexec_import_rule" in source()
