"""The corpus: attacks and benign programs as data, read from TOML.

A file of the corpus is one category. Its top level has ``category``; each ``[[case]]`` has ``id``, ``mechanism``, the steps as ``code`` or as
``[[case.step]]``, and for attacks ``effect`` (what proves the escape; one of ``EFFECTS``), ``reference`` and ``needs``. ``payload`` names a text
of ``[payloads]`` in ``payloads.toml`` that is put behind the code, so that one route can be written without saying again what to do at its end;
``prelude`` one of ``[preludes]`` that is put before it.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

EFFECTS = {
    "canary": "a file outside was read",
    "env": "a secret of the host's environment was read",
    "object": "an object of the host's memory was read",
    "marker": "something outside was written, made or removed",
    "network": "a listener on the host was reached",
    "process": "a process of the host was signalled or ended",
    "state": "the host process was changed",
    "time": "a limit on time was outlived",
    "died": "the host process died",
    "poisoned": "a later step or session was poisoned",
    "cross": "a session read what belongs to another",
    "left": "a process was left behind",
    "memory": "memory beyond the limit was taken",
    "output": "output beyond the limit was accepted",
    "forgery": "something forged was accepted",
    "live": "the host was handed a live object of the guest",
    "late": "code of the guest ran after its step",
}
"""What proves an escape, and what it means."""

NEEDS = ("tools", "sessions", "files", "variables", "threads")
"""What a case may ask of a target; one that lacks it is not applicable there."""

KINDS = ("attack", "benign", "finding")


class CorpusError(Exception):
    """A file of the corpus is wrong; the message says which and why."""


@dataclass(frozen=True)
class Step:
    """One thing the host does. `op` is "run", "close", "read" (a file of the session), or "get" (a variable)."""

    code: str = ""
    session: str = "main"
    op: str = "run"
    name: str = ""


@dataclass(frozen=True)
class Case:
    """One attack, or one benign program."""

    id: str
    category: str
    kind: str
    mechanism: str
    steps: tuple[Step, ...]
    effect: str = ""
    reference: str = ""
    needs: tuple[str, ...] = ()
    linger: float = 0.0
    """Seconds to go on watching after the end."""
    alone: bool = False
    """Whether the host process runs nothing else before or after."""
    stdout: str | None = None
    value: str | None = None
    """For benign cases: the value's ``repr``."""
    error: str | None = None
    """For benign cases: the type of the exception the program ends with."""
    digest: str = field(default="", compare=False)

    def data(self) -> dict[str, Any]:
        """As plain data, for the host process."""
        return {
            "id": self.id,
            "kind": self.kind,
            "steps": [{"code": s.code, "session": s.session, "op": s.op, "name": s.name} for s in self.steps],
        }


def load(kinds: Iterable[str] = KINDS) -> list[Case]:
    """The corpus that comes with the package, by category and id. Raises CorpusError."""
    root = files(__package__) / "corpus"
    shared = _table(root / "payloads.toml")
    found: list[Case] = []
    for kind in kinds:
        folder = root / {"attack": "attacks", "benign": "benign", "finding": "findings"}[kind]
        for file in sorted(folder.iterdir(), key=lambda f: f.name):
            if file.name.endswith(".toml"):
                found += parse(_table(file), kind, file.name, shared)
    ids = [case.id for case in found]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise CorpusError(f"more than one case has the id {', '.join(twice)}")
    return found


def _table(file: Traversable) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CorpusError(f"{file.name}: {error}") from error


def parse(table: dict[str, Any], kind: str, name: str, shared: dict[str, dict[str, str]]) -> list[Case]:
    """The cases of one file's table; `shared` holds the texts that cases name. Raises CorpusError."""
    category = table.get("category")
    if not isinstance(category, str):
        raise CorpusError(f"{name}: no category")
    return [_case(item, category, kind, f"{name}: case {item.get('id', '?')}", shared) for item in table["case"]]


_FIELDS = {
    "id", "mechanism", "code", "step", "effect", "reference", "needs", "linger", "alone", "payload", "prelude", "stdout", "value", "error",
    "category",
}  # fmt: skip


def _case(item: dict[str, Any], category: str, kind: str, where: str, shared: dict[str, dict[str, str]]) -> Case:
    unknown = set(item) - _FIELDS
    if unknown:
        raise CorpusError(f"{where}: unknown field {', '.join(sorted(unknown))}")
    identity = item.get("id", "")
    if not isinstance(identity, str) or not identity.replace("-", "").isalnum():
        raise CorpusError(f"{where}: an id is letters, digits and hyphens")
    if ("code" in item) == ("step" in item):
        raise CorpusError(f"{where}: either code or steps")
    steps = [Step(**s) for s in item["step"]] if "step" in item else [Step(item["code"])]
    if "payload" in item:
        last = steps[-1]
        steps[-1] = Step(
            last.code.rstrip("\n") + "\n" + _text(shared, "payloads", item["payload"], where), last.session
        )
    if "prelude" in item:
        steps[0] = Step(_text(shared, "preludes", item["prelude"], where) + steps[0].code, steps[0].session)
    if kind != "benign" and item.get("effect") not in EFFECTS:
        raise CorpusError(f"{where}: effect must be one of {', '.join(EFFECTS)}")
    needs = tuple(item.get("needs", ()))
    if set(needs) - set(NEEDS):
        raise CorpusError(f"{where}: needs are {', '.join(NEEDS)}")
    if any(s.op == "get" for s in steps) and "variables" not in needs:
        raise CorpusError(f"{where}: reading a variable needs 'variables'")
    digest = hashlib.sha256(repr([(s.code, s.session, s.op, s.name) for s in steps]).encode()).hexdigest()[:16]
    return Case(
        id=identity,
        category=item.get("category", category),
        kind=kind,
        mechanism=item.get("mechanism", ""),
        steps=tuple(steps),
        effect=item.get("effect", ""),
        reference=item.get("reference", ""),
        needs=needs,
        linger=float(item.get("linger", 0)),
        alone=bool(item.get("alone", False)),
        stdout=item.get("stdout"),
        value=item.get("value"),
        error=item.get("error"),
        digest=digest,
    )


def _text(shared: dict[str, dict[str, str]], table: str, name: str, where: str) -> str:
    try:
        return shared[table][name]
    except KeyError:
        raise CorpusError(f"{where}: there is no {name} among the {table}") from None


def select(cases: Sequence[Case], categories: Sequence[str], ids: Sequence[str]) -> list[Case]:
    """Those of the named categories and ids; all when neither is named. Raises CorpusError for a name that is not there."""
    known = {c.category for c in cases}, {c.id for c in cases}
    for wanted, names, what in ((categories, known[0], "category"), (ids, known[1], "case")):
        strange = sorted(set(wanted) - names)
        if strange:
            raise CorpusError(f"there is no {what} {', '.join(strange)}; --list shows them")
    if not categories and not ids:
        return list(cases)
    return [c for c in cases if c.category in categories or c.id in ids]
