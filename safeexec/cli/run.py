"""``safeexec run``: one program, one fresh sandbox."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from safeexec.cli import exits
from safeexec.cli.interrupts import Interrupts
from safeexec.cli.options import Options, note_config, shared
from safeexec.cli.render import Screen
from safeexec.cli.source import read_program
from safeexec.errors import SafeExecError
from safeexec.executor import Executor
from safeexec.result import GuestError, Result
from safeexec.session import Session

if TYPE_CHECKING:
    from safeexec.cli.save import Saver


@click.command("run", context_settings={"help_option_names": ["-h", "--help"]}, epilog=exits.HELP)
@click.argument("program", required=False, metavar="[FILE | -]")
@click.option("-c", "code", metavar="CODE", help="The program itself, instead of FILE.")
@shared
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON, see above.")
@click.pass_context
def command(ctx: click.Context, options: Options, program: str | None, code: str | None, as_json: bool) -> int:
    """Run one program in a fresh sandbox: FILE, CODE, or standard input for '-' and in a pipe.

    The program's output is shown as it comes; after it the value of its last expression, as Python's prompt would, or, in a pipe, a string
    as it is. On a terminal, every character that could act on it is shown as an escape such as \\x1b; in a pipe the program's output passes
    unchanged, as UTF-8.

    Options win over the environment, the environment over files. In the environment, several values are separated by spaces, several
    paths by ':'.

    --json prints one document of strict JSON and nothing else on stdout: schema, sandbox, ok, exit_code, interrupted, value, stdout, stderr,
    error, displays, files, saved, usage, tool_calls, network, truncated, rolled_back. Values that JSON lacks are objects with a "$type"; bytes are
    base64. With exit code 2 there may be none: an option or a file is wrong.
    """
    screen = Screen(sys.stdout, sys.stderr)
    source = read_program(program, code)
    try:
        policy = options.policy()
        tools = options.tools()
        saver = _saver(options)
        note = note_config(ctx)
        if note is not None and screen.err.tty:
            screen.note(note)
        with Executor(options.sandbox, policy=policy) as executor, executor.session(tools) as session:
            with Interrupts(session) as interrupts:
                result = session.run(source, on_output=None if as_json else screen.output)
            if interrupts.happened:
                screen.interrupted()
            exit_code = exits.INTERRUPTED if interrupts.happened else exits.of_result(result)
            if as_json:
                as_json = False  # one document, whatever happens while the sandbox is closed
                return _document(options, screen, session, result, saver, exit_code)
            return _show(program, screen, session, result, saver, exit_code)
    except (SafeExecError, KeyboardInterrupt) as error:
        if as_json:
            trouble_code = exits.of_error(error) if isinstance(error, SafeExecError) else exits.INTERRUPTED
            trouble = Result(error=GuestError("host", type(error).__name__, str(error)))
            _document(options, screen, None, trouble, None, trouble_code)
        raise


def _saver(options: Options) -> Saver | None:
    if options.save_files is None:
        return None
    from safeexec.cli.save import make_saver  # only those who save wait for it

    return make_saver(options.save_files)


def _show(
    program: str | None, screen: Screen, session: Session, result: Result, saver: Saver | None, exit_code: int
) -> int:
    screen.step(result, saves=saver is not None, name=program if program != "-" else "<stdin>")
    if saver is not None:
        saved, trouble = saver.save(session, result)
        for path in saved:
            screen.note(f"saved {path}")
        exit_code = _unsaved(trouble, exit_code)
    return exit_code


def _document(
    options: Options, screen: Screen, session: Session | None, result: Result, saver: Saver | None, exit_code: int
) -> int:
    from safeexec.cli import document

    saved, trouble = saver.save(session, result) if saver is not None and session is not None else ((), None)
    interrupted = exit_code == exits.INTERRUPTED
    exit_code = _unsaved(trouble, exit_code)
    data = document.of_result(
        result, sandbox=options.sandbox, exit_code=exit_code, interrupted=interrupted, saved=saved
    )
    screen.out.raw_line(document.dump(data, 2 if screen.out.tty else None))
    return exit_code


def _unsaved(trouble: str | None, exit_code: int) -> int:
    if trouble is None:
        return exit_code
    exits.complain(trouble)
    return exit_code or exits.GUEST
