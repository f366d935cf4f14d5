"""``safeexec fuzz``."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from safeexec import whole
from safeexec.cli import exits
from safeexec.text import neutralise_line

STAGES = ("attacks", "loops", "differential", "sessions", "native")


@click.command("fuzz", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--minutes",
    type=click.FloatRange(0.1, 10_000),
    default=2.0,
    show_default=True,
    metavar="N",
    help="How long, divided among the stages.",
)
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only this stage. Repeats.")
@click.option(
    "--sandbox",
    "sandboxes",
    multiple=True,
    default=("local", "wasm"),
    show_default=True,
    metavar="NAME",
    help="What to attack. Repeats.",
)
@click.option(
    "--target", "others", multiple=True, metavar="TARGET", help="Another executor to attack, as for audit. Repeats."
)
@click.option("--seed", type=int, metavar="N", help="Repeat a run: what it generates depends on nothing else.")
@click.option(
    "--findings",
    type=click.Path(file_okay=False),
    default="safeexec-findings",
    show_default=True,
    metavar="DIR",
    help="Where reproducers go.",
)
def fuzz(
    minutes: float,
    stages: tuple[str, ...],
    sandboxes: tuple[str, ...],
    others: tuple[str, ...],
    seed: int | None,
    findings: str,
) -> int:
    """Generate attacks, ordinary programs, sessions and bytes, and look for what they break.

    \b
    attacks       programs that walk, import, format and hook, judged like the cases of an audit
    loops         programs that do not want to end
    differential  ordinary programs: the same value, output and exception as plain CPython
    sessions      steps, tools, interrupts and ends in any order, from several threads
    native        bytes for the frame decoder, the language and the file system; guided by coverage where atheris is installed

    What is found is minimised and written to the folder of findings. Exits with 1 when anything was found.
    """
    try:
        import hypothesis  # noqa: F401
    except ImportError as error:
        raise exits.Failure("fuzzing needs hypothesis; try: pip install 'safeexec[fuzz]'", exits.UNAVAILABLE) from error
    from safeexec_fuzz.targets import TargetError, sandbox, target

    chosen = stages or STAGES
    try:
        attacked = [sandbox(name) for name in sandboxes if not (others and sandboxes == ("local", "wasm"))] + [
            target(name) for name in others
        ]
    except TargetError as error:
        raise exits.Failure(str(error)) from error
    book = Book(Path(findings))
    seed = int(time.time()) if seed is None else seed
    click.echo(f"seed {seed}")
    share = minutes * 60 / len(chosen)
    for stage in chosen:
        began = time.monotonic()
        count = _STAGES[stage](attacked, share, seed, book)
        click.echo(f"{stage}: {count} in {time.monotonic() - began:.0f} s, {len(book.found)} found so far")
    for text in book.found:
        click.echo(neutralise_line(text, 400))
    return exits.GUEST if book.found else exits.OK


class Book:
    """Where findings are written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[str] = []

    def note(self, what: str, where: str, code: str, effect: str = "") -> None:
        """Write a reproducer; for an attack in the form of a case, to be put into the corpus."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{where.partition(':')[0]}-{hashlib.sha256(code.encode('utf-8', 'replace')).hexdigest()[:10]}"
        if effect:
            quoted = code.replace("'''", '"""')
            text = f'category = "findings"\n[[case]]\nid = "found-{name}"\nmechanism = "generated"\neffect = "{effect}"\ncode = \'\'\'\n{quoted}\'\'\'\n'
            path = self.folder / f"{name}.toml"
        else:
            text, path = code, self.folder / f"{name}.txt"
        whole.save(path, text.encode(errors="backslashreplace"))
        self.found.append(f"{what} ({path})")


_BATCH = 20


