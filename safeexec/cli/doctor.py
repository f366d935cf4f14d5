"""``safeexec doctor``: what this machine really gives."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import click

import safeexec
from safeexec.backend import Wall
from safeexec.cli import exits
from safeexec.cli.render import Screen
from safeexec.errors import SafeExecError
from safeexec.executor import Executor
from safeexec.policy import Policy
from safeexec.registry import backend_names


@dataclass
class Report:
    """What was found out about one sandbox."""

    name: str
    viable: bool = False
    reason: str = ""
    """Why it cannot run here, and what to do."""
    seconds: float = 0.0
    """From nothing to the first answer."""
    walls: Mapping[str, Wall] = field(default_factory=dict)
    network: str | None = None
    """Why a permitted host is not reached; empty when it is, None when it was not tried."""
    facts: Mapping[str, str] = field(default_factory=dict)


@click.command("doctor", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sandbox", "only", metavar="NAME", help="Look at this sandbox only.")
@click.option("--clean", is_flag=True, help="Show and remove what hosts that died left behind; try nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(only: str | None, clean: bool, as_json: bool) -> int:
    """Try every installed sandbox and say which can run here, why not, and which of its walls stand.

    Each is started and made to run a line of code, and to fetch a line from this process over a permitted connection. Exits with 0 when at least one can run, with 4 when none can.

    With --clean, containers and the like whose host is gone are shown and removed instead. Exits with 0, with 1 when something could not be
    removed, with 4 when the sandbox that was named could not be asked.
    """
    screen = Screen(sys.stdout, sys.stderr)
    names = (only,) if only is not None else backend_names()
    if clean:
        from safeexec.cli import orphans

        return orphans.clean(screen, names, named=only is not None, as_json=as_json)
    if not as_json:
        _head(screen)
    reports = []
    for name in names:
        report = examine(name)
        reports.append(report)
        if not as_json:
            _show(screen, report)
    if as_json:
        from safeexec.cli import document

        screen.out.raw_line(document.dump(_document(reports), 2 if screen.out.tty else None))
    elif not reports:
        screen.out.line("no sandbox is installed")
    return exits.OK if any(report.viable for report in reports) else exits.UNAVAILABLE


def examine(name: str) -> Report:
    """Start the sandbox, run a line in it, read its walls."""
    report = Report(name)
    started = monotonic()
    try:
        with Executor(name) as executor:
            result = executor.run("6 * 7")
            report.seconds = monotonic() - started
            report.walls = dict(executor.isolation)
            report.facts = dict(executor._backend.facts)
            report.viable = result.ok and result.value == 42
            if report.viable:
                report.network = _try_network(executor)
            else:
                report.reason = f"it starts, but does not run code: {result.error or 'a wrong answer'}"
    except Exception as error:  # another project's sandbox may raise anything; that is a finding, not a crash of ours
        known = isinstance(error, SafeExecError)
        report.reason = " ".join(str(error).split("\n")) if known else f"it fails with {type(error).__name__}: {error}"
        report.walls = _weak_walls(name)
    return report


_FETCH = "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{}/', timeout=10).read().decode()"


def _try_network(executor: Executor) -> str:
    """Why a sandbox does not reach a host that its policy permits; empty when it does. Tried on a server of this process, on loopback."""
    import secrets
    import socket
    import threading

    word = secrets.token_hex(8)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 16\r\n\r\n" + word.encode()
                        )
            except OSError:  # the server was closed: done
                return

        threading.Thread(target=serve, name="safeexec-doctor", daemon=True).start()
        port = server.getsockname()[1]
        policy = Policy(network=(f"127.0.0.1:{port}",), imports="*")
        try:
            result = executor.run(_FETCH.format(port), policy=policy)
        except SafeExecError as error:
            return " ".join(str(error).split("\n"))
        finally:
            server.shutdown(socket.SHUT_RDWR)
    return "" if result.value == word else str(result.error or "a wrong answer")


def _weak_walls(name: str) -> Mapping[str, Wall]:
    """The walls of a sandbox that refuses to start, where it can say: nothing is run in it."""
    try:
        with Executor(name, policy=Policy(require=())) as executor:
            return dict(executor.isolation)
    except Exception:  # it cannot start at all, for the reason that is reported already
        return {}


def _head(screen: Screen) -> None:
    screen.out.line(f"safeexec {safeexec.__version__}", "bold")
    screen.out.line(f"Python {platform.python_version()} ({platform.python_implementation()}), {sys.executable}")
    screen.out.line(f"{platform.system()} {platform.release()} ({platform.machine()})")


def _show(screen: Screen, report: Report) -> None:
    screen.out.line("")
    if report.viable:
        screen.out.line(f"{report.name}: ready ({report.seconds * 1000:.0f} ms to its first answer)", "bold")
    else:
        screen.out.line(f"{report.name}: not available: {report.reason}", "bold", "red")
    for name, fact in report.facts.items():
        screen.out.line(f"  {name}: {fact}", "dim")
    if report.network is not None:
        reached = (
            f"cannot be permitted: {report.network}"
            if report.network
            else "reached with --allow-net HOST, by way of this process"
        )
        screen.out.line(f"  hosts: {reached}", *(("yellow",) if report.network else ("dim",)))
    width = max((len(name) for name in report.walls), default=0)
    for name, wall in report.walls.items():
        standing = f"  {name:<{width}}  {'stands' if wall.active else 'MISSING'}"
        screen.out.line(standing + (f": {wall.reason}" if wall.reason else ""), *(() if wall.active else ("yellow",)))


def _document(reports: list[Report]) -> dict[str, Any]:
    return {
        "schema": 1,
        "safeexec": safeexec.__version__,
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
        },
        "system": {"os": platform.system(), "kernel": platform.release(), "machine": platform.machine()},
        "sandboxes": [
            {
                "name": report.name,
                "viable": report.viable,
                "reason": report.reason,
                "seconds": report.seconds,
                "facts": dict(report.facts),
                "network": None if report.network is None else {"works": not report.network, "reason": report.network},
                "walls": {name: {"active": wall.active, "reason": wall.reason} for name, wall in report.walls.items()},
            }
            for report in reports
        ],
    }
