"""What a zygote has ready for its cells before anybody asks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from safeexec_backends.local.imports import Imports
from safeexec_backends.local.language.facades import borrowed


def idle(imports: Imports, most: int = 2000) -> int:
    return next(n for n in range(most) if not imports.one_ahead())


@pytest.mark.parametrize(("language", "ready"), [("restricted", True), ("full", False)])
def test_the_code_of_a_common_library_is_transformed_once_for_all_cells(
    monkeypatch: pytest.MonkeyPatch, language: str, ready: bool
) -> None:
    codes: dict[str, Any] = {}
    monkeypatch.setattr(borrowed, "_codes", codes)
    ground = SimpleNamespace(plan=SimpleNamespace(proc=-1), scratch="")
    imports = Imports({"skip": ["unittest", "csv"], "language": language}, cast(Any, ground))
    imports.expect(["unittest", "csv"])
    imports._ahead = []  # the modules themselves
    before = imports.generation
    steps = idle(imports)
    assert ("unittest.case" in codes) is ready and all(n.partition(".")[0] == "unittest" for n in codes)
    assert steps == len(codes) == imports.generation - before  # one at a time: an order must not wait for all of them
    known = dict(codes)
    imports.expect(["unittest"])
    imports._ahead = []
    assert idle(imports) == 0 and codes == known
    if ready:
        assert borrowed.code_of("unittest.case") is known["unittest.case"]
