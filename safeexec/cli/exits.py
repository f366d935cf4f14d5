"""Exit codes, and the one line that goes with them."""

from __future__ import annotations

import sys

import click

from safeexec.errors import BackendUnavailable, PolicyError, SafeExecError, ToolError
from safeexec.result import GuestError, Result

OK, GUEST, USAGE, LIMIT, UNAVAILABLE, INTERRUPTED, CLOSED_OUTPUT = 0, 1, 2, 3, 4, 130, 141

HELP = """\b
Exit codes:
  0    the program ended without an error
  1    the program failed (or the host could not carry on)
  2    usage: an option, a file or a setting is wrong
  3    a limit was reached: time, memory or output
  4    the sandbox, or a library that is needed, is not available here
  130  interrupted with Ctrl-C
  141  whoever read the output went away
  129, 143  told to end by SIGHUP or SIGTERM
SystemExit in the program counts as 0 for code 0, else as 1."""


class Failure(click.ClickException):
    """Ends the command with a line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.code = exit_code


class OutputLost(Exception):
    """The program's output could not be written, to a full disk for instance."""


def of_result(result: Result) -> int:
    """The exit code of a step."""
    error = result.error
    if error is None:
        return OK
    if error.kind in ("time", "memory", "output"):
        return LIMIT
    if error.kind == "exit" and exits_clean(error):
        return OK
    return GUEST


def exits_clean(error: GuestError) -> bool:
    """Whether a SystemExit means success: no code, 0 or False."""
    return error.message in ("", "0", "False", "None")


def of_error(error: SafeExecError) -> int:
    """The exit code of an error of the host."""
    if isinstance(error, BackendUnavailable):
        return UNAVAILABLE
    if isinstance(error, PolicyError | ToolError):
        return USAGE
    return GUEST


def complain(message: str) -> None:
    """One line on stderr. The message may quote hostile text, so it is made harmless here."""
    if sys.stderr is not None:
        from safeexec.text import neutralise_line  # 4 ms that a run without trouble need not spend

        line = neutralise_line(" ".join(message.split("\n")), 2000)
        try:
            click.echo(f"safeexec: error: {line}", err=True)
        except OSError:
            return  # nobody listens; the exit code still tells
