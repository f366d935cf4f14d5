"""``safeexec setup``: get a sandbox ready ahead of its first use.

What there is to prepare is the sandbox's own business: each gives a click command in the entry-point group ``safeexec.setup``.
"""

from __future__ import annotations

import click

from safeexec.cli import exits
from safeexec.registry import entry_points

SETUP = "safeexec.setup"


class Sandboxes(click.Group):
    """The sandboxes that have something to prepare; only the one that was named is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(entry_points(SETUP))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = entry_points(SETUP).get(cmd_name)
        if point is None:
            return None
        try:
            found = point.load()
        except ImportError as error:
            if ctx.resilient_parsing:
                return None  # the shell asks for completions
            message = f"sandbox {cmd_name!r} cannot be loaded: {error}; try: pip install 'safeexec[{cmd_name}]'"
            raise exits.Failure(message, exits.UNAVAILABLE) from error
        if not isinstance(found, click.Command):
            if ctx.resilient_parsing:
                return None
            raise exits.Failure(f"{point.value} is not a click command", exits.UNAVAILABLE)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            try:
                found = self.get_command(ctx, name)
            except exits.Failure as failure:
                # Its extra is not installed, as a rule: nothing is the matter with the others.
                rows.append((name, f"Not here: {failure.format_message()}."))
            else:
                rows.append((name, found.get_short_help_str(200) if found is not None else ""))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    "setup", cls=Sandboxes, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Get a sandbox ready ahead of its first use."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(exits.USAGE)
