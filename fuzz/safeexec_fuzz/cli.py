"""``safeexec audit``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from safeexec import whole
from safeexec.cli import exits
from safeexec.cli.console import Console
from safeexec.cli.save import check_writable
from safeexec.registry import backend_names
from safeexec.text import neutralise, neutralise_line

from . import audit as engine
from .cases import KINDS, Case, CorpusError, load, select
from .targets import BUILT_IN, SAFEEXEC_SANDBOXES, Target, TargetError, sandbox, target

DEFAULT = ("local", "wasm")


@click.command("audit", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--sandbox",
    "sandboxes",
    multiple=True,
    metavar="NAME",
    help="A sandbox of safeexec's, or NAME:setting=value,… Repeats. [default: local, wasm]",
)
@click.option(
    "--target",
    "others",
    multiple=True,
    metavar="TARGET",
    help=f"Another executor: {', '.join(BUILT_IN)}, cmd:COMMAND, or module:factory. Repeats.",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PATH",
    help="The interpreter that has the --target installed; TARGET=PATH for one of several.",
)
@click.option("--category", "categories", multiple=True, metavar="NAME", help="Only cases of this category. Repeats.")
@click.option("--case", "ids", multiple=True, metavar="ID", help="Only this case. Repeats.")
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="How many cases at once. [default: one per core]")
@click.option("--json", "json_file", metavar="FILE", help="Write the report as JSON; '-' is standard output.")
@click.option("--html", "html_file", metavar="FILE", help="Write the report as one page.")
@click.option("--sarif", "sarif_file", metavar="FILE", help="Write the escapes as SARIF 2.1.0.")
@click.option(
    "--fail-on",
    type=click.Choice(["escape", "never"]),
    default="escape",
    show_default=True,
    help="What makes the exit code 1.",
)
@click.option(
    "--from",
    "earlier",
    multiple=True,
    metavar="FILE",
    help="Take the targets of an earlier --json report instead of running. Repeats.",
)
@click.option("--list", "list_", is_flag=True, help="List the cases and run nothing.")
@click.option("--show", is_flag=True, help="Print the code of the chosen cases and run nothing.")
def audit(
    sandboxes: tuple[str, ...],
    others: tuple[str, ...],
    pythons: tuple[str, ...],
    categories: tuple[str, ...],
    ids: tuple[str, ...],
    jobs: int | None,
    json_file: str | None,
    html_file: str | None,
    sarif_file: str | None,
    fail_on: str,
    earlier: tuple[str, ...],
    list_: bool,
    show: bool,
) -> int:
    """Attack executors with the whole corpus and say what held.

    Every attack is judged by its effect: a file outside read or written, a secret read, a listener reached, a limit outlived, the host process ended or changed,
    another session touched, a process left. Ordinary programs run as well, so that over-blocking shows.

    Exits with 1 when an attack escaped from a target other than 'weak', which is built to be escaped from, and with 4 when a target could not be started.

    Run it on a machine that you can spare: a target that holds nothing back lets the attacks do what they do.
    """
    try:
        cases = select(load(KINDS), categories, ids)
        targets = choose(sandboxes, others, pythons)
    except (CorpusError, TargetError) as error:
        raise exits.Failure(str(error)) from error
    if list_ or show:
        _print_cases(cases, show)
        return exits.OK
    # A target's name is the user's: cmd:cat: is no picture of one.
    for name in (json_file, html_file, sarif_file):
        if name not in (None, "-"):
            check_writable(name, "the report")
    screen = Console(stderr=json_file == "-", highlight=False, soft_wrap=False, emoji=False)
    from .report import document, page, sarif, table

    if earlier:
        try:
            data = document.merge([_report(name) for name in earlier])
        except ValueError as error:
            raise exits.Failure(f"--from: {error}") from error
    else:
        data = document.build([_run(chosen, cases, jobs, screen) for chosen in targets])
    forms: tuple[tuple[str | None, Callable[[], str]], ...] = (
        (json_file, lambda: json.dumps(data, indent=1)),
        (html_file, lambda: page.build(data)),
        (sarif_file, lambda: json.dumps(sarif.build(data), indent=1)),
    )
    # First what needs no disk: a report that cannot be written must not take the results of all the minutes with it.
    table.show(data, screen)
    for name, text in forms:
        if name == "-":
            click.echo(text())
        elif name is not None:
            try:
                whole.save(name, text().encode())
            except OSError as error:
                raise exits.Failure(
                    f"{name} could not be written: {error.strerror}; what was found stands above"
                ) from error
    if fail_on == "escape" and any(t["escaped"] for name, t in data["targets"].items() if name != "weak"):
        return exits.GUEST
    if any(t["error"] for t in data["targets"].values()):
        return exits.UNAVAILABLE
    return exits.OK


def choose(sandboxes: tuple[str, ...], others: tuple[str, ...], pythons: tuple[str, ...]) -> list[Target]:
    """The targets that the options name. Raises TargetError."""
    everywhere = ""
    special: dict[str, str] = {}
    for text in pythons:
        name, mark, path = text.rpartition("=")
        if mark and name in others:
            special[name] = path
        elif everywhere:
            raise TargetError("--python: one PATH for all targets, or TARGET=PATH for each")
        else:
            everywhere = text
    for path in (everywhere, *special.values()):
        if path and not Path(path).is_file():
            raise TargetError(f"--python: {path} is not a file")
    names = sandboxes or (() if others else DEFAULT)
    found = [sandbox(name) for name in names]
    for chosen in found:
        name = chosen.options["sandbox"]
        if name not in SAFEEXEC_SANDBOXES and name not in backend_names():
            raise TargetError(f"--sandbox: there is no sandbox {name!r}; installed: {', '.join(backend_names())}")
    # The weak executor is part of this package: another interpreter has nothing to add.
    found += [target(name, special.get(name, "" if name == "weak" else everywhere)) for name in others]
    twice = {t.name for t in found if [o.name for o in found].count(t.name) > 1}
    if twice:
        raise TargetError(f"{', '.join(sorted(twice))} is named twice")
    return found


def _run(chosen: Target, cases: list[Case], jobs: int | None, screen: Console) -> engine.Outcome:
    label = neutralise_line(chosen.name, 40)
    if not screen.is_terminal:
        screen.print(f"{label}: {len(cases)} cases", markup=False)

        def plain(_: str, verdict: engine.Verdict | None, done: int, of: int) -> None:
            if verdict is not None and verdict.outcome in ("escaped", "blocked", "broken") and chosen.adapter != "weak":
                screen.print(f"{label}: {verdict.outcome} {verdict.case.id}", markup=False)
            if done % 100 == 0 and done != of:
                screen.print(f"{label}: {done} of {of}", markup=False)

        return engine.run(chosen, cases, jobs=jobs or 0, progress=plain)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[bad]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen) as bar:
        task = bar.add_task(label, total=len(cases), bad="")
        escaped = [0]

        def live(_: str, verdict: engine.Verdict | None, done: int, of: int) -> None:
            if verdict is not None and verdict.outcome == "escaped":
                escaped[0] += 1
                if chosen.adapter != "weak":
                    bar.console.print(f"{label}: escaped {verdict.case.id}", markup=False, style="red")
            bar.update(task, completed=done, bad=f"{escaped[0]} escaped")

        return engine.run(chosen, cases, jobs=jobs or 0, progress=live)


def _report(name: str) -> Any:
    """An earlier report. Raises Failure, ValueError."""
    try:
        data = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise exits.Failure(f"--from: {name}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise exits.Failure(f"--from: {name} is no report of safeexec audit --json: {error}") from error
    return data


def _print_cases(cases: list[Case], show: bool) -> None:
    out: Any = sys.stdout
    for case in cases:
        reference = f" ({case.reference})" if case.reference else ""
        click.echo(f"{case.id}  [{case.category}] {case.effect or 'benign'}: {case.mechanism}{reference}", file=out)
        if show:
            for step in case.steps:
                click.echo(neutralise(f"    -- session {step.session}: {step.op} {step.name}".rstrip()), file=out)
                for line in step.code.splitlines():
                    click.echo("    " + neutralise(line), file=out)
