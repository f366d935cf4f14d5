"""What the longer commands print with rich on."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """rich's, but for what happens when whoever read the output went away: that is the caller's business, and no reason to leave the interpreter."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled; rich itself would raise SystemExit."""
        raise
