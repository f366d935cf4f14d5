"""``safeexec setup docker``."""

from __future__ import annotations

import sys
from time import monotonic

import click

from safeexec.text import neutralise_line
from safeexec_backends.docker import setup


class _Progress:
    """What is being done: a spinner with the last line on a terminal, a line each elsewhere. Use as a context manager."""

    def __init__(self) -> None:
        self._status: object = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("docker image")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()  # type: ignore[attr-defined]

    def __call__(self, doing: str) -> None:
        # pip's lines come out of a container, from packages' own build scripts: they must not act on the terminal.
        line = neutralise_line(doing, 200)
        if self._status is not None:
            from rich.markup import escape

            self._status.update(f"docker image: {escape(line)}")  # type: ignore[attr-defined]
        else:
            click.echo(f"docker image: {line}", err=True)


@click.command("docker", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url", metavar="URL", help="The daemon's address; default: DOCKER_HOST, docker's context, the usual sockets."
)
@click.option("--rebuild", is_flag=True, help="Make the image even if there is one of this interpreter.")
@click.option(
    "--package",
    "packages",
    metavar="NAME",
    multiple=True,
    help="Also make the image for Policy(packages=…) with it. Several times. pip there uses this environment's index and proxies.",
)
@click.option(
    "--build-network", metavar="NETWORK", help='The network of the container in which pip runs, "host" for example.'
)
def command(url: str | None, rebuild: bool, packages: tuple[str, ...], build_network: str | None) -> int:
    """Make a local image of this Python, without any registry, and run a line in it.

    It holds the interpreter, its standard library and the shared libraries they need, no shell and no other program. The docker sandbox
    finds it by its name.
    """
    started = monotonic()
    with _Progress() as progress:
        name, made = setup.ensure_image(url, rebuild=rebuild, report=progress)
        if packages:
            setup.ensure_packages(url, packages, build_network, progress)
        progress("running a line in a container")
        seconds = setup.try_image(url, packages)
    what = f"{name} " + ("made" if made else "was there already (--rebuild makes it anew)")
    click.echo(
        f"the docker sandbox is ready: {what}; {monotonic() - started:.1f} s in all, {seconds * 1000:.0f} ms of them to a first answer"
    )
    return 0
