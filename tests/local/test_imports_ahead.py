"""What a zygote has ready for its cells before anybody asks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from safeexec_backends.local import zygote
from safeexec_backends.local.imports import Imports
from safeexec_backends.local.language.facades import borrowed
from safeexec_backends.local.zygote import Zygote


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


class Orders:
    """Stands in for a poll: what comes is scripted, each entry for one call; at the end the host dies."""

    HOST, SOCKET = 7, 8

    def __init__(self, zygote: Zygote, script: str) -> None:
        self._zygote, self._script, self.asked = zygote, iter(script), [0]

    def poll(self, pause: int | None) -> list[tuple[int, int]]:
        self.asked.append(pause if pause is not None else -1)
        came = next(self._script, "x")
        if came == "o":
            self._zygote._spares.clear()  # an order took the spare
            return [(self.SOCKET, 1)]
        return [(self.HOST, 1)] if came == "x" else []

    def register(self, *_: Any) -> None:
        pass


def served(monkeypatch: pytest.MonkeyPatch, script: str) -> tuple[str, list[int]]:
    """What a zygote did, "c" for each cell and "i" for each import, and how long it was ready to wait each time."""
    did: list[str] = []
    made = Zygote.__new__(Zygote)
    imports = SimpleNamespace(generation=0, expect=lambda names: None, one_ahead=lambda: did.append("i") or True)
    vars(made).update(
        _sock=SimpleNamespace(fileno=lambda: Orders.SOCKET), _host_pidfd=Orders.HOST, _host=0, _setup={"first": {"keeps": False}},
        _cells={}, _spares={}, _wanted={}, _cleaners=[], _quiet=True, _in_a_row=0, _imports=imports,
    )  # fmt: skip
    orders = made._poll = cast(Any, Orders(made, script))
    monkeypatch.setattr(zygote.control, "receive", lambda _: ({}, []))
    monkeypatch.setattr(made, "_answer", lambda _: None, raising=False)
    monkeypatch.setattr(made, "_make", lambda _: did.append("c") or SimpleNamespace(generation=0), raising=False)
    made.serve()
    return "".join(did), orders.asked[1:]


def test_imports_wait_until_nobody_wants_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """They took ten milliseconds each, right before the next order, as long as there were any left."""
    assert served(monkeypatch, "...") == ("cii", [0, 0, 0, 0])  # at the start, when nobody wants anything
    did, asked = served(monkeypatch, ".o.o.o.")
    assert did == "cccc" and asked == [0, 0, 0, zygote._PAUSE, 0, zygote._PAUSE, 0, zygote._PAUSE]
    assert served(monkeypatch, ".o..")[0] == "cci"  # and nothing came for a while


def test_where_sessions_never_stop_coming_imports_are_made_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    many = zygote._IMPATIENT * 3
    did = served(monkeypatch, ".o" * many + ".")[0]
    assert did.count("c") == many + 1 and did.count("i") == 3
