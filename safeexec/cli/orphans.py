"""``safeexec doctor --clean``: what hosts that died left behind, shown and removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from safeexec.cli import exits
from safeexec.cli.render import Screen
from safeexec.errors import SafeExecError
from safeexec.registry import load_backend


@dataclass
class Swept:
    """What was found of one sandbox: lines for people, by what became of them."""

    name: str
    reason: str = ""
    """Why it could not be asked."""
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def sweep(name: str) -> Swept | None:
    """Remove what hosts that are gone left of the sandbox `name`; None where it has no place to look. Raises nothing."""
    swept = Swept(name)
    try:
        found = load_backend(name).orphans()
    except Exception as error:  # as in doctor: another project's sandbox may raise anything
        known = isinstance(error, SafeExecError)
        swept.reason = " ".join(str(error).split("\n")) if known else f"it fails with {type(error).__name__}: {error}"
        return swept
    if found is None:
        return None
    for orphan in found:
        if orphan.remove is None:
            swept.kept.append(orphan.what)
            continue
        try:
            orphan.remove()
        except Exception as error:
            swept.failed.append(f"{orphan.what}: {error}")
        else:
            swept.removed.append(orphan.what)
    return swept


def clean(screen: Screen, names: Sequence[str], *, named: bool, as_json: bool) -> int:
    """Sweep, show, and give the exit code."""
    all_swept = []
    for name in names:
        swept = sweep(name)
        if swept is None:
            if named and not as_json:
                screen.out.line(f"{name}: there is no place on this machine where it could leave anything")
            continue
        all_swept.append(swept)
        if not as_json:
            _show(screen, swept)
    if as_json:
        from safeexec.cli import document

        listed = [
            {"name": s.name, "reason": s.reason, "removed": s.removed, "kept": s.kept, "failed": s.failed}
            for s in all_swept
        ]
        screen.out.raw_line(document.dump({"schema": 1, "sandboxes": listed}, 2 if screen.out.tty else None))
    if any(swept.failed for swept in all_swept):
        return exits.GUEST
    return exits.UNAVAILABLE if named and any(swept.reason for swept in all_swept) else exits.OK


def _show(screen: Screen, swept: Swept) -> None:
    if swept.reason:
        screen.out.line(f"{swept.name}: not looked at: {swept.reason}")
        return
    for what in swept.removed:
        screen.out.line(f"{swept.name}: removed {what}")
    for what in swept.kept:
        screen.out.line(f"{swept.name}: left alone: {what}")
    for what in swept.failed:
        screen.out.line(f"{swept.name}: could not be removed: {what}", "red")
    if not (swept.removed or swept.kept or swept.failed):
        screen.out.line(f"{swept.name}: nothing was left behind")