def search(strategy: Any, check: Callable[[Any], str], seconds: float, seed: int) -> tuple[int, tuple[Any, str] | None]:
    """Draw from a strategy until the time is up or `check` says something. The count, and the smallest example with what was said of it."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    deadline = time.monotonic() + seconds
    last: list[tuple[Any, str]] = []
    count = 0

    class Found(Exception):
        """What makes hypothesis shrink."""

    def look(example: Any) -> None:
        nonlocal count
        count += 1
        said = check(example)
        if said:
            last[:] = [(example, said)]
            raise Found

    quiet = settings(
        max_examples=_BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )  # fmt: skip
    # In batches: hypothesis counts examples, and what is wanted here is a time.
    while time.monotonic() < deadline and not last:
        seed += 1
        try:
            marked: Any = given(strategy)
            whole: Any = seeded(seed)(quiet(marked(look)))
            whole()
        except Found:
            break
    return count, last[0] if last else None


def _attacks(targets: list[Any], seconds: float, seed: int, book: Book) -> int:
    from .attacks import programs

    return _attack(targets, programs(), seconds, seed, book, "canary")


def _loops(targets: list[Any], seconds: float, seed: int, book: Book) -> int:
    from .attacks import loops

    return _attack(targets, loops().map(lambda code: ("loop", code)), seconds, seed, book, "time")


def _attack(targets: list[Any], strategy: Any, seconds: float, seed: int, book: Book, expected: str) -> int:
    from safeexec_fuzz.attacker import Attacker

    total = 0
    for chosen in targets:
        with Attacker(chosen) as attacker:

            def check(example: tuple[str, str], attacker: Attacker = attacker) -> str:
                effects = attacker.attack(example[1], expected)
                if effects and {name for name, _ in effects} <= {"time", "memory", "left"}:
                    effects = attacker.attack(example[1], expected)  # a busy machine can feign these
                return "; ".join(f"{name}: {detail}" for name, detail in effects)

            count, found = search(strategy, check, seconds / len(targets), seed)
            total += count
            if found is not None:
                example, said = found
                effect = said.partition(":")[0]
                book.note(f"{chosen.name}: {example[0]} escaped: {said}", chosen.name, example[1], effect)
    return total


def _differential(targets: list[Any], seconds: float, seed: int, book: Book) -> int:
    from .benign import programs
    from .differential import Comparison

    names = tuple(t.options["sandbox"] for t in targets if t.adapter == "sandbox")
    with Comparison(names) as comparison:
        count, found = search(programs(), lambda code: "; ".join(comparison.differences(code)), seconds, seed)
    if found is not None:
        book.note(f"differs: {found[1]}", "differs", f"{found[0]}\n# {found[1]}\n")
    return count


def _sessions(targets: list[Any], seconds: float, seed: int, book: Book) -> int:
    from hypothesis import HealthCheck, Phase, settings
    from hypothesis.stateful import run_state_machine_as_test

    from safeexec import Executor

    from .machine import machine, policy

    count = 0
    for chosen in targets:
        if chosen.adapter != "sandbox":
            continue
        with Executor(chosen.options["sandbox"], policy=policy(), **chosen.options["settings"]) as executor:
            kind = machine(executor)
            deadline = time.monotonic() + seconds / max(1, len(targets))
            while time.monotonic() < deadline:
                count += 1
                quiet = settings(
                    max_examples=5, stateful_step_count=25, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate, Phase.shrink],
                )  # fmt: skip
                from hypothesis import seed as seeded

                seeded(seed + count)(kind)
                try:
                    run_state_machine_as_test(kind, settings=quiet)
                except Exception as error:
                    notes = "\n".join(getattr(error, "__notes__", ()))
                    book.note(
                        f"{chosen.name}: a session differs from its model: {error!r}",
                        "sessions",
                        f"{error!r}\n{notes}\n",
                    )
                    break
    return count


def _native(targets: list[Any], seconds: float, seed: int, book: Book) -> int:
    from hypothesis import strategies as st

    from . import native

    found = native.targets()
    for name, finding, data in native.findings():
        try:
            found[name](data)
        except Exception as error:
            book.note(f"{name}: {finding} is back: {error!r}", name, f"{data!r}\n{error!r}\n")
    if not native.have_atheris():
        click.echo(
            "native: atheris is not installed, so nothing guides the bytes; try: pip install 'safeexec[fuzz-native]'",
            file=sys.stderr,
        )
    count = 0
    for name, one in found.items():
        if native.have_atheris():
            book.folder.mkdir(parents=True, exist_ok=True)
            clean, text = native.guided(name, max(1, int(seconds / len(found))), book.folder)
            count += _executions(text)
            if not clean:
                book.note(f"{name}: {_said(text)}", name, text)
            continue

        def check(data: bytes, one: native.One = one) -> str:
            try:
                one(data)
            except Exception as error:
                return repr(error)
            return ""

        number, broken = search(st.binary(max_size=400), check, seconds / len(found), seed)
        count += number
        if broken is not None:
            book.note(f"{name}: {broken[1]}", name, f"{broken[0]!r}\n{broken[1]}\n")
    return count


def _said(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "Error" in line or "SUMMARY" in line]
    return lines[0] if lines else "it failed without saying why"


def _executions(text: str) -> int:
    for line in text.splitlines():
        if "number_of_executed_units" in line:
            return int(line.rpartition(":")[2])
    return 0


_STAGES: dict[str, Callable[[list[Any], float, int, Book], int]] = {
    "attacks": _attacks, "loops": _loops, "differential": _differential, "sessions": _sessions, "native": _native,
}  # fmt: skip
