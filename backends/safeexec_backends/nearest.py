"""What a program that imported what it may not is told of what it may. Also shipped as text into containers; CPython 3.9 and later."""

from __future__ import annotations

from collections.abc import Sequence

_ALL = 12
"""So many names are shown whole."""
_CLOSE = 6
_LONGEST = 100
"""Characters of the program's own name that are compared: the time this takes grows with them."""


def nearest(name: str, patterns: Sequence[str]) -> str:
    """The names that a policy allows: all of a few, else those most like `name`, how many there are, and where they are listed."""
    if len(patterns) <= _ALL:
        return ", ".join(patterns) or "nothing"
    import difflib  # 2 ms that only who is refused something waits for

    asked = name[:_LONGEST]
    plain = {pattern[:-2] if pattern.endswith(".*") else pattern: pattern for pattern in patterns}
    family = [other for other in plain if other.partition(".")[0] == asked.partition(".")[0]]
    alike = difflib.get_close_matches(asked, plain, _CLOSE, 0.7)
    shown = [plain[other] for other in dict.fromkeys(family + alike)][:_CLOSE]
    rest = "{} {} (Policy.imports; by default safeexec.DEFAULT_IMPORTS)".format(
        len(patterns) - len(shown), "more" if shown else "modules"
    )
    return ", ".join(shown) + " and " + rest if shown else rest
