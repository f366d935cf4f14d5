"""Programs of strangers, parsed on the host."""

from __future__ import annotations

import ast
import re

_GAP = r"(?:[ \t\f]|\\\r?\n|\\\r)*+"
_PART = r"[\w\x80-\U0010ffff]++"
_CHAIN = re.compile(rf"(?<![\w\x80-\U0010ffff]){_PART}(?:{_GAP}\.{_GAP}{_PART}){{100}}")


def check(source: str) -> None:
    """Raise ValueError for what Python's parser takes the square of its length for, in memory.

    Of ``import a.b.c`` it keeps each beginning until it is done: a hundred kilobytes of such a name are two and a half gigabytes, and a megabyte more than
    any machine has. Nothing else that was tried, of some thirty constructs, takes more than a thousand times its length.
    """
    if _CHAIN.search(source):
        raise ValueError("a name with more than a hundred dots")


def parse(source: str) -> ast.Module:
    """As ``ast.parse``. Raises SyntaxError, ValueError, RecursionError, MemoryError."""
    check(source)
    return ast.parse(source)
