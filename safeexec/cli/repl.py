"""``safeexec repl``: a session at the keyboard, or statement by statement from a pipe."""

from __future__ import annotations

import ast
import codeop
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import safeexec
from safeexec.cli import exits
from safeexec.cli.interrupts import Interrupts
from safeexec.cli.options import Options, note_config, shared
from safeexec.cli.render import Screen
from safeexec.cli.save import make_saver
from safeexec.executor import Executor
from safeexec.parsed import check
from safeexec.result import Result
from safeexec.session import Session

_FLAGS = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | int(getattr(codeop, "PyCF_ALLOW_INCOMPLETE_INPUT"))  # noqa: B009  typeshed lacks it
_COMPOUND = (
    ast.If, ast.For, ast.While, ast.With, ast.Try, ast.TryStar, ast.Match, ast.FunctionDef, ast.ClassDef,
    ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith,
)  # fmt: skip


@click.command("repl", context_settings={"help_option_names": ["-h", "--help"]})
@shared
@click.pass_context
def command(ctx: click.Context, options: Options) -> int:
    """An interactive session in a sandbox: state lives from step to step, and `await` works at the top level.

    Ctrl-C interrupts the running step, Ctrl-D, exit or quit ends the session. A session that is lost (to a limit, say) is replaced by a fresh one,
    with a notice. When standard input or output is not a terminal there are no prompts, no history and no colours; statements are run one
    after the other as they are complete.

    Exits with 0, or with 1 after exit() with another code; failed steps do not count.
    """
    screen = Screen(sys.stdout, sys.stderr)
    interactive = sys.stdin is not None and sys.stdin.isatty() and screen.out.tty
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text fail as a step, not as the session
    policy = options.policy()
    tools = options.tools()
    saver = make_saver(options.save_files)
    note = note_config(ctx)
    if note is not None and screen.err.tty:
        screen.note(note)
    with Executor(options.sandbox, policy=policy) as executor:
        session = executor.session(tools)
        try:
            with _history(interactive, screen):
                if interactive:
                    _banner(screen, executor)
                for source in steps(_prompting(screen) if interactive else _reading(), screen):
                    result = _step(session, source, screen, saver is not None)
                    if saver is not None:
                        saved, trouble = saver.save(session, result)
                        for path in saved:
                            screen.note(f"saved {path}")
                        if trouble is not None:
                            exits.complain(trouble)
                    if result.error is not None and result.error.kind == "exit":
                        return exits.of_result(result)
                    if session.closed:
                        session.close()
                        session = executor.session(tools)
                        screen.note(
                            "the session was lost with that step: variables and files are gone; this is a new one"
                        )
        finally:
            session.close()
    return exits.OK


def _step(session: Session, source: str, screen: Screen, saves: bool) -> Result:
    with Interrupts(session) as interrupts:
        result = session.run(source, on_output=screen.output)
    if interrupts.happened:
        screen.interrupted()
    screen.step(result, saves=saves, as_repr=True)
    return result


def _banner(screen: Screen, executor: Executor) -> None:
    missing = [name for name, wall in executor.isolation.items() if not wall.active]
    screen.out.line(
        f"safeexec {safeexec.__version__}, sandbox {executor.sandbox}. Ctrl-C interrupts, Ctrl-D ends.", "bold"
    )
    if missing:
        screen.out.line(f"Walls that do not stand here: {', '.join(missing)} ('safeexec doctor' says why).", "yellow")


# -- statements -----------------------------------------------------------------------------------------------------------


def steps(read: Callable[[bool], str], screen: Screen) -> Iterator[str]:
    """Sources of complete steps. `read(more)` returns a line without its end, or raises EOFError, or KeyboardInterrupt to start over."""
    lines: list[str] = []
    while True:
        try:
            lines.append(read(bool(lines)))
        except KeyboardInterrupt:
            lines.clear()
            screen.interrupted()
            screen.out.line("KeyboardInterrupt")
            continue
        except EOFError:
            if lines:
                yield "\n".join(lines)
            return
        source = "\n".join(lines)
        if source.strip() in ("exit", "quit"):  # as Python's own prompt understands them since 3.13
            return
        if not source.strip():
            lines.clear()
        elif complete(source):
            lines.clear()
            yield source


def complete(source: str) -> bool:
    """Whether `source` can be run, if only to fail: as at Python's prompt, an empty line ends a block."""
    try:
        check(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sandbox says it again
            # Parsed only, never compiled or run: what is pasted here is as untrusted as any program.
            tree: Any = compile(source + "\n", "<input>", "exec", _FLAGS, dont_inherit=True)
    except SyntaxError as error:
        text = str(error.msg)
        return not (text == "incomplete input" or text.startswith("unterminated triple-quoted"))
    except (ValueError, MemoryError, RecursionError, OverflowError):
        return True
    if not tree.body or not isinstance(tree.body[-1], _COMPOUND):
        return True
    return not source.rpartition("\n")[2].strip()


def _reading() -> Callable[[bool], str]:
    def read(more: bool) -> str:
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            raise EOFError
        return line.rstrip("\n")

    return read


def _prompting(screen: Screen) -> Callable[[bool], str]:
    def read(more: bool) -> str:
        try:
            line = input("... " if more else ">>> ")
        except EOFError:
            screen.out.at_start = False
            screen.out.fresh()
            raise
        return line

    return read


@contextmanager
def _history(interactive: bool, screen: Screen) -> Iterator[None]:
    """Line editing with a history that is kept from one session to the next, for the user's eyes only."""
    if not interactive:
        yield
        return
    try:
        import readline
    except ImportError:  # a Python without it: plain lines
        yield
        return
    import platformdirs

    path = Path(platformdirs.user_state_dir("safeexec")) / "history"
    readline.parse_and_bind("tab: tab-insert")  # nothing of the host is offered for completion
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        readline.read_history_file(path)
    except OSError as error:
        screen.note(f"no history: {error}")
        yield
        return
    readline.set_history_length(2000)
    try:
        yield
    finally:
        try:
            readline.write_history_file(path)
        except OSError as error:
            screen.note(f"the history could not be kept: {error}")
