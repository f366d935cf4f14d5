"""The ``safeexec`` command, also as ``python -m safeexec``.

``python -m`` puts the current directory before the installed packages, as it always does; in a directory that is not trusted, use the command.
"""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run the command line and return its exit code."""
    discard = None
    try:
        from safeexec.cli import ahead

        discard = ahead.start(sys.argv[1:])
        from safeexec.cli.main import main as cli

        return cli()
    except KeyboardInterrupt:  # while it was still being imported
        return 130
    finally:
        if discard is not None:
            discard()
        gc.freeze()  # the interpreter's last collection would look at every module once more: a tenth of a short run's time


if __name__ == "__main__":
    sys.exit(main())
