"""``safeexec setup wasm``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from . import setup


class _Stages:
    """The stages of a build, as a bar on a terminal and as lines elsewhere. Use as a context manager."""

    def __init__(self) -> None:
        self._bar: object = None
        self.called = False
        """Whether anything was done."""

    def __enter__(self) -> _Stages:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._bar = self._progress.add_task("wasm image", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._progress.stop()

    def __call__(self, stage: str, number: int, of: int) -> None:
        self.called = True
        if self._bar is not None:
            self._progress.update(self._bar, description=stage, completed=number, total=of)  # type: ignore[arg-type]
        else:
            click.echo(f"wasm image: {stage} ({number}/{of})", err=True)


@click.command("wasm", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, path_type=Path),
    help="A directory or archive with Pyodide's files: nothing is fetched.",
)
@click.option("--rebuild", is_flag=True, help="Build the image even if there is one.")
@click.option(
    "--export-wheel",
    "folder",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    metavar="DIR",
    help="Write a wheel with Pyodide's files into DIR, for machines that cannot fetch them.",
)
@click.option(
    "--package",
    "packages",
    multiple=True,
    metavar="P",
    help="A package to have in the sandbox, as in Policy(packages=…); may be repeated. With --rebuild it is looked up anew.",
)
def command(source: Path | None, rebuild: bool, folder: Path | None, packages: tuple[str, ...]) -> int:
    """Fetch Pyodide's interpreter, verify it, and compile it ahead of time into this user's cache.

    Happens by itself on the first use of the wasm sandbox; afterwards it takes no time.
    """
    if folder is not None and (rebuild or packages):
        raise click.UsageError(
            "--export-wheel writes Pyodide's files: neither --rebuild nor --package has a meaning with it"
        )
    with _Stages() as stages:
        if folder is not None:
            made = setup.export_wheel(folder, source, stages)
        else:
            made = setup.setup(source, rebuild=rebuild, packages=packages, progress=stages)
    if source is not None and folder is None and not stages.called:
        click.echo("it was ready before, so that --from was not looked at: --rebuild builds it from there", err=True)
    click.echo(str(made) if folder is not None else f"the wasm sandbox is ready: {made}")
    if packages and folder is None:
        for line in setup.describe(made):
            click.echo(line)
    return 0
