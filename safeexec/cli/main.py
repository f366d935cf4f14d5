"""The group of commands. Only the command that was named is imported; ``--help`` imports none."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

import safeexec
from safeexec.cli import exits
from safeexec.cli.interrupts import Terminated, terminable
from safeexec.errors import SafeExecError
from safeexec.registry import COMMANDS, entry_points

OWN = {
    "run": "Run one program in a fresh sandbox.",
    "repl": "An interactive session in a sandbox.",
    "mcp": "Serve a sandbox to MCP clients.",
    "serve": "Serve sandboxes to programs that were written for E2B.",
    "setup": "Get a sandbox ready ahead of its first use.",
    "doctor": "Which sandboxes can run here, and which walls stand.",
}

_OTHERS = {
    "agent": "Have a model do a task by writing Python.",
    "audit": "Attack sandboxes, these or others, and say what held.",
    "fuzz": "Attack sandboxes with generated programs.",
}
"""Commands that come with safeexec and are found like those of others."""


class Commands(click.Group):
    """Our own commands by module name; others by the entry-point group ``safeexec.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*OWN, *sorted(set(entry_points(COMMANDS)) - set(OWN))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OWN:  # spares the search through every installed distribution
            found: Any = importlib.import_module(f"safeexec.cli.{cmd_name}").command
        else:
            point = entry_points(COMMANDS).get(cmd_name)
            if point is None:
                return None
            try:
                found = point.load()
            except Exception as error:  # somebody else's module: whatever it raises is its fault, not a crash of ours
                if ctx.resilient_parsing:  # the shell asks for completions, and would show a traceback
                    return None
                raise exits.Failure(
                    f"command {cmd_name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}; "
                    "install or repair the package it comes from",
                    exits.UNAVAILABLE,
                ) from error
        if not isinstance(found, click.Command):
            if ctx.resilient_parsing:
                return None
            raise exits.Failure(f"command {cmd_name!r} is not a click command", exits.UNAVAILABLE)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            about = OWN.get(name) or _OTHERS.get(name) or f"From {_origin(entry_points(COMMANDS)[name])}."
            rows.append((name, about))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _origin(point: Any) -> str:
    return f"package {point.dist.name}" if point.dist is not None else f"module {point.module}"


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=exits.HELP,
    invoke_without_command=True,
)
@click.version_option(safeexec.__version__, prog_name="safeexec")
@click.pass_context
def commands(ctx: click.Context) -> None:
    """Run Python that nobody trusts, in a sandbox."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(exits.USAGE)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Prints one line, and no traceback, for whatever goes wrong."""
    if "_SAFEEXEC_COMPLETE" in os.environ:  # the shell asks for completions, in click's own way
        commands.main(prog_name="safeexec")
    _write_anything()
    try:
        code = _invoke(sys.argv[1:] if args is None else list(args))
        _flush()
        return code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "safeexec"
        exits.complain(f"{error.format_message()}{_variable(error)} ('{path} --help' shows the options)")
        return error.exit_code
    except exits.Failure as error:
        exits.complain(error.format_message())
        return error.code
    except click.ClickException as error:
        exits.complain(error.format_message())
        return error.exit_code
    except SafeExecError as error:
        exits.complain(str(error))
        return exits.of_error(error)
    except (KeyboardInterrupt, click.Abort):
        return exits.INTERRUPTED
    except Terminated as error:
        return error.exit_code
    except exits.OutputLost as error:
        _abandon_stdout()
        exits.complain(f"the output cannot be written ({error}), so the program was ended; write it elsewhere")
        return exits.GUEST
    except OSError as error:
        if error.errno == errno.EPIPE:
            _abandon_stdout()
            command = (sys.argv[1:] if args is None else list(args))[:1]
            ended = ", so the program was ended" if command in (["run"], ["agent"]) else ""
            exits.complain(f"whoever read the output went away{ended}")
            return exits.CLOSED_OUTPUT
        exits.complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return exits.GUEST


def _invoke(args: list[str]) -> int:
    # Not click's own main(): it turns a closed pipe and Ctrl-C into exit code 1.
    try:
        with terminable(), commands.make_context("safeexec", args) as ctx:
            code = commands.invoke(ctx)
    except click.exceptions.Exit as end:
        code = end.exit_code
    return code if type(code) is int else exits.OK


def _variable(error: click.UsageError) -> str:
    """The environment variable that a wrong value may have come from; new versions of click say it themselves."""
    name = getattr(getattr(error, "param", None), "envvar", None)
    known = isinstance(name, str) and name in os.environ and name not in error.format_message()
    return f" (is it from {name}?)" if known else ""


def _write_anything() -> None:
    """What a stream's encoding has no character for is written as an escape: in a locale that is not UTF-8 a name would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _abandon_stdout() -> None:
    """Let what is still buffered go nowhere: the interpreter would complain about it at its end."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        return
