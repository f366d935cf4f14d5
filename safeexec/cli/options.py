"""The options that the commands with a sandbox share, and the policy they amount to."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click

from safeexec.ahead import DEFAULT_SANDBOX
from safeexec.cli import config
from safeexec.cli.exits import Failure
from safeexec.cli.units import MIN_MEMORY, Seconds, Size
from safeexec.errors import BackendUnavailable
from safeexec.policy import DEFAULT_IMPORTS, Limits, Policy

_ENV = "SAFEEXEC_"


class Options(NamedTuple):
    """What the user asked for."""

    sandbox: str
    timeout: float | None
    memory: int | None
    output_limit: int | None
    allow_import: tuple[str, ...]
    package: tuple[str, ...]
    file: tuple[str, ...]
    tool: tuple[str, ...]
    allow_weak: bool
    save_files: str | None
    allow_net: tuple[str, ...] = ()

    def policy(self) -> Policy:
        """The policy. Raises Failure for a file that cannot be placed, PolicyError."""
        given: dict[str, Any] = {"time": self.timeout, "memory": self.memory, "output": self.output_limit}
        limits = {name: value for name, value in given.items() if value is not None}
        if self.timeout is not None and 2 * self.timeout > (Limits().wall or 0):
            limits["wall"] = 2 * self.timeout  # the step's clock must not end it before the program's own does
        return Policy(
            limits=Limits(**limits),
            imports=(*DEFAULT_IMPORTS, *self.allow_import) if self.allow_import else None,
            packages=self.package,
            network=self.allow_net,
            files=files(self.file),
            require=() if self.allow_weak else None,
        )

    def tools(self) -> list[Any]:
        """The host functions. Imports their modules. Raises Failure, ToolError."""
        found = [load_tool(text) for text in self.tool]
        if found:
            from safeexec.tools import collect

            collect(found)  # what is wrong with one is told here and now, not to a server's first client
        return found


def _option(name: str, *, env: bool = True, **settings: Any) -> Callable[[Any], Any]:
    variable = _ENV + name.upper().replace("-", "_") if env else None
    return click.option(f"--{name}", envvar=variable, show_envvar=env, **settings)


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options to a command, which gets them as one Options in `options`."""

    def gathered(**values: Any) -> Any:
        fields = {name: values.pop(name) for name in Options._fields}
        try:
            return command(options=Options(**fields), **values)
        except BackendUnavailable as error:
            source = _source_of_sandbox(click.get_current_context())
            if source is None:
                raise
            raise BackendUnavailable(f"{error} (sandbox {fields['sandbox']!r} is chosen by {source})") from error

    gathered.__name__, gathered.__doc__ = command.__name__, command.__doc__
    gathered.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


def serving(way: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As :func:`shared`, for a command whose clients read the files themselves, by `way`: it refuses ``--save-files``, and so does not offer it."""

    def added(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def refusing(*, options: Options, **values: Any) -> Any:
            if options.save_files:
                raise Failure(f"--save-files is for run and repl; clients read files {way}")
            return command(options=options, **values)

        gathered = shared(refusing)
        for option in gathered.__click_params__:  # type: ignore[attr-defined]
            option.hidden = option.hidden or option.name == "save_files"
        return gathered

    return added


_OPTIONS = (
    _option("sandbox", metavar="NAME", default=DEFAULT_SANDBOX, show_default=True, help="Which sandbox."),
    _option(
        "timeout",
        type=Seconds(),
        metavar="S",
        help="Seconds a step may run; its tools' time is not counted. [default: 5]",
    ),
    _option(
        "memory", type=Size(MIN_MEMORY), metavar="SIZE", help="Memory of the sandbox, such as 512M. [default: 256M]"
    ),
    _option(
        "output-limit",
        type=Size(),
        metavar="SIZE",
        help="How much of stdout, and of stderr, is kept. [default: 1000000]",
    ),
    _option(
        "allow-import", multiple=True, metavar="M", help="One more module that may be imported; M.* for all below it."
    ),
    _option("package", multiple=True, metavar="P", help="A package to be present in the sandbox."),
    _option(
        "allow-net",
        multiple=True,
        metavar="HOST",
        help="A host the program may reach by HTTP, through this machine: api.example.com, *.example.com:443, 127.0.0.1:8080; * for every public one.",
    ),
    _option(
        "file",
        multiple=True,
        metavar="PATH",
        help="A file to place in the sandbox's working directory.",
        type=click.Path(),
    ),
    _option(
        "tool",
        multiple=True,
        metavar="MODULE:FUNCTION",
        help="A host function the program may call. Imports MODULE here.",
    ),
    _option("allow-weak", is_flag=True, help="Run even where the sandbox's minimum of walls does not stand."),
    _option(
        "save-files", metavar="DIR", help="Save the files and pictures that were made below DIR.", type=click.Path()
    ),
    click.option(
        "--config",
        metavar="FILE",
        envvar=_ENV + "CONFIG",
        show_envvar=True,
        is_eager=True,
        expose_value=False,
        callback=config.load,
        help="Settings to trust. Without it safeexec.toml, or [tool.safeexec] of pyproject.toml, in the current directory may set "
        "timeout, memory, output-limit and sandbox, within bounds; 'none' reads no file.",
    ),
)


def _source_of_sandbox(ctx: click.Context) -> str | None:
    """Where the sandbox's name comes from, if the user did not just type it."""
    source = ctx.get_parameter_source("sandbox")
    if source is click.core.ParameterSource.ENVIRONMENT:
        return f"the environment variable {_ENV}SANDBOX"
    return ctx.meta["safeexec.settings"] if source is click.core.ParameterSource.DEFAULT_MAP else None


def note_config(ctx: click.Context) -> str | None:
    """What to tell the user when a file that was merely found chose the sandbox."""
    if ctx.get_parameter_source("sandbox") is click.core.ParameterSource.DEFAULT_MAP and "safeexec.config" in ctx.meta:
        return f"sandbox {ctx.params['sandbox']} is chosen by {ctx.meta['safeexec.config']}"
    return None


def files(paths: Sequence[str]) -> dict[str, str]:
    """What ``--file`` names, by the names the sandbox will have. Raises Failure."""
    placed: dict[str, str] = {}
    for path in paths:
        name = os.path.basename(path)
        if not os.path.isfile(path):
            raise Failure(f"--file: {path} {'is not a regular file' if os.path.exists(path) else 'does not exist'}")
        if not os.access(path, os.R_OK):
            raise Failure(f"--file: {path} cannot be read: permission denied")
        if name in placed:
            raise Failure(f"--file: {placed[name]} and {path} would both be {name!r} in the sandbox; rename one")
        placed[name] = path
    return placed


def _installed(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def load_tool(text: str) -> Any:
    """What ``--tool MODULE:NAME`` names; imports the module. Raises Failure."""
    module, _, path = text.partition(":")
    if not path or not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise Failure(f"--tool: {text!r} is not of the form module:function, such as mytools:search")
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise Failure(
            "--tool: the current directory is gone, and modules are looked for there; change to another"
        ) from None
    # Only for a module that is not installed, and at the end: nothing here can stand in for an installed package, nor for one that an installed module would
    # use if it were there. A checkout may hold files of any name.
    if here not in sys.path and not _installed(module.partition(".")[0]):
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Failure(f"--tool: {error}; it is looked for among the installed packages and in {here}") from error
    except (Exception, SystemExit) as error:  # whatever the user's own module raises while it is imported
        raise Failure(f"--tool: importing {module!r} failed: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Failure(f"--tool: there is no {part!r} in {text!r}") from None
    return found
